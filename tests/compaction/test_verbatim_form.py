"""What stays word for word, with its states in fewer bits (`Policy.verbatim`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import build_pair, small_session
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.context.holdfast_file import load, save
from holdfast.context.segments import StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.session.session import Session
from tolerance import PASS, close

SESSION = small_session()
PROBE = list(range(40, 60))


def plan(verbatim: Any, **policy: Any) -> Plan:
    return Plan("kvzip", 2, policy=Policy(verbatim=verbatim, **policy))


def says(live: KVContext, engine: Any) -> torch.Tensor:
    return engine.next_logits(live, PROBE)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_fewer_bits_take_less_memory_and_say_nearly_the_same(family: str) -> None:
    engine = build_pair(family).engine
    held = {form: engine.open(compact(SESSION, engine, plan(form))) for form in ("model", "bfloat16", "int8", "int4")}
    full = KVContext(engine.model)
    full.feed(list(render(SESSION, engine.model.tokenizer).ids))
    sizes = [held[form].nbytes for form in held]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[3] < sizes[2] < sizes[0] < full.nbytes
    plain = says(held["model"], engine)
    away = [float((says(held[form], engine) - plain).norm() / plain.norm()) for form in ("bfloat16", "int8", "int4")]
    assert 0 < away[0] < away[2]
    assert 0 < away[1] < away[2] < 1


def test_a_file_and_its_evidence_say_what_the_memory_is(tmp_path: Path) -> None:
    engine = build_pair("llama").engine
    made = compact(SESSION, engine, plan("int8"))
    save(made, tmp_path / "x.holdfast", engine.model)
    found = load(tmp_path / "x.holdfast", engine.model)
    assert found.recipe["policy"]["verbatim"] == "int8"
    assert all(isinstance(s, StateSegment) for s in found.segments)
    live = engine.open(found)
    assert live.nbytes == made.evidence["bytes"]
    assert close(says(live, engine), says(engine.open(made), engine), PASS)


@pytest.mark.parametrize("restart", [False, True])
def test_a_session_holds_what_stays_in_fewer_bits_compacts_again_and_gives_it_back(restart: bool) -> None:
    engine = build_pair("llama").engine
    session = Session(engine, plan("int8", keep_recent=1))
    session.append(SESSION.turns[:-2])
    before, plain = says(session.cache.live, engine), session.fork()
    plain.compact(plan("model"), restart=restart)
    session.compact(restart=restart)
    assert session.cache.live.nbytes < plain.cache.live.nbytes
    session.append(SESSION.turns[-2:])
    session.compact(restart=restart)
    verbatim = [s for s in session.cache.segments if isinstance(s, StateSegment) and not s.scores]
    assert verbatim
    assert {s.form for s in verbatim} == {"int8"}
    session.undo()
    session.undo()
    session.rewind(len(SESSION.turns) - 2)
    assert close(says(session.cache.live, engine), before, PASS)


@pytest.mark.parametrize("form", ["coded", "int3", ""])
def test_a_form_that_verbatim_text_cannot_have_is_refused(form: Any) -> None:
    with pytest.raises(BadOption, match="verbatim must be one of model, bfloat16, int8, int4"):
        Policy(verbatim=form)
