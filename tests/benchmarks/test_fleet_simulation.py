"""The simulated fleet keeps its books: every turn served once, no replica over its memory, nothing read for nothing."""

import random
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.quantized_slots import quantize
from holdfast.model.slots import Slots

RECIPES = Path(__file__).parents[2] / "benchmarks"
EXAMPLE = Path(__file__).parents[2] / "examples" / "taskdeck" / "session.json"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(RECIPES))
    recipe, shapes = import_module("fleet_simulation"), import_module("fleet_sizes")
FORMS = shapes.FORMS
SMALL = shapes.Model("small", 30.5e9, 28, 28, 4, 128, 1)  # its weights leave room for four sessions of 40,000 tokens
SETUP = recipe.Setup(SMALL, replicas=3)


def sessions(seed, count=12):
    rng = random.Random(seed)
    turns = [
        [
            recipe.Turn(rng.randint(1, 4000), rng.randint(1, 800), rng.expovariate(0.1))
            for _ in range(rng.randint(1, 12))
        ]
        for _ in range(count)
    ]
    return [recipe.draw_session(turns, 40_000, rng) for _ in range(count)]


def run(setup, seed=0, **options):
    simulation = recipe.Simulation(setup, sessions(seed, **options), seed, 200.0)
    return simulation, simulation.run()


setups = st.builds(
    recipe.Setup,
    st.just(SMALL),
    st.integers(2, 4),
    st.sampled_from(FORMS),
    st.booleans(),
    st.sampled_from([0.0, 1e9]),
    st.none() | st.floats(0, 600),
)


@given(setups, st.integers(0, 1000))
def test_every_turn_is_served_once_and_no_replica_is_over_its_memory(setup, seed):
    simulation, told = run(setup, seed)
    turns = {(session.id, at) for session in simulation.sessions for at in range(len(session.turns))}
    assert told.served == dict.fromkeys(turns, 1)
    assert told.peak <= SMALL.room
    assert told.prefilled >= sum(turn.prompt for session in simulation.sessions for turn in session.turns)
    assert all(not replica.held and not replica.queue for replica in simulation.replicas if replica.alive)
    assert all(session.compacted <= session.tokens for session in simulation.sessions)
    assert min(told.waits) >= 0


@pytest.mark.parametrize("form", FORMS)
def test_with_a_store_nothing_is_read_twice(form):
    simulation, told = run(replace(SETUP, form=form, store=1e9, affinity=False))
    assert told.prefilled == sum(turn.prompt for session in simulation.sessions for turn in session.turns)
    assert told.moved > 0


def test_a_replica_that_dies_loses_no_turn_and_what_it_served_is_done_again():
    _, calm = run(SETUP)
    killed = [run(replace(SETUP, kill=float(at)))[1] for at in range(50, 250, 20)]
    assert calm.redone == 0
    assert sum(told.redone for told in killed) > 0
    assert sum(told.prefilled for told in killed) > len(killed) * calm.prefilled
    assert all(told.served == calm.served for told in killed)


def test_only_the_sessions_of_a_dead_replica_move():
    places = []
    for kill in (None, 0.0):
        simulation, _ = run(replace(SETUP, kill=kill), count=1)
        simulation.replicas[0].alive = kill is None
        went = []
        for number in range(300):
            session = recipe.Session(number, [recipe.Turn(1, 1, 0)])
            simulation.route(session)
            went.append(next(n for n, replica in enumerate(simulation.replicas) if session.id in replica.held))
            simulation.replicas[went[-1]].held.clear()
            for replica in simulation.replicas:
                replica.busy = False
        places.append(went)
    before, after = places
    assert {n for n in before} == {0, 1, 2}
    assert all(new == old for old, new in zip(before, after, strict=True) if old)
    assert {new for old, new in zip(before, after, strict=True) if not old} == {1, 2}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("form", FORMS)
def test_affinity_reads_no_more_than_random_routing(seed, form):
    _, kept = run(replace(SETUP, form=form), seed)
    _, scattered = run(replace(SETUP, form=form, affinity=False), seed)
    assert kept.prefilled < scattered.prefilled


@pytest.mark.parametrize("seed", range(3))
def test_compacted_sessions_take_less_memory_and_are_put_out_less_often(seed):
    told = {form: run(replace(SETUP, form=form, replicas=1), seed)[1] for form in FORMS}
    assert told["full"].spilled > told["8x"].spilled >= told["8x + int8"].spilled
    assert told["full"].prefilled > told["8x"].prefilled
    assert told["full"].compacted == 0 < told["8x"].compacted


def test_equal_seeds_give_equal_books():
    assert run(SETUP, 3)[1] == run(SETUP, 3)[1]
    assert run(SETUP, 3)[1] != run(SETUP, 4)[1]


def test_a_session_that_no_replica_can_hold_is_refused():
    with pytest.raises(ValueError, match="lower --tokens"):
        recipe.Simulation(SETUP, [[recipe.Turn(10_000_000, 1, 0)]], 0, 1.0).run()


@pytest.mark.parametrize(("form", "slots"), [("8x", None), ("8x + int8", "int8")])
def test_a_slot_takes_the_bytes_that_holdfast_holds(form, slots):
    model, n = shapes.MODELS[0], 4096
    rows = torch.randn(n * model.kv_heads, model.dim, dtype=torch.bfloat16)
    held = Slots(rows, rows, torch.arange(len(rows), dtype=torch.float32), None, lengths=(n,) * model.kv_heads)
    nbytes = held.nbytes + held.positions.nbytes if slots is None else quantize(held, slots).nbytes
    assert nbytes * model.layers == pytest.approx(n * model.slot(form), rel=0.001)


def test_the_recipe_prints_a_line_for_each_way(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fleet_simulation.py", str(EXAMPLE), "--count=8", "--tokens=20000"])
    recipe.main()
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in recipe.SETUPS)
    turns = {line.split("|")[2] for line in shown.splitlines() if line.startswith(("| random", "| affinity"))}
    assert len(turns) == 1
