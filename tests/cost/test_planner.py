"""Following the planner never costs more than never compacting, and it says why it waits."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions import recorded_sessions, session_of

from holdfast.cost.cache import Block, Cache, Rules, build_prompt
from holdfast.cost.calls import read_session
from holdfast.cost.compaction import SimulatedCompaction, Terms
from holdfast.cost.planner import Now, Option, Past, dominates
from holdfast.cost.prices import Prices, Rates, read_prices
from holdfast.cost.replay import Run, replay
from holdfast.cost.strategy import Strategy, parse_strategies
from holdfast.errors import BadTranscript
from holdfast.transcript.draft import Draft
from holdfast.transcript.read import parse, read
from holdfast.transcript.turn import Transcript
from long_samples import RECORDED, SAMPLES

DATA = RECORDED / "transcripts"
FILES = sorted(DATA.glob("*")) if DATA.is_dir() else []
METHODS = ("truncate", "keep_recent", "clamp", "mask_observations", "drop_observations", "tiered")
SONNET = Prices("sonnet", Rates(3, 15, 0.3, 3.75, 6))
LISTS = (("claude-sonnet-4-5", "5m"), ("claude-opus-4-5", "1h"), ("gpt-5", "5m"))
PRICE = st.floats(0, 20)
PRICES = st.builds(
    lambda rates, times: Prices("m", rates, tiers=((1500, Rates(*(times * getattr(rates, f) for f in FIELDS))),)),
    st.builds(Rates, PRICE, PRICE, PRICE, PRICE, PRICE),
    st.floats(1, 3),
)
FIELDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
RULES = st.builds(
    Rules,
    caching=st.sampled_from(["explicit", "automatic", "off"]),
    life=st.sampled_from(["5m", "1h"]),
    minimum=st.sampled_from([64, 256, 1024]),
    breakpoints=st.integers(1, 4),
    step=st.sampled_from([16, 128]),
)


def running(run: Run) -> list[float]:
    """Money after each call."""
    return list(accumulate(step.money for step in run.steps))


def both(transcript: Transcript, terms: Terms, method: str = "truncate", trigger: int = 500) -> tuple[Run, Run]:
    """Following the advice, and never compacting."""
    held = read_session(transcript)
    advised = replay(held, Strategy("plan", method, True, "plan", trigger, max(1, trigger // 4)), terms)
    return advised, replay(held, Strategy("cache", cached=True), terms)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    recorded_sessions(),
    PRICES,
    RULES,
    st.sampled_from(METHODS),
    st.integers(0, 3),
    st.sampled_from([200, 1000, 3000]),
    st.sampled_from([0.0, 0.0, 0.05, 0.5]),
)
def test_advice_never_costs_more_than_never_compacting_wherever_the_session_ends(
    transcript, listed, rules, method, keep_recent, trigger, risk
):
    terms = Terms(listed, rules=rules, keep_recent=keep_recent, risk=risk)
    advised, never = both(transcript, terms, method, trigger)
    for spent, bound in zip(running(advised), running(never), strict=True):
        assert spent <= (1 + risk) * bound * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("name", ["claude_code", "mini_swe_agent"])
def test_advice_never_costs_more_on_a_long_session_at_any_price_list(name):
    advice_never_costs_more(parse(SAMPLES[name][1]), 1500, LISTS)


@pytest.mark.skipif(not FILES, reason="recorded sessions are not in the repository")
@pytest.mark.parametrize(("number", "path"), list(enumerate(FILES)), ids=[path.name for path in FILES])
def test_advice_never_costs_more_on_a_recorded_session_at_the_price_lists_in_turn(number, path):
    try:
        transcript = read(path, lenient=True)
    except BadTranscript as error:
        pytest.skip(f"not a format that is read: {error}")
    advice_never_costs_more(transcript, 6000, LISTS[number % len(LISTS) :][:1])


def advice_never_costs_more(transcript, trigger, lists):
    for model, life in lists:
        listed = read_prices(model)
        advised, never = both(transcript, Terms(listed, rules=Rules(listed.caching, life)), "truncate", trigger)
        assert all(a <= b * (1 + 1e-9) for a, b in zip(running(advised), running(never), strict=True)), model


def test_without_a_cache_it_compacts_at_once():
    advised, never = both(session_of(12), Terms(SONNET, rules=Rules("off"), keep_recent=1))
    assert advised.compactions
    assert advised.money < never.money


def test_after_a_break_in_which_the_cache_died_it_compacts_at_once():
    for gap, some in ((10, False), (400, True)):
        terms = Terms(SONNET, rules=Rules(minimum=64), keep_recent=3)
        advised, _ = both(session_of(6, gap=gap), terms, trigger=1000)
        assert bool(advised.compactions) is some, gap


def test_while_the_cache_is_warm_and_nothing_is_saved_it_waits_and_says_so():
    advised, never = both(session_of(6), Terms(SONNET, rules=Rules(minimum=64), remaining=50), trigger=1000)
    assert advised.money == never.money
    assert advised.advice is not None
    assert advised.advice.when == "later"
    assert advised.advice.extra > advised.advice.allowed == 0
    assert "cost more in this call" in advised.advice.reason


def test_risk_lets_it_invest_before_it_has_saved():
    held = session_of(14, found=500)
    safe, _ = both(held, Terms(SONNET, rules=Rules(minimum=64)), trigger=1000)
    bold, _ = both(held, Terms(SONNET, rules=Rules(minimum=64), risk=0.5), trigger=1000)
    assert not safe.compactions or bold.compactions[0].turn < safe.compactions[0].turn


def test_a_session_that_has_nothing_to_take_out_is_left():
    advised, _ = both(session_of(2), Terms(SONNET, rules=Rules(minimum=64), keep_recent=9), trigger=1)
    assert advised.advice is not None
    assert (advised.advice.when, advised.advice.option) == ("never", None)


def test_a_last_call_is_not_paid_for_by_calls_that_do_not_come():
    advised, never = both(session_of(30, found=100), Terms(SONNET, rules=Rules(minimum=64), remaining=1), trigger=300)
    assert advised.compactions
    for step, before in zip(advised.steps, never.steps, strict=True):
        assert step.made is None or step.money <= before.money


def test_advice_tells_the_earliest_turn_that_changes():
    transcript = session_of(12)
    advised, _ = both(transcript, Terms(SONNET, rules=Rules("off"), keep_recent=1))
    made = advised.compactions[0].made
    assert made is not None
    kept = {piece.at for piece in made.draft.pieces}
    assert set(range(made.cut)) <= kept
    assert made.cut not in kept


@pytest.mark.parametrize("caching", ["explicit", "automatic"])
def test_hindsight_is_at_most_what_the_advice_and_the_trigger_cost(caching):
    held = read_session(session_of(16, found=400))
    terms = Terms(SONNET, rules=Rules(caching, minimum=64))
    found = parse_strategies("cache,cache+truncate@2000,plan+truncate@2000,best+truncate@2000")
    never, fixed, advised, best = (replay(held, one, terms).money for one in found)
    assert best <= min(never, advised)
    assert best <= fixed * 1.001


def now_of(uncompacted: int) -> Now:
    sent = build_prompt([Block(b"all", uncompacted)])
    return Now(sent, Cache(), sent, Cache(), Past((), (), ()))


def left_with(tokens: int) -> Option:
    held = Draft(Transcript(()), ())
    return Option(SimulatedCompaction(held, 0, 1), build_prompt([Block(b"rest", tokens)]))


def test_what_would_be_too_short_to_be_cached_is_never_advised():
    for caching in ("explicit", "automatic"):
        terms = Terms(SONNET, rules=Rules(caching, minimum=1024))
        assert dominates(now_of(50_000), left_with(1024), terms)
        assert not dominates(now_of(50_000), left_with(1023), terms)


def test_a_saving_that_a_step_of_rounding_could_eat_is_never_advised():
    terms = Terms(SONNET, rules=Rules("automatic"))  # 127 tokens at 3 - 0.3 are worth 1,143 at 0.3
    assert dominates(now_of(10_000), left_with(10_000 - 1144), terms)
    assert not dominates(now_of(10_000), left_with(10_000 - 1142), terms)
