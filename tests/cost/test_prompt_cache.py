"""The provider's prompt cache: what is read, written and paid plainly, over any sequence of prompts."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cost.cache import SECONDS, Block, Cache, Prompt, Rules, build_prompt
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.usage import Usage

EXPLICIT = Rules(minimum=100)
AUTOMATIC = Rules("automatic", minimum=128, step=64)
ANY_RULES = st.builds(
    Rules,
    caching=st.sampled_from(["explicit", "automatic", "off"]),
    life=st.sampled_from(["5m", "1h"]),
    minimum=st.integers(1, 300),
    breakpoints=st.integers(1, 4),
    lookback=st.integers(0, 20),
    step=st.sampled_from([1, 64, 128]),
)
BLOCKS = st.lists(st.sampled_from([Block(f"{size}".encode(), size) for size in (1, 7, 90, 128, 300)]), max_size=8)
CALLS = st.lists(st.tuples(BLOCKS, st.integers(0, 2), st.floats(0, 5000)), min_size=1, max_size=8)


def sent(*sizes: int, head: int = 0) -> Prompt:
    """Blocks that are told apart by their place and size."""
    return build_prompt([Block(f"{at}:{size}".encode(), size) for at, size in enumerate(sizes)], head)


def played(rules: Rules, calls: list[tuple[Prompt, float]]) -> list[Usage]:
    cache, usages = Cache(rules), []
    for one, at in calls:
        cache, usage = cache.call(one, at)
        usages.append(usage)
    return usages


def timed(calls: list[tuple[list[Block], int, float]]) -> list[tuple[Prompt, float]]:
    times = accumulate(gap for _, _, gap in calls)
    return [(build_prompt(blocks, head), at) for (blocks, head, _), at in zip(calls, times, strict=True)]


@given(ANY_RULES, CALLS)
def test_every_token_is_billed_once(rules, calls):
    for usage, (one, _) in zip(played(rules, timed(calls)), timed(calls), strict=True):
        assert usage.prompt == one.tokens
        assert min(usage.input, usage.cached, usage.written, usage.written_1h) >= 0


@given(ANY_RULES, CALLS)
def test_nothing_is_read_that_was_not_sent_byte_for_byte_within_the_life(rules, calls):
    held = timed(calls)
    for at, (usage, (one, when)) in enumerate(zip(played(rules, held), held, strict=True)):
        alive, since = [], when
        for before, then in reversed(held[:at]):  # a chain of calls, each within the life of the next, keeps a prefix
            if since - then > SECONDS[rules.life]:
                break
            alive.append(before)
            since = then
        common = [sum(1 for a, b in zip(one.marks, old.marks, strict=False) if a == b) for old in alive]
        longest = max((one.marks[n - 1].tokens for n in common if n), default=0)
        assert usage.cached <= longest


@given(ANY_RULES, CALLS)
def test_caching_costs_at_most_the_surcharge_of_writing(rules, calls):
    listed = Prices("m", Rates(1, 1, 0.1, 1.25, 2))
    for usage in played(rules, timed(calls)):
        plain = listed.money(Usage(input=usage.prompt))
        surcharge = (0.25 * usage.written + 1.0 * usage.written_1h) / 1e6
        assert listed.money(usage) <= plain + surcharge + 1e-15


@given(ANY_RULES, CALLS)
def test_a_call_leaves_the_cache_that_it_was_made_with_as_it_was(rules, calls):
    cache = Cache(rules)
    for one, at in timed(calls):
        before = dict(cache.dies)
        again = cache.call(one, at)
        assert cache.call(one, at) == again
        assert cache.dies == before
        cache = again[0]


@given(
    st.sampled_from([EXPLICIT, replace(EXPLICIT, life="1h")]), st.lists(st.integers(100, 900), min_size=2, max_size=12)
)
def test_a_session_that_only_grows_reads_all_of_its_last_prompt(rules, sizes):
    calls = [(sent(*sizes[:n]), n * (SECONDS[rules.life] - 1)) for n in range(1, len(sizes) + 1)]
    for usage, (before, _), size in zip(played(rules, calls)[1:], calls, sizes[1:], strict=False):
        assert usage.cached == before.tokens
        assert usage.written + usage.written_1h == size


def test_after_a_break_longer_than_the_life_all_is_written_again():
    first, late = played(EXPLICIT, [(sent(500), 0), (sent(500, 10), 301)])
    assert (first.written, late.cached, late.written) == (500, 0, 510)
    assert played(replace(EXPLICIT, life="1h"), [(sent(500), 0), (sent(500, 10), 301)])[1].cached == 500


def test_a_read_renews_the_life():
    usages = played(EXPLICIT, [(sent(500), 0), (sent(500), 299), (sent(500), 590)])
    assert [usage.cached for usage in usages] == [0, 500, 500]


def test_from_the_first_changed_block_on_nothing_is_read():
    long, changed = sent(300, 200, 400), build_prompt([Block(b"0:300", 300), Block(b"new", 50), Block(b"2:400", 400)])
    grown = [(sent(300), 0), (sent(300, 200), 1), (long, 2), (changed, 3)]
    after = played(EXPLICIT, grown)[3]
    assert (after.cached, after.written) == (300, 450)


def test_a_head_is_read_after_everything_behind_it_changed():
    before, after = sent(400, 50, 60, head=1), build_prompt([Block(b"0:400", 400), Block(b"x", 70)], head=1)
    assert played(EXPLICIT, [(before, 0), (after, 1)])[1].cached == 400


def test_what_is_shorter_than_the_minimum_is_plain_input():
    assert played(EXPLICIT, [(sent(99), 0), (sent(99), 1)]) == [Usage(input=99)] * 2
    assert played(AUTOMATIC, [(sent(127), 0), (sent(127), 1)]) == [Usage(input=127)] * 2


def test_an_entry_too_many_blocks_back_is_not_seen():
    near, far = [Block(b"n", 1)] * 20, [Block(b"n", 1)] * 21
    start = [Block(b"s", 500)]
    rules = replace(EXPLICIT, breakpoints=1)
    assert played(rules, [(build_prompt(start), 0), (build_prompt(start + near), 1)])[1].cached == 500
    assert played(rules, [(build_prompt(start), 0), (build_prompt(start + far), 1)])[1].cached == 0


def test_automatic_prefixes_grow_in_steps_and_cost_nothing_to_write():
    usages = played(AUTOMATIC, [(sent(200), 0), (sent(200, 100), 1)])
    assert usages == [Usage(input=200), Usage(input=300 - 192, cached=192)]


def test_life_decides_which_price_a_write_has():
    assert played(replace(EXPLICIT, life="1h"), [(sent(500), 0)]) == [Usage(written_1h=500)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_there_are_never_more_breakpoints_than_allowed(count):
    rules = replace(EXPLICIT, breakpoints=count)
    cache, _ = Cache(rules).call(sent(200, 200, 200, 200, 200, head=1), 0)
    assert len(cache.places(sent(200, 200, 200, 9, 9, 9, 9, head=1))) <= count


def test_an_empty_prompt_costs_nothing():
    assert played(EXPLICIT, [(Prompt(()), 0)]) == [Usage()]
