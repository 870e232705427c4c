"""Writes tests/methods/kvpress_scores.json: what kvpress's presses score on two tiny models with fixed weights."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from kvpress import (
    ExpectedAttentionPress,
    KeyDiffPress,
    KnormPress,
    ObservedAttentionPress,
    SnapKVPress,
    StreamingLLMPress,
)
from reading import Recorder, cache_position
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

OUT = Path(__file__).parents[2] / "tests" / "methods" / "kvpress_scores.json"
TOKENS, VOCAB, DIGITS = 48, 96, 6
SEEDS = {"llama": 11, "qwen3": 12}
IDS_SEED = 10
CONFIG: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": VOCAB,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
PRESSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "snapkv": (SnapKVPress, {"window_size": 8, "kernel_size": 5}),
    "expected_attention": (ExpectedAttentionPress, {"n_future_positions": 512, "n_sink": 4, "epsilon": 0.0}),
    "expected_attention_mean": (
        ExpectedAttentionPress,
        {"n_future_positions": 64, "n_sink": 4, "use_covariance": False, "use_vnorm": False},
    ),
    "expected_attention_epsilon": (ExpectedAttentionPress, {"n_future_positions": 512, "n_sink": 4, "epsilon": 0.01}),
    "keydiff": (KeyDiffPress, {}),
    "knorm": (KnormPress, {}),
    "streaming_llm": (StreamingLLMPress, {"compression_ratio": 0.75, "n_sink": 4}),
    "observed_attention": (ObservedAttentionPress, {}),
}
ABOUT = {
    "what": "Scores of kvpress's presses for the KV pairs of one prompt. By benchmarks/kvpress/scores.py.",
    "versions": "what the scores were made with",
    "ids": "the prompt, token ids at positions 0, 1, ...; batch 1, float32, one prefill into an empty cache",
    "models": "by transformers model_type",
    "models.*.config": "keyword arguments of AutoConfig.for_model(model_type, ...)",
    "models.*.seed": (
        "weights: g = torch.Generator().manual_seed(seed); for each (name, p) of sorted(model.named_parameters()): "
        "p = 0.6 + 0.8 * torch.rand(p.shape, generator=g) where 'norm' is in the name, else "
        "0.2 * torch.randn(p.shape, generator=g)"
    ),
    "models.*.logits": "the first 8 logits after the last token, to see that the model was rebuilt",
    "models.*.scores": "press -> [layer][kv head][token], 6 significant digits",
    "presses": (
        "press -> kvpress class, its options (others at kvpress's defaults) and attention implementation. "
        "compression_ratio, the fraction removed, enters the scores of StreamingLLM alone. SnapKV's window and "
        "ExpectedAttention's sinks carry the layer's largest score plus 1"
    ),
}


def tiny(kind: str) -> Any:
    """Builds the model that `about` describes."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CONFIG)).float().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(SEEDS[kind])
    for name, weight in sorted(model.named_parameters()):
        norm = "norm" in name
        drawn = (torch.rand if norm else torch.randn)(weight.shape, generator=generator)
        weight.copy_(0.6 + 0.8 * drawn if norm else 0.2 * drawn)
    return model


@torch.no_grad()
def score_tokens(model: Any, press: Any, ids: Tensor, implementation: str) -> list[Any]:
    """Returns the scores as `[layer][kv head][token]`."""
    recorder = Recorder(press)
    model.set_attn_implementation(implementation)
    hooks = [
        layer.self_attn.register_forward_pre_hook(cache_position, with_kwargs=True) for layer in model.model.layers
    ]
    with recorder(model):
        model.model(input_ids=ids[None], past_key_values=DynamicCache())
    for hook in hooks:
        hook.remove()
    return [round_digits(recorder.scores[layer]) for layer in range(len(model.model.layers))]


def round_digits(x: Tensor) -> Any:
    """Returns nested lists of numbers with few digits."""
    return [round_digits(row) for row in x] if x.ndim else float(f"{float(x):.{DIGITS}g}")


def main() -> None:
    ids = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(IDS_SEED))
    how = {name: "eager" if cls is ObservedAttentionPress else "sdpa" for name, (cls, _) in PRESSES.items()}
    models = {}
    for kind, seed in SEEDS.items():
        model = tiny(kind)
        scores = {name: score_tokens(model, cls(**options), ids, how[name]) for name, (cls, options) in PRESSES.items()}
        with torch.no_grad():
            logits = round_digits(model(input_ids=ids[None]).logits[0, -1, :8])
        models[kind] = {"config": CONFIG, "seed": seed, "logits": logits, "scores": scores}
    fixture = {
        "about": ABOUT,
        "versions": {name: version(name) for name in ("kvpress", "transformers", "torch")},
        "ids": ids.tolist(),
        "presses": {
            name: {"class": cls.__name__, "options": options, "attention": how[name]}
            for name, (cls, options) in PRESSES.items()
        },
        "models": models,
    }
    OUT.write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
    print(f"{OUT.stat().st_size} bytes written to {OUT.name}")


if __name__ == "__main__":
    main()
