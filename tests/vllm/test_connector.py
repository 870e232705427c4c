"""Holdfast's connector inside vLLM itself, on a tiny model; see benchmarks/vllm for an environment that has it."""

from __future__ import annotations

import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tolerance import PASS, tolerance

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("vllm.config", reason="vLLM is not installed in this environment")
    from vllm.config import KVTransferConfig

    from holdfast.vllm.connector import HoldfastConnector
    from vllm import LLM, SamplingParams

from conftest import Pair, byte_tokenizer
from holdfast.context.segments import CompactContext, token_segment
from holdfast.context.surgery import keep_pairs
from holdfast.errors import BadOption
from holdfast.model.load import adopt_model
from holdfast.vllm.files import placeholders, write
from holdfast.vllm.pages import Options, to_pages

pytestmark = pytest.mark.filterwarnings("ignore")
BLOCK = 32
ASKED = [9, 12, 40, 41, 5]


def connector(folder: Any, **extra: Any) -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="HoldfastConnector",
        kv_connector_module_path="holdfast.vllm",
        kv_role="kv_both",
        kv_connector_extra_config={"folder": str(folder), **extra},
    )


@pytest.fixture(scope="module")
def small(tiny_plain) -> Pair:
    """A tiny model whose heads are as wide as vLLM's CPU kernel wants."""
    plain = tiny_plain("llama", head_dim=32)
    return Pair(plain, adopt_model(plain, byte_tokenizer(), name="small"))


@pytest.fixture(scope="module")
def served(small, tmp_path_factory):
    """vLLM over the same weights, and the folder of its pages."""
    folder = tmp_path_factory.mktemp("served")
    small.plain.save_pretrained(folder / "model")
    llm = LLM(
        model=str(folder / "model"),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK,
        max_model_len=1024,
        seed=0,
        kv_transfer_config=connector(folder / "pages", model_digest=small.model.digest),
    )
    return llm, folder / "pages"


def context(pair: Pair, ids: Any, seed: int = 0) -> CompactContext:
    """Verbatim, compacted to 40 slots a head, verbatim."""
    text = ids(200, seed=seed)
    past = pair.engine.open(CompactContext((token_segment(text[:30], 0),), 30))
    _, states = pair.engine.capture(past, text[30:])
    masks = []
    for keys in states.keys:
        mask = torch.zeros(keys.shape[:2], dtype=torch.bool)
        mask[0, ::4] = mask[1, 1::4] = True
        masks.append(mask[:, :170])
    masks = [m & (m.cumsum(1) <= 40) for m in masks]
    segments = (token_segment(text[:30], 0), keep_pairs(states, masks), token_segment(ids(40, seed=seed + 1), 200))
    return CompactContext(segments, 240, model_digest=pair.model.digest)


def asked(llm: LLM, *prompts: Any) -> list[Any]:
    how = SamplingParams(max_tokens=1, temperature=0, logprobs=20, detokenize=False)
    return [o.outputs[0] for o in llm.generate([{"prompt_token_ids": list(p)} for p in prompts], how, use_tqdm=False)]


NEAR = tolerance(torch.ones(()), PASS)


def apart(pair: Pair, made: CompactContext, output: Any) -> float:
    """The largest difference of a log-probability among the 20 likeliest."""
    here = pair.engine.next_logits(pair.engine.open(made), ASKED)[-1].log_softmax(-1)
    return max(abs(float(here[i]) - told.logprob) for i, told in output.logprobs[0].items())


def stored(served: Any, pair: Pair, made: CompactContext) -> tuple[int, ...]:
    pages = to_pages(pair.model, made, Options(block_size=BLOCK))
    write(pages, served[1])
    return pages.prompt


def test_answers_over_pages_equal_the_local_ones(served, small, ids):
    made = context(small, ids)
    prompt = stored(served, small, made)
    assert len(prompt) == 110
    (answer,) = asked(served[0], (*prompt, *ASKED))
    assert apart(small, made, answer) < NEAR


