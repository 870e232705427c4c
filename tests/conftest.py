"""What every test may ask for: tiny random models built in this process, and a byte tokenizer that is real."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from holdfast.engine.local import LocalEngine
from holdfast.model.load import Model, adopt_model
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs behind it; Ctrl-C is tested
    signal.signal(signal.SIGINT, signal.default_int_handler)
ALWAYS: dict[str, Any] = {"deadline": None, "database": None}
hypothesis.settings.register_profile("quick", **ALWAYS, max_examples=20, derandomize=True)
hypothesis.settings.register_profile("thorough", **ALWAYS, max_examples=500)  # `make test-all` asks for it
hypothesis.settings.load_profile("quick")

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "phi3", "phi3-partial", "gemma3_text")
VOCAB = 320
WINDOW = 8
WORDS = ("function", "parameter", "read", "file", "tool", "response")  # keeps sessions short
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "initializer_range": 0.25,  # peaked attention and decided logits, so that a wrong slot is seen
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class Pair(NamedTuple):
    """The same weights twice: as transformers runs them and as Holdfast does."""

    plain: Any
    model: Model

    @property
    def engine(self) -> LocalEngine:
        return LocalEngine(self.model)


def chain(word: str) -> list[tuple[str, str]]:
    """The merges that build `word` from left to right."""
    return [(word[:at], word[at]) for at in range(1, len(word))]


def byte_tokenizer(template: str | None = CHATML, *, trim_offsets: bool = False) -> Any:
    """A byte-level BPE with a handful of merges, so that tokens span characters and lines."""
    from transformers import PreTrainedTokenizerFast

    merges = [step for word in WORDS for step in chain(word)]
    merges += [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ċ", "Ċ"), ("e", "r"), ("o", "r"), ("Ġ", "Ġ")]
    merges += [("a", "n"), ("<", "/"), ("r", "e"), ("s", "t")]
    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys(a + b for a, b in merges)]
    inner = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets)
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = template
    return made


def tiny_config(family: str, **changes: Any) -> Any:
    """The configuration of a tiny model of `family`."""
    import transformers as t

    shape = SHAPE | changes
    if family == "phi3-partial":
        rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        return t.Phi3Config(**({"rope_parameters": rope} | shape))
    if family == "phi3":
        return t.Phi3Config(**shape)
    if family == "mistral":
        return t.MistralConfig(**({"head_dim": 16, "sliding_window": None} | shape))
    if family == "gemma3_text":
        turns = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
        own = {"num_key_value_heads": 1, "num_hidden_layers": 4, "layer_types": turns, "sliding_window": WINDOW}
        return t.Gemma3TextConfig(**(shape | {"head_dim": 16, "query_pre_attn_scalar": 16} | own | changes))
    kinds: dict[str, Any] = {"llama": t.LlamaConfig, "qwen2": t.Qwen2Config, "qwen3": t.Qwen3Config}
    return kinds[family](**({"head_dim": 16} | shape))


def plain_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A tiny random model as transformers runs it; the same arguments give the same weights in any process."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(tiny_config(family, **changes), attn_implementation="sdpa")
        for name, weight in hf.named_parameters():
            if "norm" in name:  # random gains, and q/k-norm strong enough for peaked attention
                torch.nn.init.uniform_(weight, 0.6, 1.4)
                weight.data *= 2.5 if "q_norm" in name or "k_norm" in name else 1.0
    hf.generation_config.eos_token_id = 2
    hf.generation_config.pad_token_id = 0
    return hf.to(dtype).eval().requires_grad_(False)


@cache
def build_pair(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Pair:
    plain = plain_model(family, seed, dtype)
    return Pair(plain, adopt_model(copy.deepcopy(plain), byte_tokenizer(), name=f"tiny-{family}"))


def small_session() -> Transcript:
    """A legal session with every kind of turn, about 500 byte tokens."""

    def call(n: int, path: str) -> ToolCall:
        return ToolCall(f"c{n}", "read_file", f'{{"path": "{path}"}}')

    return Transcript(
        (
            Turn(Role.SYSTEM, "You edit code."),
            Turn(Role.USER, "Find the port of the server."),
            Turn(Role.ASSISTANT, "Reading.", reasoning="The port is in a file.", calls=(call(1, "app.py"),)),
            Turn(Role.TOOL, "import os\nPORT = 8123\nHOST = 'db-7'\n", call_id="c1"),
            Turn(Role.ASSISTANT, "Two files.", calls=(call(2, "a.py"), call(3, "b.py"))),
            Turn(Role.TOOL, "def main(): start(PORT)", call_id="c2"),
            Turn(Role.TOOL, "error: no such file", call_id="c3", is_error=True),
            Turn(Role.USER, "And the host?"),
            Turn(Role.ASSISTANT, "", calls=(call(4, "hosts.txt"),)),
            Turn(Role.TOOL, "db-7 10.0.0.9\ndb-8 10.0.0.10", call_id="c4"),
            Turn(Role.ASSISTANT, "The port is 8123 on db-7."),
        )
    )


@pytest.fixture(autouse=True)
def _hang_ups_are_errors() -> Iterator[None]:
    """The command line, run in this process by a test, lets a broken pipe end the process; the next test is none."""
    yield
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Pair]:
    """`tiny(family, seed=0, dtype=torch.float32)`: a tiny random model, plain and adopted."""
    return build_pair


@pytest.fixture(scope="session")
def tiny_plain() -> Callable[..., Any]:
    """`tiny_plain(family, seed=0, **config)`: a fresh tiny model that nothing else uses."""
    return plain_model


@pytest.fixture(scope="session")
def tokenizer_with() -> Callable[..., Any]:
    """`tokenizer_with(template)`: the byte tokenizer with another chat template."""
    return byte_tokenizer


@pytest.fixture(scope="session")
def session() -> Transcript:
    return small_session()


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Every family in turn."""
    return build_pair(request.param)


@pytest.fixture(scope="session", params=("llama", "gemma3_text"))
def two(request: pytest.FixtureRequest) -> Pair:
    """A model with full attention only, and one with sliding layers."""
    return build_pair(request.param)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the tiny llama and its tokenizer, for commands and `holdfast.load`."""
    folder = tmp_path_factory.mktemp("model")
    plain_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def ids() -> Callable[..., torch.Tensor]:
    """`ids(n, seed=0)`: random ordinary token ids, never an end of turn."""

    def make(n: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(3, 260, (n,), generator=torch.Generator().manual_seed(seed))

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take minutes begin first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
