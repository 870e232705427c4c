"""The embedded model itself: real weights, real tokenizer."""

from __future__ import annotations

import pytest
import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import question_ids
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.errors import Failed
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from holdfast.model.load import load

pytestmark = pytest.mark.model

FACTS = """The deploy host of the billing service is quarry-17 and it listens on port 48213.
The database password is kept in vault path secret/tern/billing, never in the repository.
Integration tests run with `make verify-ledger`; they take about eleven minutes.
The release branch is called amber-falcon and was cut from commit 9c41e7b.
Priya Raman owns the invoices module; Tomas Varga owns the export queue.
The retry limit of the export queue is 37 and its timeout is 2900 milliseconds.
The staging cluster is named heron-west and runs Postgres 14.6.
The feature flag for split invoices is enable_split_v3 and it is off by default."""


@pytest.fixture(scope="module")
def engine():
    try:
        return LocalEngine(load())
    except Failed as error:
        pytest.skip(f"the embedded model cannot be had here: {error}")


@pytest.fixture(scope="module")
def span(engine):
    text = f"<|im_start|>user\n{FACTS}<|im_end|>\n<|im_start|>assistant\nNoted.<|im_end|>\n"
    ids = tuple(engine.model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Span((Block(ids, Origin(0, Kind.OBSERVATION, (0, len(text)), (0, len(ids)))),), 0)


def test_greedy_continuation_equals_generate(engine, span):
    prompt = question_ids(engine.model.tokenizer, "Which port does the billing service listen on?")
    live = engine.open(CompactContext((token_segment(span.ids, 0),), len(span)))
    ours = list(engine.generate(live, prompt, 24))
    whole = torch.cat((span.ids, torch.tensor(prompt)))[None]
    with torch.no_grad():  # used directly, the model takes transformers' own masks and cache
        out = engine.model.hf.generate(whole, attention_mask=torch.ones_like(whole), max_new_tokens=24, do_sample=False)
    assert ours == [t for t in out[0, whole.shape[1] :].tolist() if t not in engine.stop_ids]
    assert "48213" in engine.model.tokenizer.decode(ours)


def test_kvzip_at_four_times_keeps_what_the_model_cannot_know(engine, span):
    method = build("kvzip")
    made = method.compress(method.study(span, KVContext(engine.model), engine), budget_from_ratio(len(span), 4))
    contexts = {
        "full": CompactContext((token_segment(span.ids, 0),), len(span)),
        "kvzip": CompactContext(tuple(made), len(span)),
        "none": CompactContext((), 0),
    }
    asked = [
        ("What is the retry limit of the export queue?", "The retry limit of the export queue is", " 37"),
        ("Which port does the billing service use?", "The billing service listens on port", " 48213"),
        ("What is the release branch called?", "The release branch is called", " amber-falcon"),
        ("Who owns the invoices module?", "The invoices module is owned by", " Priya Raman"),
    ]
    encode = engine.model.tokenizer
    rows = [
        Continuation(
            (*question_ids(encode, question), *encode(start, add_special_tokens=False)["input_ids"]),
            tuple(encode(answer, add_special_tokens=False)["input_ids"]),
        )
        for question, start, answer in asked
    ]
    said = {
        name: torch.stack([p.sum() for p in engine.score(engine.open(context), rows)])
        for name, context in contexts.items()
    }
    gain_full, gain_kvzip = said["full"] - said["none"], said["kvzip"] - said["none"]
    assert (gain_full > 1).all()  # without the context, the model does not know
    assert (gain_kvzip > 0.5 * gain_full).all()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 arithmetic here")
def test_a_bfloat16_copy_is_the_same_model(engine):
    assert load(dtype="bfloat16").digest == engine.model.digest