def test_contexts_and_plain_prompts_share_a_batch(served, small, ids):
    a, b = context(small, ids, 10), context(small, ids, 20)
    words = ids(90, seed=3)
    plain = CompactContext((token_segment(words, 0),), 90)
    prompts = [(*stored(served, small, made), *ASKED) for made in (a, b)]
    answers = asked(served[0], prompts[0], (*words.tolist(), *ASKED), prompts[1], prompts[0])
    for made, answer in zip((a, plain, b, a), answers, strict=True):
        assert apart(small, made, answer) < NEAR


def test_a_second_question_finds_the_pages_in_vllms_own_cache(served, small, ids):
    made = context(small, ids, 30)
    prompt = stored(served, small, made)
    for _ in range(2):
        (answer,) = asked(served[0], (*prompt, *ASKED))
        assert apart(small, made, answer) < NEAR
    (served[1] / f"{bytes(prompt[8:24]).hex()}.pages").rename(served[1] / "gone")
    (answer,) = asked(served[0], (*prompt, *ASKED))
    assert answer.finish_reason == "error"  # a context that was taken away is not served from a cache


BROKEN = {
    "unknown pages": lambda prompt: (*placeholders("ab" * 16, 96), *ASKED),
    "placeholders cut short": lambda prompt: (*prompt[:64], *ASKED),
    "words among placeholders": lambda prompt: (*prompt[:50], 77, *prompt[51:], *ASKED),
    "no token behind": lambda prompt: prompt[:96],
}


@pytest.mark.parametrize("case", BROKEN)
def test_placeholders_that_stand_for_nothing_fail_alone(served, small, ids, case):
    made = context(small, ids, 40)
    prompt = stored(served, small, made)
    good, bad, again = asked(served[0], (*prompt, *ASKED), BROKEN[case](prompt), (*prompt, *ASKED))
    assert bad.finish_reason == "error"
    assert apart(small, made, good) < NEAR
    assert apart(small, made, again) < NEAR


def test_a_damaged_file_fails_its_request(served, small, ids):
    prompt = stored(served, small, context(small, ids, 50))
    path = served[1] / f"{bytes(prompt[8:24]).hex()}.pages"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (answer,) = asked(served[0], (*prompt, *ASKED))
    assert answer.finish_reason == "error"


def test_log_probabilities_of_placeholders_are_not_made_up(served, small, ids):
    made = context(small, ids, 60)
    prompt = stored(served, small, made)
    how = SamplingParams(max_tokens=1, temperature=0, logprobs=20, prompt_logprobs=0, detokenize=False)
    (output,) = served[0].generate([{"prompt_token_ids": [*prompt, *ASKED]}], how, use_tqdm=False)
    assert not any(output.prompt_logprobs or ())
    assert apart(small, made, output.outputs[0]) < NEAR


def config(folder: str = "pages", *, tensor: int = 1, policy: str = "fail", held: str = "auto") -> Any:
    transfer = connector(folder)
    transfer.kv_load_failure_policy = policy
    return SimpleNamespace(
        kv_transfer_config=transfer,
        cache_config=SimpleNamespace(block_size=BLOCK, cache_dtype=held),
        parallel_config=SimpleNamespace(tensor_parallel_size=tensor, pipeline_parallel_size=1),
    )


@pytest.mark.parametrize(
    ("setting", "groups", "match"),
    [
        (config(""), 1, "folder"),
        (config(tensor=2), 1, "several workers"),
        (config(held="fp8"), 1, "fp8"),
        (config(), 2, "2 groups"),
        (config(policy="recompute"), 1, "recompute"),
    ],
)
def test_a_server_that_pages_do_not_fit_is_refused_at_its_start(setting, groups, match):
    with pytest.raises(BadOption, match=match):
        HoldfastConnector(setting, None, SimpleNamespace(kv_cache_groups=[None] * groups))
