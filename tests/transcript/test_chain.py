"""A history is found by its chain: what clients change without meaning makes no difference, everything else does."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast.errors import BadInput
from holdfast.server.sessions.prefix_index import MAX_DEPTH, SIZE, PrefixIndex, links, seed
from holdfast.transcript.turn import Role, ToolCall, Turn

SEED = seed("key", "model")
ANY_TEXT = st.text(st.characters(), max_size=6)  # lone surrogates among them
FEW = st.sampled_from(["", "a", "b", " a", "a\n", "aa", "{}", '{"a": 1}', '{"a":1}', '{"a":1.0}', "\ud800"])
CALLS = st.lists(st.builds(ToolCall, FEW, FEW, FEW), max_size=2).map(tuple)
TURNS = st.builds(Turn, st.sampled_from(Role), FEW, FEW, CALLS, FEW, st.booleans(), st.integers(0, 3))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(ANY_TEXT, JSON, max_size=4)


def called(arguments: str) -> Turn:
    return Turn(Role.ASSISTANT, calls=(ToolCall("c1", "run", arguments),))


def same(one: str, two: str) -> bool:
    """Whether two arguments are one to the chain."""
    return links([called(one)], SEED) == links([called(two)], SEED)


def meaning(turn: Turn) -> object:
    """What a turn says, told without hashing; arguments only of the few that are made above."""
    text = turn.text.strip() if turn.role is Role.ASSISTANT else turn.text
    spelled = {'{"a": 1}': '{"a":1}', "": "{}"}
    calls = [(call.id, call.name, spelled.get(call.arguments, call.arguments)) for call in turn.calls]
    return turn.role, text, calls, turn.call_id, turn.is_error


def typed(value: Any) -> object:
    """JSON with its types, so that True, 1 and 1.0 differ, and the order of keys does not matter."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    return [typed(inner) for inner in value] if isinstance(value, list) else (type(value), repr(value))


@given(st.lists(TURNS, max_size=4), st.lists(TURNS, max_size=4), st.integers(0, 4))
def test_links_are_equal_just_where_the_histories_say_the_same(one: list[Turn], two: list[Turn], shared: int) -> None:
    two = one[:shared] + two
    for at, (first, second) in enumerate(zip(links(one, SEED), links(two, SEED), strict=False), 1):
        assert (first == second) == ([*map(meaning, one[:at])] == [*map(meaning, two[:at])])


CHANGES: dict[str, Callable[[Turn], Turn]] = {
    "role": lambda turn: replace(turn, role=Role.USER if turn.role is Role.TOOL else Role.TOOL),
    "text": lambda turn: replace(turn, text=turn.text + "."),
    "call_id": lambda turn: replace(turn, call_id=turn.call_id + " "),
    "is_error": lambda turn: replace(turn, is_error=not turn.is_error),
    "one call more": lambda turn: replace(turn, calls=(*turn.calls, ToolCall("", "", ""))),
    "order of calls": lambda turn: replace(turn, calls=(ToolCall("x", "", ""), *turn.calls, ToolCall("y", "", ""))),
    "name": lambda turn: replace(turn, calls=(*turn.calls, ToolCall("", "run", ""))),
    "id": lambda turn: replace(turn, calls=(*turn.calls, ToolCall("run", "", ""))),
    "arguments": lambda turn: replace(turn, calls=(*turn.calls, ToolCall("", "", "run"))),
}


@given(st.lists(TURNS, min_size=1, max_size=5), st.data())
def test_a_change_in_one_turn_changes_its_link_and_every_later_one(turns: list[Turn], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(turns) - 1))
    before, seen = links(turns, SEED), set()
    for change in CHANGES.values():
        after = links([*turns[:at], change(turns[at]), *turns[at + 1 :]], SEED)
        assert after[:at] == before[:at]
        assert not {*before[at:]} & {*after}
        seen.add(after[at])
    assert len(seen) == len(CHANGES)  # and no two changes look alike


