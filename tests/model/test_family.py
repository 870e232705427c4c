"""What is known of each architecture, and what is refused with its reason."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from holdfast.errors import UnsupportedModel
from holdfast.model.family import inspect_model
from holdfast.model.load import adopt_model
from tolerance import PASS, close


def test_the_shape_of_every_family_is_read(pair):
    family = pair.model.family
    one_kv_head = pair.plain.config.model_type == "gemma3_text"
    assert (family.heads, family.kv_heads, family.head_dim, family.d_model) == (4, 1 if one_kv_head else 2, 16, 64)
    assert len(family.layers) == pair.plain.config.num_hidden_layers


def test_full_layers_are_the_ones_that_may_be_compacted(tiny):
    assert tiny("llama").model.family.full == (0, 1, 2)
    gemma = tiny("gemma3_text").model.family
    assert gemma.full == (1, 3)
    assert [layer.window for layer in gemma.layers] == [8, None, 8, None]


def test_sliding_and_full_layers_have_their_own_rotation(tiny):
    layers = tiny("gemma3_text").model.family.layers
    assert not torch.equal(layers[0].rope.inv_freq, layers[1].rope.inv_freq)


def test_a_partial_rotation_covers_its_share_of_the_head(tiny):
    assert len(tiny("phi3").model.family.layers[0].rope.inv_freq) == 8
    assert len(tiny("phi3-partial").model.family.layers[0].rope.inv_freq) == 4


def test_a_yarn_models_factor_is_read(tiny_plain):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    layer = inspect_model(tiny_plain("llama", rope_parameters=scaling, max_position_embeddings=256)).layers[0]
    assert layer.rope.scaling == pytest.approx(0.1 * math.log(4) + 1)  # yarn's rule


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 10000.0,
        },
    ],
    ids=lambda s: s["rope_type"],
)
def test_a_model_with_scaled_frequencies_captures_and_reopens_as_it_is(tiny_plain, tokenizer_with, ids, scaling):
    from holdfast.context.segments import CompactContext
    from holdfast.context.surgery import keep_pairs
    from holdfast.engine.kv_context import KVContext
    from holdfast.engine.local import LocalEngine

    plain = tiny_plain("llama", rope_parameters=scaling, max_position_embeddings=256)
    engine = LocalEngine(adopt_model(copy.deepcopy(plain), tokenizer_with(), name="scaled"))
    text = ids(40)
    _, states = engine.capture(KVContext(engine.model), text[:25])
    context = CompactContext((keep_pairs(states, [None] * 3),), 25)
    got = engine.next_logits(engine.open(context), text[25:].tolist())
    with torch.no_grad():
        want = plain(text[None]).logits[0, 25:]
    assert close(got, want, PASS)


def test_an_unknown_architecture_is_refused_by_its_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=32))
    with pytest.raises(UnsupportedModel, match=r"'gpt2'.*llama"):
        inspect_model(model)


def test_a_model_without_a_full_layer_is_refused(tiny_plain):
    with pytest.raises(UnsupportedModel, match="layers 0 to 2 of 'mistral' all slide over 8 tokens"):
        inspect_model(tiny_plain("mistral", sliding_window=8))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rotation_that_changes_with_the_length_is_refused(tiny_plain, kind):
    scaling = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 64}
    if kind == "longrope":
        scaling |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    with pytest.raises(UnsupportedModel, match=f"full_attention layers use '{kind}' RoPE"):
        inspect_model(tiny_plain("llama", rope_parameters=scaling))


def test_a_recurrent_layer_is_named(tiny_plain):
    model = tiny_plain("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(UnsupportedModel, match="layer 1 is 'linear_attention'"):
        inspect_model(model)


def test_a_hybrid_recurrent_model_is_refused():
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    config = Qwen3NextConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=64,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    )
    with pytest.raises(UnsupportedModel, match="'qwen3_next' is not served"):
        inspect_model(AutoModelForCausalLM.from_config(config))


def test_a_refused_model_is_refused_before_it_is_changed(tiny_plain, tokenizer_with):
    model = tiny_plain("mistral", sliding_window=8)
    with pytest.raises(UnsupportedModel):
        adopt_model(model, tokenizer_with(), name="sliding")
    assert model.config._attn_implementation == "sdpa"


def test_a_mix_of_sliding_and_full_layers_in_qwen_equals_the_plain_model(tiny_plain, tokenizer_with, ids):
    from holdfast.engine.kv_context import KVContext
    from holdfast.engine.local import LocalEngine

    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    plain = tiny_plain("qwen2", use_sliding_window=True, sliding_window=6, layer_types=kinds)
    engine = LocalEngine(adopt_model(copy.deepcopy(plain), tokenizer_with(), name="mixed"))
    assert [layer.window for layer in engine.model.family.layers] == [None, 6, 6]
    text = ids(30)
    with torch.no_grad():
        want = plain(text[None]).logits[0]
    assert close(engine.next_logits(KVContext(engine.model), text.tolist()), want, PASS)
