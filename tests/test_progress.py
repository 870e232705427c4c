"""Every public call that can take long tells how far it is, from nothing to all."""

from __future__ import annotations

import inspect

import pytest

import holdfast

QUICK = {"read"}
"""Functions that only read a file of text."""
TOLD = {
    "load": {"load"},
    "save": {"digest", "write"},
    "restore": {"restore", "digest"},
    "ask": {"read", "answer"},
    "recompact": {"tighten"},
    "join": {"join"},
}
"""The kinds of work that each call reports; what a compaction does is in tests/methods."""


@pytest.fixture(scope="module")
def run(session, model, tmp_path_factory):
    """`run(name)`: what a call of the public function reports."""
    folder = tmp_path_factory.mktemp("stored")
    engine = holdfast.load(model)
    context = holdfast.compact(session, engine, holdfast.Plan("knorm", 2.0, gate=None))
    stored = holdfast.save(context, folder / "c.holdfast", engine)
    calls = {
        "load": (model,),
        "save": (context, folder / "new.holdfast", engine),
        "restore": (stored, engine),
        "ask": (context, engine, "Which port?", 3),
        "recompact": (context, engine),
        "join": ([context, context], engine),
    }

    def report(name):
        steps = []
        options = {"ratio": 4.0} if name == "recompact" else {}
        result = getattr(holdfast, name)(*calls[name], **options, progress=lambda *step: steps.append(step))
        if inspect.isgenerator(result):
            list(result)
        return steps

    return report


def test_every_public_function_that_may_take_long_has_a_progress():
    functions = {name for name in holdfast.__all__ if inspect.isfunction(getattr(holdfast, name))}
    silent = {name for name in functions if "progress" not in inspect.signature(getattr(holdfast, name)).parameters}
    assert silent == QUICK


@pytest.mark.parametrize("name", TOLD)
def test_progress_runs_from_nothing_towards_all(run, name):
    steps = run(name)
    assert {what for what, *_ in steps} == TOLD[name]
    for kind in TOLD[name]:
        done = [step[1] for step in steps if step[0] == kind]
        assert done[0] == 0
        assert done == sorted(done)
        assert done[-1] <= min(step[2] for step in steps if step[0] == kind)