@given(st.lists(TURNS, min_size=1, max_size=3), ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_histories_of_another_key_or_model_share_no_link(turns: list[Turn], a: str, b: str, c: str, d: str) -> None:
    one, two = links(turns, seed(a, b)), links(turns, seed(c, d))
    assert one == two if (a, b) == (c, d) else not {*one} & {*two}


def test_other_tools_begin_another_chain_however_they_are_spelled() -> None:
    tool = {"type": "function", "function": {"name": "run", "parameters": {"b": 1, "a": [True, None]}}}
    spelled = json.loads(json.dumps(tool, indent=2, sort_keys=True))
    assert seed("key", "model", [tool]) == seed("key", "model", (spelled,))
    others = [(), (tool, tool), ({**tool, "type": "other"},), ({**tool, "strict": 1},), ({**tool, "strict": True},)]
    assert len({SEED, seed("key", "model", [tool]), *(seed("key", "model", tools) for tools in others)}) == 6


def test_tools_nested_beyond_what_can_be_written_are_refused() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(BadInput, match="nested too deep"):
        seed("key", "model", [deep])


def test_what_clients_drop_or_write_anew_makes_no_difference() -> None:
    said = Turn(Role.ASSISTANT, "\n Done. \n", "I think.", source=3, extra={"refusal": None})
    assert links([said], SEED) == links([Turn(Role.ASSISTANT, "Done.")], SEED)
    assert same("", "{}")
    for role in (Role.USER, Role.TOOL, Role.SYSTEM):  # their white space is what was said
        assert links([Turn(role, "x ")], SEED) != links([Turn(role, "x")], SEED)


@given(OBJECTS, st.randoms(use_true_random=False))
def test_arguments_serialised_anew_are_the_same(value: dict[str, Any], rng: Random) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(inner) for inner in value]
        keys = sorted(value, key=lambda _: rng.random()) if isinstance(value, dict) else []
        return {key: shuffled(value[key]) for key in keys} if isinstance(value, dict) else value

    other = json.dumps(shuffled(value), indent=rng.choice([None, 2]), ensure_ascii=rng.choice([True, False]))
    assert same(json.dumps(value, separators=(",", ":")), other)


@given(OBJECTS, OBJECTS)
def test_other_arguments_are_never_the_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    one, two = json.loads(json.dumps(one)), json.loads(json.dumps(two))  # an escaped pair is one character
    assert same(json.dumps(one), json.dumps(two)) == (typed(one) == typed(two))


ONE_BY_ONE = (
    *("1", "1.0", "true", '"1"', '"1.0"', "null", '"null"', "NaN", '"NaN"', "Infinity", "-Infinity", "1e400", "1e500"),
    *("0", "0.0", "-0.0", "false", '""', "[]", "{}", "[0]", "[[0]]", '{"v":0}', "9007199254740992", "9007199254740993"),
    *("9" * 5000, "9" * 5001, "0.1", "0.10000000000000002", '"\\ud83d"', '"\\ude00"', '"\\ud83d\\ude00"', '"\\u0000"'),
)


def test_values_that_are_easily_taken_for_each_other_stay_apart() -> None:
    made = {links([called(f'{{"v": {value}}}')], SEED)[0] for value in ONE_BY_ONE}
    assert len(made) == len(ONE_BY_ONE)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ('{"a":1,"a":2}', '{"a":2}'),  # readers differ in which one they take
        ('{"b":{"a":1,"a":2}}', '{"b":{"a":2}}'),
        ("1.0", "1.00"),  # a custom tool's plain text, not JSON
        ("ls -l", "ls  -l"),
        ('{"a": 1', '{"a":1'),
        ('{"a":"\n"}', '{"a":"\\n"}'),
    ],
)
def test_what_is_no_plain_json_object_is_taken_to_the_letter(one: str, two: str) -> None:
    assert not same(one, two)
    assert same(one, str(one))


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 100_000])
def test_arguments_nested_deep_are_read_up_to_a_fixed_depth(depth: int) -> None:
    def nested(fill: str) -> str:
        return '{"a": ' + "[" * (depth - 2) + fill + "]" * (depth - 2) + "}"

    assert same(nested("7"), nested("7"))
    assert not same(nested("7"), nested("8"))
    assert same(nested("7"), nested(" 7")) == (depth <= MAX_DEPTH)


