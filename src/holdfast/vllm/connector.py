"""The KV connector that vLLM loads: pages go into its cache behind the placeholder ids that name them.

Written against vLLM 0.32's `KVConnectorBase_V1`, which vLLM calls experimental. Keys and values are written by each
attention layer's own `do_kv_cache_update`, so that no cache layout is known here. What cannot be placed fails its own
request (vLLM's `kv_load_failure_policy` is `fail` by default) and the reason is in the log; it is never computed from
the placeholders as if they were words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata
from vllm.logger import init_logger
from vllm.model_executor.models.utils import extract_layer_index

from holdfast.errors import BadContext, BadOption
from holdfast.vllm.files import Header, Pages, handle_of, placeholders, read, read_header

logger = init_logger(__name__)
PLAIN = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Load:
    """Pages, or a part of them, to be placed before the next step."""

    handle: str
    first: int
    """The first slot that is missing in the cache."""
    blocks: tuple[int, ...]
    """Blocks of the cache for the slots from `first` on."""
    sound: bool = True
    """True if the prompt's placeholders stand for pages; else the load fails."""


@dataclass
class Loads(KVConnectorMetadata):  # type: ignore[misc]
    """The loads of one step, which the scheduler's half sends to the worker's half."""

    loads: list[Load] = field(default_factory=list)


class HoldfastConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Both halves. `kv_connector_extra_config` names the `folder` of the pages and, optionally, the `model_digest` that
    they must have been made with."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        extra = self._kv_transfer_config.get_from_extra_config
        if not (folder := extra("folder", "")):
            raise BadOption('kv_connector_extra_config must say where the pages are: {"folder": "…"}')
        self.folder, self.model_digest = Path(folder), str(extra("model_digest", ""))
        self.block = int(vllm_config.cache_config.block_size)
        _check(vllm_config, kv_cache_config)
        self._planned: list[Load] = []
        self._failed: set[int] = set()

    def on_new_request(self, request: Any) -> None:
        """Log-probabilities of a prompt make vLLM compute all of it; of placeholders there are none to compute.

        Placeholders that stand for nothing must not find a part of themselves in vLLM's prefix cache.
        """
        ids = request.prompt_token_ids or ()
        handle = handle_of(ids)
        if handle is None or request.sampling_params is None:
            return
        request.sampling_params.prompt_logprobs = None
        request.skip_reading_prefix_cache = self._slots(handle, ids) is None

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Returns the number of tokens of the prompt that the pages replace beyond vLLM's own prefix cache.

        Where they stand for nothing, it is all whole blocks of the prompt: the load is tried, and fails the request.
        """
        ids = request.prompt_token_ids or ()
        handle = handle_of(ids)
        if handle is None:
            return 0, False
        request.skip_reading_prefix_cache = False  # which would take back what is answered here
        return max(0, self._end(handle, ids) - num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plans a load into the blocks of the request."""
        if num_external_tokens <= 0:
            return
        ids = request.prompt_token_ids
        handle = handle_of(ids)
        if handle is None:
            return
        n = self._end(handle, ids)
        first, own = n - num_external_tokens, blocks.get_block_ids()[0]
        where = tuple(own[first // self.block : n // self.block])
        self._planned.append(Load(handle, first, where, self._slots(handle, ids) is not None))

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        """Returns the loads that were planned since the last step."""
        planned, self._planned = self._planned, []
        return Loads(planned)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Places the pages that the step needs; reports the blocks of those that fail, which fails their request."""
        loads = self._get_connector_metadata().loads
        layers = attention_layers(forward_context) if loads else {}
        for load in loads:
            if not load.sound:  # the scheduler's half said why
                self._failed.update(load.blocks)
                continue
            try:
                pages = read(self.folder, load.handle)
                self._check_header(pages.header)
                place(pages, load, layers, self.block)
            except BadContext as error:
                logger.error("a context cannot be served: %s", error)
                self._failed.update(load.blocks)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Returns the blocks of failed loads, each once."""
        failed, self._failed = self._failed, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are done when `start_load_kv` returns."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Does nothing: the connector stores no layer."""

    def wait_for_save(self) -> None:
        """Does nothing: the connector stores no layer."""

    def _slots(self, handle: str, ids: Any) -> int | None:
        """Returns the slots that the prompt's placeholders stand for; None, and a line in the log, for none."""
        try:
            n = self._check_header(read_header(self.folder, handle)).slots
        except BadContext as error:
            logger.error("a context cannot be served: %s", error)
            return None
        if n % self.block == 0 and n < len(ids) and tuple(ids[:n]) == placeholders(handle, n):
            return n
        logger.error(
            "a context cannot be served: pages %s need %d placeholders in blocks of %d and a token behind them, the "
            "prompt has %d ids", handle, n, self.block, len(ids)
        )  # fmt: skip
        return None

    def _end(self, handle: str, ids: Any) -> int:
        """Returns the end of the pages in the prompt."""
        n = self._slots(handle, ids)
        return (len(ids) - 1) // self.block * self.block if n is None else n

    def _check_header(self, header: Header) -> Header:
        if self.model_digest and header.model_digest != self.model_digest:
            raise BadContext(f"made with the model {header.model_digest}, this server runs {self.model_digest}")
        return header


def attention_layers(forward_context: Any) -> dict[int, Any]:
    """Returns vLLM's attention layers by their number in the model."""
    held = forward_context.no_compile_layers
    return {
        extract_layer_index(name): layer
        for name, layer in held.items()
        if hasattr(getattr(layer, "impl", None), "do_kv_cache_update")
    }


def place(pages: Pages, load: Load, layers: dict[int, Any], block: int) -> None:
    """Writes the slots from `load.first` on into `load.blocks`. Raises BadContext if pages and model differ."""
    header = pages.header
    count = len(load.blocks) * block
    own = {(int(layer.num_kv_heads), int(layer.head_size)) for layer in layers.values()}
    if sorted(layers) != list(range(header.layers)) or own != {(header.kv_heads, header.head_dim)}:
        raise BadContext(
            f"pages of {header.layers} layers, {header.kv_heads} heads of {header.head_dim} do not fit a model of "
            f"{len(layers)} layers with {sorted(own)}"
        )
    if load.first + count != header.slots:
        raise BadContext(f"pages of {header.slots} slots do not fill {len(load.blocks)} blocks from {load.first}")
    offsets = torch.arange(block)
    slots = (torch.tensor(load.blocks)[:, None] * block + offsets).flatten()
    for index, layer in layers.items():
        cache = layer.kv_cache
        key, value = (x[index][load.first :].to(cache.device, cache.dtype) for x in (pages.keys, pages.values))
        layer.impl.do_kv_cache_update(layer, key, value, cache, slots.to(cache.device))


def _check(vllm_config: Any, kv_cache_config: Any) -> None:
    parallel = vllm_config.parallel_config
    if parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1:
        raise BadOption(
            "pages hold all heads and layers, and this server splits them over several workers; run whole copies of "
            "the model (data parallel)"
        )
    if (kind := vllm_config.cache_config.cache_dtype) not in PLAIN:
        raise BadOption(f"the cache holds {kind}, and pages hold plain numbers; use --kv-cache-dtype auto")
    if (groups := len(kv_cache_config.kv_cache_groups)) > 1:
        raise BadOption(f"the model's layers live in {groups} groups of blocks; pages are for one group")
    if (policy := vllm_config.kv_transfer_config.kv_load_failure_policy) != "fail":
        raise BadOption(f"kv_load_failure_policy is {policy!r}: placeholders would be read as words; use 'fail'")
