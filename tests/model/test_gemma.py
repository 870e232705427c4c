"""A second real architecture: sliding and full layers, one KV head, q/k-norm. Opt in with `pytest -m gemma`."""

import pytest
import torch

from holdfast.compaction.partition import runs
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from holdfast.model.load import load
from tolerance import PASS, close

pytestmark = pytest.mark.gemma

FACTS = (
    "Notes of the Orion project. Passwords are hashed with the bcryptjs library. The service listens on port 4817. "
    "Tasks are pending, in_progress or done. The build runs on a machine called lark. "
)


@pytest.fixture(scope="module")
def engine():
    return LocalEngine(load("gemma3-270m"))


def span_of(engine, text):
    from holdfast.blocks.block import Block, Kind, Origin

    ids = tuple(engine.model.tokenizer(text)["input_ids"])
    return next(runs((Block(ids, Origin(0, Kind.TASK, (0, len(text)), (0, len(ids)))),), [False]))


@torch.no_grad()
def test_states_spliced_back_equal_the_plain_model(engine):
    ids = torch.tensor(engine.model.tokenizer(FACTS * 16)["input_ids"])  # longer than the sliding window
    assert len(ids) > 600
    plain = engine.open(CompactContext((token_segment(ids, 0),), len(ids)))
    _, states = engine.capture(engine.open(CompactContext((), 0)), ids)
    from holdfast.context.surgery import keep_pairs

    stored = CompactContext((keep_pairs(states, [None] * len(states.keys)),), len(ids))
    ask = engine.model.tokenizer("For password hashing, Orion uses", add_special_tokens=False)["input_ids"]
    want, got = engine.next_logits(plain, ask), engine.next_logits(engine.open(stored), ask)
    assert close(want, got, PASS)


def test_kvzip_at_4x_keeps_what_the_model_did_not_know(engine):
    part = span_of(engine, FACTS * 4)
    span = Span(part.blocks, 0)
    past = engine.open(CompactContext((), 0))
    method = build("kvzip")
    made = method.compress(method.study(span, past, engine), budget_from_ratio(len(span), 4))
    ask = Continuation(
        tuple(engine.model.tokenizer("\nFor password hashing, Orion uses the", add_special_tokens=False)["input_ids"]),
        tuple(engine.model.tokenizer(" bcryptjs", add_special_tokens=False)["input_ids"]),
    )
    contexts = (CompactContext((token_segment(span.ids, 0),), len(span)), CompactContext(made, len(span)))
    full, compact = (float(engine.score(engine.open(c), [ask])[0].sum()) for c in contexts)
    none = float(engine.score(engine.open(CompactContext((token_segment(span.ids[:1], 0),), 1)), [ask])[0].sum())
    assert full - none > 3
    assert compact - none > 0.8 * (full - none)