def test_the_depth_of_the_caller_decides_nothing() -> None:
    turn = called('{"a": ' + "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2) + "}")

    def from_depth(left: int) -> list[bytes]:
        return from_depth(left - 1) if left else links([turn], SEED)

    assert from_depth(sys.getrecursionlimit() // 2) == links([turn], SEED)


def test_lone_surrogates_and_moved_borders_between_fields_stay_apart() -> None:
    turns = [Turn(Role.USER, text) for text in ("\ud83d", "\ude00", "\ud83d\ude00", "\U0001f600", "\ufffd", "?")]
    turns += [Turn(Role.TOOL, "ab", call_id="c"), Turn(Role.TOOL, "a", call_id="bc"), Turn(Role.TOOL, "abc")]
    turns += [Turn(Role.ASSISTANT, calls=(ToolCall(*call),)) for call in (("ab", "c", ""), ("a", "bc", ""))]
    assert len({links([turn], SEED)[0] for turn in turns}) == len(turns)
    assert {len(link) for link in links(turns, SEED)} == {SIZE}


# --- the index ---


def said(*texts: str) -> list[Turn]:
    return [Turn(Role.USER, text) for text in texts]


def index_of(**sessions: str) -> PrefixIndex:
    """An index of sessions with a turn for each letter, the newest last."""
    index = PrefixIndex()
    for session, letters in sessions.items():
        index.add(session, SEED, links(said(*letters), SEED), said(*letters))
    return index


def find(index: PrefixIndex, letters: str) -> tuple[str, int] | None:
    return index.longest_prefix(index.links(said(*letters), SEED))


def test_the_longest_history_is_found_and_then_the_newest() -> None:
    index = index_of(one="abc", two="abd", three="x")
    assert find(index, "abce") == ("one", 3)
    assert find(index, "abd") == ("two", 3)
    assert find(index, "abz") == ("two", 2)  # both would fork: the newest
    assert (find(index, "zab"), find(index, "")) == (None, None)


def test_a_session_that_goes_on_is_preferred_to_one_that_must_fork() -> None:
    index = index_of(short="ab", long="abc")
    assert find(index, "abz") == ("short", 2)
    index.remove("short")
    assert find(index, "abz") == ("long", 2)
    assert find(index_of(old="ab", new="ab", longer="abc"), "ab") == ("new", 2)


def test_a_session_that_is_rewound_no_longer_answers_for_what_it_forgot() -> None:
    index = index_of(one="abcd")
    index.add("one", SEED, links(said(*"ab"), SEED))
    assert find(index, "abcd") == ("one", 2)
    index.add("one", SEED, [])
    assert find(index, "abcd") is None


def test_no_key_finds_the_sessions_of_another() -> None:
    index = index_of(one="abc")
    assert index.longest_prefix(index.links(said(*"abc"), seed("other", "model"))) is None


def test_turns_are_freed_with_the_session_that_goes() -> None:
    def held(session: str, letters: str) -> Iterator[weakref.ref[Turn]]:
        turns = said(*letters)
        index.add(session, SEED, links(turns, SEED), turns)
        return map(weakref.ref, turns)

    index = PrefixIndex()
    first, second = [*held("one", "abc")], [*held("two", "abd")]
    index.remove("two")
    gc.collect()
    assert [turn() is None for turn in (*first, *second)] == [True, True, False, False, False, True]
    index.drop_turns("one")
    gc.collect()
    assert not any(turn() for turn in (*first, *second))
    assert find(index, "abc") == ("one", 3)  # its links are still there


def test_a_link_is_found_again_from_the_turns_as_the_client_sends_them() -> None:
    turns = [called('{"b": 1, "a": 2}'), called('{"a":2,"b":1}')]
    index = PrefixIndex()
    for turn in turns:
        index.add("one", SEED, links([turn], SEED), [turn])
        assert [index.links([other], SEED) for other in turns] == [links([other], SEED) for other in turns]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_turn_that_differs_in_one_field_is_not_taken_for_the_known_one(change: Callable[[Turn], Turn]) -> None:
    known = called('{"a": 1}')
    index = PrefixIndex()
    index.add("one", SEED, links([known], SEED), [known])
    assert index.links([change(known)], SEED) == links([change(known)], SEED) != links([known], SEED)


LETTERS = st.text("ab", max_size=4)


class Indexed(RuleBasedStateMachine):
    """An index beside a plain list of sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.held = PrefixIndex(), list[tuple[str, str]]()

    @rule(session=st.sampled_from("123"), letters=LETTERS, given=st.integers(0, 4))
    def add(self, session: str, letters: str, given: int) -> None:
        turns = said(*letters)
        self.index.add(session, SEED, self.index.links(turns, SEED), turns[:given])
        self.held = [*(one for one in self.held if one[0] != session), (session, letters)]

    @rule(session=st.sampled_from("123"))
    def remove(self, session: str) -> None:
        self.index.remove(session)
        self.held = [one for one in self.held if one[0] != session]

    @rule(session=st.sampled_from("123"))
    def let_go(self, session: str) -> None:
        self.index.drop_turns(session)

    @rule(letters=LETTERS)
    def find(self, letters: str) -> None:
        turns = said(*letters)
        assert self.index.links(turns, SEED) == links(turns, SEED)
        found = self.index.longest_prefix(links(turns, SEED))
        ranked = [
            (len(common(letters, own)), len(common(letters, own)) == len(own), at)
            for at, (_, own) in enumerate(self.held)
            if common(letters, own)
        ]
        expected = (self.held[max(ranked)[2]][0], max(ranked)[0]) if ranked else None
        assert found == expected

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        prefixes = {own[:end] for _, own in self.held for end in range(1, len(own) + 1)}
        assert len(self.index._holders) == len(prefixes)
        assert len(self.index._turns) <= len(prefixes)
        assert sum(map(len, self.index._next.values())) == len(self.index._turns)


def common(one: str, two: str) -> str:
    return next((one[:end] for end in range(min(len(one), len(two)), 0, -1) if one[:end] == two[:end]), "")


TestIndexed = Indexed.TestCase


def test_threads_that_add_and_remove_never_make_a_wrong_link() -> None:
    index, wrong = PrefixIndex(), []
    histories = [said(*letters) for letters in ("abcd", "abce", "abf", "g")]

    def work(number: int) -> None:
        rng = Random(number)
        for _ in range(2000):
            turns, session = rng.choice(histories), str(rng.randrange(3))
            made = index.links(turns, SEED)
            if made != links(turns, SEED):
                wrong.append(turns)
            rng.choice([index.remove, index.drop_turns, lambda one: index.add(one, SEED, made, turns)])(session)  # noqa: B023

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_turns_that_are_known_are_compared_and_not_hashed_again() -> None:
    def turns() -> list[Turn]:
        return [
            called(json.dumps({"text": f"{at} " * 1000})) if at % 2 else Turn(Role.TOOL, f"{at} " * 1000, call_id="c")
            for at in range(500)
        ]

    index, first = PrefixIndex(), links(turns()[:-2], SEED)
    index.add("one", SEED, first, turns()[:-2])
    again = index.links(turns(), SEED)
    assert index.longest_prefix(again) == ("one", 498)
    assert all(link is known for link, known in zip(again, first, strict=False))  # a new hash is a new object
