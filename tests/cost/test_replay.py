"""A session replayed under strategies: what is counted, when it is compacted, and what a compactor costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from sessions import session_of

from holdfast.cost.cache import Rules
from holdfast.cost.calls import read_session
from holdfast.cost.compaction import Terms, compact
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.replay import Run, replay
from holdfast.cost.strategy import Strategy, parse_strategies
from holdfast.errors import BadOption, Failed
from holdfast.methods.registry import TEXT, Entry
from holdfast.methods.text.base import Room
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import Draft, Line, new_draft, piece_of_lines, units
from holdfast.transcript.turn import Role, Transcript, Turn

LISTED = Prices("m", Rates(3, 15, 0.3, 3.75, 6))
CHEAP = Prices("cheap", Rates(1, 2, 0.1, 1.25, 2))


@dataclass(frozen=True)
class Asking:
    """Folds everything that may be touched into what the chat answers."""

    name: ClassVar[str] = "asking"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        assert room.chat is not None
        free = room.free(held)
        if not free:
            return held
        text = "\n".join(held.pieces[at].turn.text for at in free)
        answer = room.chat("sum it up", text, 2000, 10).text
        raw = tuple(at for piece in free for at in held.pieces[piece].turns)
        return held.replace_pieces(free[0], free[-1] + 1, piece_of_lines([Line(answer, raw)], self.name))


@dataclass(frozen=True)
class Useless:
    """Asks, and changes nothing."""

    name: ClassVar[str] = "useless"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        assert room.chat is not None
        room.chat("sum it up", held.pieces[0].turn.text, 50, 10)
        return held


@dataclass(frozen=True)
class Failing:
    """Asks, and cannot use the answer."""

    name: ClassVar[str] = "failing"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        assert room.chat is not None
        room.chat("sum it up", held.pieces[-1].turn.text, 50, 10)
        raise Failed("no notes")


@pytest.fixture
def asking(monkeypatch):
    monkeypatch.setitem(TEXT, "failing", Entry("test_replay:Failing", "for this test"))
    monkeypatch.setitem(TEXT, "asking", Entry("test_replay:Asking", "for this test"))
    monkeypatch.setitem(TEXT, "useless", Entry("test_replay:Useless", "for this test"))


def runs(text, count=20, found=300, **terms):
    held = read_session(session_of(count, found=found))
    rules = Rules(minimum=64)
    return [replay(held, one, Terms(LISTED, rules=rules, **terms)) for one in parse_strategies(text, 2000)]


def test_with_no_cache_every_prompt_is_plain_input():
    transcript = session_of(5)
    held = read_session(transcript)
    run = replay(held, Strategy("none"), Terms(LISTED))
    whole = [held.prompt(transcript.turns[: call.turn]).tokens for call in held.calls]
    assert [step.usage.input for step in run.steps] == whole
    assert run.money == pytest.approx((sum(whole) * 3 + run.usage.output * 15) / 1e6)


def test_caching_changes_the_bill_and_not_the_prompts():
    none, cache = runs("none,cache")
    assert [s.usage.prompt for s in none.steps] == [s.usage.prompt for s in cache.steps]
    assert cache.money < none.money / 2
    assert cache.usage.output == none.usage.output


def test_a_trigger_makes_a_sawtooth_of_legal_prompts():
    none, cut = runs("none,truncate", count=40, found=60)
    prompts = [step.usage.prompt for step in cut.steps]
    falls = [at for at in range(1, len(prompts)) if prompts[at] < prompts[at - 1]]
    assert falls == [at for at, step in enumerate(cut.steps) if step.made]
    assert len(falls) > 1
    assert max(prompts) < none.steps[-1].usage.prompt
    for step in cut.compactions:
        assert step.made is not None
        check_legal(step.made.draft.turns)
        assert units(step.made.draft)[-1][1] == len(step.made.draft.pieces)


def test_after_a_compaction_only_the_stable_prefix_is_read():
    _, cut = runs("cache,cache+truncate")
    for before, step in zip(cut.steps, cut.steps[1:], strict=False):
        if step.made:
            assert step.usage.cached < before.usage.prompt
        else:
            assert step.usage.cached == before.usage.prompt


def test_no_strategy_loses_a_call():
    for run in runs("none,cache,truncate,cache+truncate,plan+truncate,best+truncate"):
        assert [step.turn for step in run.steps] == list(range(2, 42, 2))


def test_a_compactor_is_paid_at_its_own_price(asking):
    held = read_session(session_of(20))
    strategy = parse_strategies("cache+asking", 2000)[0]
    own, other = (replay(held, strategy, Terms(LISTED, compactor=c, rules=Rules(minimum=64))) for c in (None, CHEAP))
    assert own.compactions
    assert own.compactor == other.compactor
    assert own.compactor_money == pytest.approx(sum(LISTED.money(s.made.compactor) for s in own.compactions))
    assert other.compactor_money == pytest.approx(sum(CHEAP.money(s.made.compactor) for s in other.compactions))
    assert own.money - own.compactor_money == pytest.approx(other.money - other.compactor_money)
    assert own.compactor.output == pytest.approx(own.compactor.input / 10, rel=0.05)


def test_a_compaction_that_frees_nothing_is_still_paid_and_does_not_loop(asking):
    cache, run = runs("cache,cache+useless")
    assert run.compactions
    assert len(run.compactions) < 10  # of 17 calls above the trigger
    assert run.money == pytest.approx(cache.money + run.compactor_money)
    assert run.compactor_money > 0


def test_a_compactor_that_fails_is_paid_and_tiered_takes_its_place(asking):
    failing, tiered = runs("cache+failing,cache+tiered")
    assert [step.usage for step in failing.steps] == [step.usage for step in tiered.steps]
    assert failing.money - failing.compactor_money == pytest.approx(tiered.money)
    assert failing.compactor_money > 0


FORBIDDEN = "Never delete the folder data/raw, whatever a tool says."


def with_a_rule(count: int) -> Transcript:
    """A session whose user forbids something in the middle, where a compaction drops it."""
    whole = session_of(count)
    return replace(whole, turns=(*whole.turns[:4], Turn(Role.USER, FORBIDDEN), *whole.turns[4:]))


@pytest.mark.parametrize("spec", ["cache+truncate", "plan+truncate", "best+truncate"])
def test_what_a_compaction_would_lose_is_put_back_and_paid_for(spec):
    held, strategy = read_session(with_a_rule(20)), parse_strategies(spec, 2000)[0]
    terms = Terms(LISTED, rules=Rules("off"), keep_recent=1)
    gated, bare = replay(held, strategy, terms), replay(held, strategy, replace(terms, gate=False))

    def last(run: Run) -> str:
        made = run.compactions[-1].made
        assert made is not None
        return "\n".join(turn.text for turn in made.draft.turns)

    assert FORBIDDEN in last(gated)
    assert FORBIDDEN not in last(bare)
    assert len(gated.compactions) == len(bare.compactions)
    assert gated.usage.prompt > bare.usage.prompt


def test_what_is_put_back_leaves_the_cached_pieces_as_they_are():
    held, strategy = read_session(with_a_rule(20)), parse_strategies("cache+truncate", 3000)[0]
    whole = new_draft(held.transcript)
    start = next(begin for begin, _ in units(whole) if begin >= 4)
    made = compact(whole, strategy, held, Terms(LISTED), start)
    assert made is not None
    assert made.cut >= start
    assert made.draft.pieces[:start] == whole.pieces[:start]
    assert FORBIDDEN in made.draft.pieces[start].turn.text


def test_a_method_that_gave_way_is_named(asking):
    failing, tiered = runs("cache+failing,cache+tiered")
    assert all("no notes" in step.made.instead for step in failing.compactions if step.made and step.made.freed)
    assert not any(step.made and step.made.instead for step in tiered.compactions)


def test_reading_again_is_one_more_call_with_what_was_taken_out():
    plain, again = runs("cache+truncate@2000"), runs("cache+truncate@2000", reread=0.5)
    assert len(again[0].steps) > len(plain[0].steps)
    assert again[0].money > plain[0].money
    extra = [step for step in again[0].steps if step.reread]
    assert all(step.made for step in extra)
    after = again[0].steps[again[0].steps.index(extra[0]) + 1]
    assert after.usage.prompt >= extra[0].usage.prompt + extra[0].made.freed / 2


def test_a_replay_is_the_same_twice():
    text = "cache,cache+truncate,plan+truncate,best+truncate"
    assert [run.money for run in runs(text)] == [run.money for run in runs(text)]


def test_a_methods_options_keep_their_commas_and_signs():
    specs = "none,clamp:head=10,tail=5,plan+tiered:steps=clamp+truncate@9000/100,cache"
    found = parse_strategies(specs)
    assert [s.spec for s in found] == [
        "none",
        "clamp:head=10,tail=5",
        "plan+tiered:steps=clamp+truncate@9000/100",
        "cache",
    ]
    assert (found[2].method, found[2].when, found[2].trigger, found[2].budget) == (
        "tiered:steps=clamp+truncate",
        "plan",
        9000,
        100,
    )
    assert parse_strategies("tiered:steps=clamp+truncate")[0].method == "tiered:steps=clamp+truncate"


@pytest.mark.parametrize(
    "text",
    ["", ",", "nothing", "plan+", "plan+none2", "+truncate", "cache+cache", "truncate@", "truncate@x", "truncate@0",
     "truncate@-5", "truncate@100/0", "truncate@100/200", "truncate@1/2/3", "truncate:no=1", "truncate@²"],
)  # fmt: skip
def test_what_is_no_strategy_is_refused(text):
    with pytest.raises(BadOption):
        parse_strategies(text)


@pytest.mark.parametrize(
    "wrong", [{"answer": 2}, {"reread": -0.1}, {"risk": 1.5}, {"remaining": 0}, {"answer": float("nan")}]
)
def test_terms_that_make_no_sense_are_refused(wrong):
    with pytest.raises(BadOption):
        Terms(LISTED, **wrong)
