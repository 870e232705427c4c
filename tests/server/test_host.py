"""Sessions behind a stateless wire: what is read again, who shares what, what is compacted when, what is durable."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from conftest import build_pair, small_session
from holdfast.compaction.plan import Plan, Policy
from holdfast.engine.local import LocalEngine
from holdfast.errors import (
    BadContext,
    BadInput,
    BadOption,
    Busy,
    HoldfastError,
    Missing,
    PromptTooLong,
    TooLarge,
    UnsupportedModel,
)
from holdfast.model.load import full_bytes
from holdfast.server.output.processor import OutputProcessor
from holdfast.server.protocol import AnswerEnd, AnswerStart, GenerateRequest, TextDelta
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker, Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, ToolCall, Turn
from waiting import PATIENCE, until

TURNS = small_session().turns
PLAN = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
NEVER = HostPolicy(trigger=Trigger(tokens=10**9, window=None))
EAGER = HostPolicy(trigger=Trigger(tokens=300, window=None), breaker=CircuitBreaker(cool_down=0))


def engine() -> LocalEngine:
    return build_pair("llama").engine


def host(store: Store | str | Path = "", policy: HostPolicy = NEVER, plan: Plan = PLAN) -> SessionHost:
    store = store if isinstance(store, Store) else Store(store or f"memory://{uuid4().hex}")
    return SessionHost(engine(), plan, store, policy)


def ask(turns: tuple[Turn, ...] = TURNS[:2], **options: Any) -> GenerateRequest:
    return GenerateRequest(turns, **({"max_tokens": 4, "key": "k"} | options))


def run(held: SessionHost, asked: GenerateRequest) -> tuple[AnswerStart, str, AnswerEnd]:
    events = list(held.complete(asked))
    assert isinstance(events[0], AnswerStart)
    assert isinstance(events[-1], AnswerEnd)
    return events[0], "".join(e.text for e in events if isinstance(e, TextDelta)), events[-1]


def user(text: str) -> Turn:
    return Turn(Role.USER, text)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass of the model read."""
    from holdfast.engine.kv_context import KVContext

    counts: list[int] = []
    real = KVContext.feed_inputs

    def feed(live: KVContext, inputs: Any, *args: Any, **options: Any) -> Any:
        counts.append(len(inputs))
        return real(live, inputs, *args, **options)

    monkeypatch.setattr(KVContext, "feed_inputs", feed)
    return counts


def test_a_second_request_reads_only_what_is_new(fed: list[int]) -> None:
    held = host()
    first, _, done = run(held, ask())
    fed.clear()
    more = (*TURNS[:2], done.turn, user("And the host?"))
    second, _, last = run(held, ask(more))
    assert second.session == first.session
    assert second.cached_tokens > first.prompt_tokens
    new = second.prompt_tokens - second.cached_tokens
    assert new <= sum(fed) <= new + last.completion_tokens + 2  # and what closes the answer
    assert (last.prompt_tokens, last.cached_tokens) == (second.prompt_tokens, second.cached_tokens)


def test_a_session_answers_as_the_whole_history_read_anew_does() -> None:
    held = host()
    for turns in (TURNS[:2], TURNS[:7], TURNS[:8]):
        answered = run(held, ask(turns))[1]
    assert answered == run(host(), ask(turns))[1]


def test_an_edited_history_forks_and_leaves_the_first_session_alone() -> None:
    held = host()
    first, _, done = run(held, ask())
    other, _, _ = run(held, ask((*TURNS[:2], replace(done.turn, text="Something else."), user("Why?"))))
    again, _, _ = run(held, ask((*TURNS[:2], done.turn, user("Why?"))))
    assert other.session != first.session == again.session
    assert 0 < other.cached_tokens < again.cached_tokens


def test_a_request_that_is_sent_again_reads_nothing_and_gets_the_same_answer(fed: list[int]) -> None:
    held = host()
    one = run(held, ask())
    fed.clear()
    two = run(held, ask())
    assert one[1] == two[1]
    assert two[0].cached_tokens == one[0].prompt_tokens - max(fed)  # all but what opens the answer


def test_keys_never_share_a_session() -> None:
    held = host()
    mine, _, _ = run(held, ask())
    theirs, _, _ = run(held, ask(key="other"))
    assert theirs.cached_tokens == 0
    assert theirs.session != mine.session
    assert [row["id"] for row in held.sessions("other")] == [theirs.session]
    for act in (
        lambda: held.session(mine.session, "other"),
        lambda: held.compact(mine.session, "other", {}),
        lambda: held.export(mine.session, "other"),
        lambda: held.drop(mine.session, "other"),
    ):
        with pytest.raises(Missing, match="no session"):
            act()


def test_tools_are_part_of_what_a_session_is() -> None:
    held, tool = host(), {"type": "function", "function": {"name": "f", "parameters": {}}}
    run(held, ask())
    assert run(held, ask(tools=(tool,)))[0].cached_tokens == 0


def test_a_stop_text_ends_the_answer_and_stands_in_neither_answer_nor_session() -> None:
    held = host()
    whole = run(held, ask(max_tokens=24))[1]
    stop = whole[6:8]
    asked = ask(max_tokens=24, stop=(stop,), key="two")
    _, text, done = run(held, asked)
    assert text == whole[: whole.index(stop)]
    assert (done.reason, done.stopped_by) == ("stop", stop)
    assert run(held, ask((*asked.turns, done.turn, user("Go on.")), key="two"))[0].cached_tokens > 0


def test_log_probabilities_are_those_of_the_model_and_cover_every_token() -> None:
    events = [e for e in host().complete(ask(max_tokens=6, logprobs=3)) if isinstance(e, TextDelta)]
    rows = [row for event in events for row in event.logprobs]
    assert 1 <= len(rows) <= 6
    assert all(row.logprob <= 0 and len(row.top) == 3 for row in rows)
    assert all(row.logprob == pytest.approx(max(p for _, p in row.top)) for row in rows)  # greedy


def test_a_plain_prompt_has_no_template_and_no_session() -> None:
    held = host()
    started, _, done = run(held, GenerateRequest(prompt="import os", max_tokens=5))
    assert started.session == ""
    assert done.completion_tokens == 5 or done.reason == "stop"
    assert not held.sessions("")


def test_an_answer_that_is_broken_off_leaves_the_history_read_and_nothing_else() -> None:
    held = host()
    events = held.complete(ask(max_tokens=50))
    started = next(events)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert isinstance(started, AnswerStart)
    assert held.session(started.session, "k")["turns"] == 2
    again, _, _ = run(held, ask())
    assert again.session == started.session
    assert again.cached_tokens > 0


def test_a_session_that_passes_the_trigger_is_compacted_after_its_answer() -> None:
    held = host(policy=EAGER)
    started, _, _ = run(held, ask(TURNS))
    settled(held, started.session)
    row = held.session(started.session, "k")
    assert row["compactions"] == 1
    assert row["slots"] < 0.7 * row["tokens"]
    assert row["bytes"] < 0.7 * row["bytes_full"]
    assert {piece["fate"] for piece in row["blocks"]} == {"verbatim", "compacted"}
    assert any(point["compacted"] for point in row["rounds"])
    until(lambda: held.stats().compactions == 1)


def test_compacted_sessions_are_continued_without_reading_them_again(fed: list[int]) -> None:
    held = host(policy=EAGER)
    started, _, done = run(held, ask(TURNS))
    settled(held, started.session)
    fed.clear()
    started, _, last = run(held, ask((*TURNS, done.turn, user("And now?"))))
    assert started.cached_tokens > 0.8 * started.prompt_tokens
    assert sum(fed) < 0.2 * started.prompt_tokens
    assert last.extension["compactions"] == 1
    assert last.extension["bytes"] < last.extension["bytes_full"]


def test_a_session_answers_while_it_is_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    held, begun, go = host(policy=EAGER), threading.Event(), threading.Event()
    real = Session.prepare

    def slow(session: Session, *of: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(PATIENCE)
        return real(session, *of, **options)

    monkeypatch.setattr(Session, "prepare", slow)
    started, _, done = run(held, ask(TURNS))
    assert begun.wait(PATIENCE)
    again, _, last = run(held, ask((*TURNS, done.turn, user("And now?"))))
    assert again.session == started.session
    assert last.extension["compactions"] == 0
    go.set()
    settled(held, started.session)
    more = (*TURNS, done.turn, user("And now?"), last.turn, user("Go on."))
    third, _, _ = run(held, ask(more))
    assert third.session == started.session
    assert third.cached_tokens > again.prompt_tokens


def test_a_failing_compaction_harms_nobody_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    held = host(policy=EAGER)
    monkeypatch.setattr(
        "holdfast.session.cache.compact_in_memory", lambda *a, **k: (_ for _ in ()).throw(MemoryError("no room"))
    )
    started, _, done = run(held, ask(TURNS))
    until(lambda: held.stats().failures)
    assert held.stats().failures == 1
    assert run(held, ask((*TURNS, done.turn, user("Go on."))))[0].session == started.session


def settled(held: SessionHost, name: str, compactions: int = 1) -> None:
    """Wait for the compaction in the background."""
    until(lambda: held.registry.get(name, "k").session.compactions >= compactions)


def test_a_pause_of_the_user_is_used() -> None:
    policy = HostPolicy(
        trigger=Trigger(tokens=600, window=None, idle=0.0, early=0.6), breaker=CircuitBreaker(cool_down=0)
    )
    held = host(policy=policy)
    started, _, _ = run(held, ask(TURNS))
    assert held.stats().compactions == 0
    settled(held, started.session)
    held.close()


def test_to_look_who_rests_is_not_to_use_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.server.sessions.compaction_queue.LOOK", 0.01)
    held = host(policy=HostPolicy(trigger=Trigger(tokens=10**9, window=None, idle=0.0)))
    names = [run(held, ask((user(text),)))[0].session for text in ("One?", "Two?", "Three?")]
    looks, real = [0], held.registry.list_entries

    def look(*of: Any) -> Any:
        looks[0] += 1
        return real(*of)

    monkeypatch.setattr(held.registry, "list_entries", look)
    until(lambda: looks[0] >= 4)
    assert held.registry.memory.resident == tuple(names)
    held.close()


def test_what_is_told_of_a_compaction_is_of_the_newest_that_stands() -> None:
    held = host()
    started, _, done = run(held, ask(TURNS[:7]))
    held.compact(started.session, "k", {"ratio": 4})
    _, _, done = run(held, ask((*TURNS[:7], done.turn, *TURNS[7:])))
    assert done.extension["evidence"]["before"]
    first = held.session(started.session, "k")["evidence"]
    held.compact(started.session, "k", {"ratio": 8})
    assert held.session(started.session, "k")["evidence"]["recipe"]["ratio"] == 8
    held.undo(started.session, "k")
    assert held.session(started.session, "k")["evidence"] == first


def test_one_compaction_may_ask_for_fewer_recent_exchanges() -> None:
    held = host()
    name = run(held, ask(TURNS))[0].session
    some = held.compact(name, "k", {})["slots"]
    held.undo(name, "k")
    assert held.compact(name, "k", {"keep_recent": 0})["slots"] < some


def test_a_history_longer_than_the_window_is_read_in_pieces_and_compacted_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = host(policy=HostPolicy(trigger=Trigger(), max_tokens=8))
    monkeypatch.setattr(held.engine.model.hf.config, "max_position_embeddings", 600)
    turns = tuple(replace(turn) for _ in range(3) for turn in TURNS[2:7])
    started, _, done = run(held, ask((*TURNS[:2], *turns, user("And?"))))
    assert started.prompt_tokens > 600
    assert done.extension["compactions"] >= 1


def test_one_turn_longer_than_the_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    held = host()
    monkeypatch.setattr(held.engine.model.hf.config, "max_position_embeddings", 300)
    with pytest.raises(TooLarge):
        list(held.complete(ask((user("word " * 400),))))
    run(held, ask((user("short"),)))


@pytest.mark.parametrize("known", [False, True], ids=["new", "forked"])
def test_a_history_that_no_compaction_fits_is_refused_unread_and_leaves_no_session(
    monkeypatch: pytest.MonkeyPatch, fed: list[int], known: bool
) -> None:
    held = host()
    if known:
        run(held, ask(TURNS[:2]))
    before = len(held.sessions("k"))
    monkeypatch.setattr(held.engine.model.hf.config, "max_position_embeddings", 600)
    fed.clear()
    pinned = tuple(user(f"Rule {n}: " + "keep this in mind " * 12) for n in range(8))
    with pytest.raises(PromptTooLong) as refused:
        list(held.complete(ask((*TURNS[: 2 if known else 0], *pinned))))
    assert refused.value.tokens > refused.value.most == 600
    assert not fed
    assert len(held.sessions("k")) == before


LONG = Turn(Role.SYSTEM, "You are a coding agent. " * 20)


def with_system(text: str, *turns: Turn) -> tuple[Turn, ...]:
    return (Turn(Role.SYSTEM, text), *turns)


def test_a_line_that_changes_with_each_request_is_no_other_session() -> None:
    held = host()
    billed = "x-anthropic-billing-header: cc_version=2.1.332; cch={};\nYou are an agent."
    first, _, done = run(held, ask(with_system(billed.format("00a1f"), user("Go"))))
    again, _, _ = run(held, ask(with_system(billed.format("9be02"), user("Go"), done.turn, user("And?"))))
    other, _, _ = run(held, ask(with_system("You are another agent.", user("Go"), done.turn, user("And?"))))
    assert again.session == first.session != other.session
    strict = host(policy=replace(NEVER, volatile=()))
    first, _, done = run(strict, ask(with_system(billed.format("00a1f"), user("Go"))))
    again, _, _ = run(strict, ask(with_system(billed.format("9be02"), user("Go"), done.turn, user("And?"))))
    assert again.session != first.session
    with pytest.raises(BadOption, match="regular expression"):
        host(policy=replace(NEVER, volatile=("(",)))


def test_a_long_system_prompt_is_read_once_for_all_sessions_of_a_key(tmp_path: Path, fed: list[int]) -> None:
    held = host(tmp_path, policy=replace(NEVER, head=32))
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    first, text, _ = run(held, ask((LONG, user("Fix the port.")), tools=(tool,)))
    size = max(fed)
    assert first.cached_tokens == 0
    fed.clear()
    second, _, done = run(held, ask((LONG, user("Write a title.")), tools=(tool,)))
    assert second.session != first.session
    assert second.cached_tokens >= size > 8 * max(fed)
    assert text == run(host(), ask((LONG, user("Fix the port.")), tools=(tool,)))[1]  # as one that is read whole
    assert {row["id"] for row in held.sessions("k")} == {first.session, second.session}
    assert run(held, ask((LONG, user("Fix it.")), tools=(tool,), key="other"))[0].cached_tokens == 0
    held.close()
    again = host(tmp_path, policy=replace(NEVER, head=32))
    fed.clear()
    assert (
        run(
            again,
            ask(
                (
                    LONG,
                    user("A third."),
                ),
                tools=(tool,),
            ),
        )[0].cached_tokens
        >= size
        > 8 * max(fed)
    )
    on, _, _ = run(again, ask((LONG, user("Write a title."), done.turn, user("Shorter.")), tools=(tool,)))
    assert on.session == second.session


def test_a_request_beside_one_that_is_answered_neither_waits_nor_takes_its_session() -> None:
    held = host()
    _, _, done = run(held, ask())
    history = (*TURNS[:2], done.turn)
    answering = held.complete(ask((*history, user("Why?")), max_tokens=8))
    main = next(answering)
    assert isinstance(main, AnswerStart)
    next(answering)  # the answer has begun, and goes on when it is asked for more
    side, _, _ = run(held, ask((*history, user("Why?"), user("Write a title."))))
    *_, end = answering
    assert isinstance(end, AnswerEnd)
    assert side.session != main.session
    on, _, _ = run(held, ask((*history, user("Why?"), end.turn, user("And?"))))
    assert on.session == main.session


def test_two_requests_on_one_session_fork_and_never_mix() -> None:
    held = host()
    _, _, done = run(held, ask())
    history, found = (*TURNS[:2], done.turn), {}

    def go(question: str) -> None:
        found[question] = run(held, ask((*history, user(question)), max_tokens=8))

    threads = [threading.Thread(target=go, args=(q,)) for q in ("Why?", "Where?", "Who?")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len({started.session for started, _, _ in found.values()}) == 3
    for question, (_, text, _) in found.items():
        assert text == run(host(), ask((*history, user(question)), max_tokens=8))[1]


def test_more_sessions_than_memory_go_to_disk_and_come_back(tmp_path: Path) -> None:
    room = 2 * full_bytes(engine().model, 600)
    held = host(tmp_path, policy=replace(NEVER, memory=room))
    names = {}
    for n in range(6):
        names[n] = run(held, ask((user(f"Session {n}: " + "words " * 40),)))
    stats = held.stats()
    assert stats.sessions == 6
    assert stats.resident < 6
    assert stats.bytes_held <= room
    again, _, _ = run(held, ask((user("Session 0: " + "words " * 40), names[0][2].turn, user("More?"))))
    assert again.session == names[0][0].session
    assert again.cached_tokens > 0


def test_a_session_larger_than_memory_is_refused_before_it_is_read(fed: list[int]) -> None:
    held = host(policy=replace(NEVER, memory=full_bytes(engine().model, 300)))
    with pytest.raises(TooLarge):
        list(held.complete(ask((user("words " * 300),))))
    assert not fed
    run(held, ask((user("short"),)))


def test_a_request_that_is_refused_leaves_no_session_behind(tmp_path: Path) -> None:
    held = host(tmp_path, policy=replace(NEVER, memory=full_bytes(engine().model, 400)))
    for _ in range(2):
        with pytest.raises(TooLarge):
            list(held.complete(ask((user("words " * 300),))))
    assert not held.sessions("k")
    assert not held.registry.store.logs()


@pytest.mark.parametrize("forced", [False, True])
def test_a_compaction_that_loses_the_next_step_is_tried_again_and_left(tmp_path: Path, forced: bool) -> None:
    window = Trigger(tokens=300, window=None, force=0.01 if forced else 0.95)
    policy = HostPolicy(trigger=window, breaker=CircuitBreaker(cool_down=0), accept=1e9)  # no memory retains so much
    held = host(tmp_path, policy=policy)
    started, _, _ = run(held, ask(TURNS))
    until(lambda: held.stats("k").compactions + held.stats("k").rejected)
    detail, stats = held.session(started.session, "k"), held.stats("k")
    assert (stats.compactions, stats.rejected) == ((1, 0) if forced else (0, 1))
    kinds = [event["kind"] for event in detail["events"]]
    told = next(event["told"] for event in detail["events"] if event["kind"] in ("rejected", "compacted"))
    tries = (told["accept"] if forced else told)["tries"]
    assert [one["ratio"] for one in tries] == [4.0, 2.0]
    assert all(one["retained"] < 1e9 for one in tries)
    assert kinds.count("rejected") == (not forced)
    moved = host().take(held.export(started.session, "k"), "k")
    assert moved["compactions"] == stats.compactions


def test_a_compaction_that_retains_the_next_step_is_taken_over_with_its_score(tmp_path: Path) -> None:
    held = host(tmp_path, policy=replace(EAGER, accept=-1e9))
    started, _, _ = run(held, ask(TURNS))
    settled(held, started.session)
    detail = held.session(started.session, "k")
    (score,) = detail["evidence"]["accept"]["tries"]
    assert detail["compactions"] == 1
    assert score["steps"] >= 1


def test_a_restart_finds_every_session_and_reads_nothing_that_was_saved(tmp_path: Path, fed: list[int]) -> None:
    held = host(tmp_path, policy=EAGER)
    started, _, done = run(held, ask(TURNS))
    settled(held, started.session)
    held.close()
    fed.clear()
    next_host = host(tmp_path, policy=EAGER)
    assert [row["id"] for row in next_host.sessions("k")] == [started.session]
    assert not next_host.sessions("k")[0]["resident"]
    again, _, _ = run(next_host, ask((*TURNS, done.turn, user("Go on."))))
    assert again.session == started.session
    assert sum(fed) < 60
    with pytest.raises(Busy):
        list(held.complete(ask()))


def test_a_damaged_log_does_not_keep_the_others_from_being_served(tmp_path: Path) -> None:
    held = host(tmp_path)
    good, bad = (run(held, ask((user(text),)))[0].session for text in ("good", "bad"))
    next((tmp_path / "logs" / bad).iterdir()).write_text("nonsense")
    held = host(tmp_path)
    assert [row["id"] for row in held.sessions("k")] == [good]
    assert list(held.registry.unreadable) == [bad]


def test_the_owner_compacts_undoes_pins_expands_and_marks() -> None:
    held = host()
    started, _, _ = run(held, ask(TURNS))
    name = started.session
    before = held.session(name, "k")
    pinned = held.pin(name, "k", 4, True)
    assert pinned["compactions"] == 0
    row = held.compact(name, "k", {"ratio": 8, "keep_recent": 2})
    assert row["compactions"] == 1
    assert row["slots"] < before["slots"]
    pieces = [piece for piece in held.session(name, "k")["blocks"] if piece["turn"] == 4]
    assert all(piece["pinned"] and piece["fate"] == "verbatim" for piece in pieces)
    assert held.expand(name, "k", 4)["text"] == TURNS[3].text
    assert held.undo(name, "k")["slots"] == before["slots"]
    twin = held.mark(name, "k", "fork", 5)
    assert (twin["turns"], twin["id"] != name) == (5, True)
    assert held.mark(name, "k", "discard", None)["turns"] == before["turns"] - 1
    with pytest.raises(BadOption, match="a mark is one of"):
        held.mark(name, "k", "nonsense", None)
    with pytest.raises(Missing):
        held.expand(name, "k", 99)
    held.drop(name, "k")
    with pytest.raises(Missing):
        held.session(name, "k")


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"latent": "nonsense"}, {"slots": 1}, {"keep_recent": -1}])
def test_senseless_options_change_nothing(options: Mapping[str, Any]) -> None:
    held = host()
    name = run(held, ask(TURNS))[0].session
    before = held.session(name, "k")["slots"]
    with pytest.raises(BadOption):
        held.compact(name, "k", options)
    assert held.session(name, "k")["slots"] == before


def test_a_boundary_is_a_place_to_compact() -> None:
    policy = HostPolicy(trigger=Trigger(tokens=600, window=None), breaker=CircuitBreaker(cool_down=0))
    held = host(policy=policy)
    name = run(held, ask(TURNS))[0].session
    held.mark(name, "k", "boundary", None)
    settled(held, name)


@pytest.mark.parametrize(("keep_recent", "compactions"), [(1, 1), (0, 0)])
def test_while_tools_run_is_a_time_to_compact_unless_their_call_would_go_too(
    keep_recent: int, compactions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Turn(Role.ASSISTANT, "Once more.", calls=(ToolCall("c9", "read_file", "{}"),))
    monkeypatch.setattr(OutputProcessor, "turn", property(lambda _: calls))
    held = host(policy=EAGER, plan=replace(PLAN, policy=Policy(keep_recent=keep_recent)))
    name = run(held, ask(TURNS))[0].session
    held.compactions._background.submit(int).result(20)  # what is due in the background has run
    assert held.registry.get(name, "k").session.compactions == compactions


def test_slots_of_blocks_add_up_to_what_is_held() -> None:
    held = host()
    name = run(held, ask(TURNS))[0].session
    row = held.compact(name, "k", {"ratio": 3})
    pieces = held.session(name, "k")["blocks"]
    assert abs(sum(piece["slots"] for piece in pieces) - row["slots"]) <= len(pieces)
    assert sum(piece["tokens"] for piece in pieces) == row["tokens"]


def test_a_session_is_carried_to_another_machine(tmp_path: Path) -> None:
    held = host(tmp_path / "a", policy=EAGER)
    started, _, done = run(held, ask(TURNS))
    settled(held, started.session)
    data = held.export(started.session, "k")
    assert b'"key"' not in data
    other = host(tmp_path / "b")
    row = other.take(data, "mine")
    assert (row["turns"], row["compactions"]) == (len(TURNS) + 1, 1)
    again, _, _ = run(other, ask((*TURNS, done.turn, user("Go on.")), key="mine"))
    assert again.session == row["id"]


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_session_is_not_taken(data: bytes) -> None:
    held = host()
    with pytest.raises(BadContext):
        held.take(data, "k")
    assert not held.sessions("k")


def test_a_damaged_export_is_refused_whole(tmp_path: Path) -> None:
    held = host(tmp_path)
    name = run(held, ask(TURNS))[0].session
    held.compact(name, "k", {})
    data = held.export(name, "k")
    for at in range(0, len(data), max(1, len(data) // 25)):
        bad = bytearray(data)
        bad[at] ^= 0xFF
        try:
            held.take(bytes(bad), "z")
        except HoldfastError as error:
            assert isinstance(error, BadContext)  # noqa: PT017  (a flip that nothing reads may be taken)


def test_a_model_that_cannot_keep_states_is_served_with_restart_alone() -> None:
    gemma, store = build_pair("gemma3_text").engine, Store("memory://gemma")
    with pytest.raises(UnsupportedModel, match="--restart"):
        SessionHost(gemma, PLAN, store, EAGER)
    held = SessionHost(gemma, PLAN, store, replace(EAGER, restart=True))
    started, _, _ = run(held, ask(TURNS))
    settled(held, started.session)


def test_a_request_without_messages_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one message"):
        list(host().complete(ask(())))


def test_counting_is_what_answering_reads() -> None:
    held = host()
    opening = held.engine.model.tokenizer("<|im_start|>assistant\n")["input_ids"]
    assert run(held, ask())[0].prompt_tokens == held.count(ask()) + len(opening)


@pytest.fixture(autouse=True)
def _window_back() -> Iterator[None]:
    yield
    assert engine().model.max_tokens == 8192


def test_a_busy_session_is_shown_while_it_answers(tmp_path: Path) -> None:
    held = host(tmp_path)
    events = held.complete(ask(max_tokens=3))
    name = next(events).session
    (row,) = held.sessions("k")
    shown = held.session(name, "k")  # which would wait for ever for a session that this very thread answers over
    assert (row["busy"], shown["turns"], len(shown["blocks"]) > 0) == (True, 2, True)
    assert held.expand(name, "k", 1)["text"] == TURNS[0].text
    next(events)
    assert held.sessions("k")[0]["activities"] == ["answering"]
    list(events)
    assert held.sessions("k")[0]["activities"] == []


def test_a_fork_names_its_origin_and_its_newest_question(tmp_path: Path) -> None:
    held = host(tmp_path)
    first = run(held, ask())[0].session
    fork = held.mark(first, "k", "fork", 2)
    rows = {row["id"]: row for row in held.sessions("k")}
    assert (rows[first]["parent"], rows[fork["id"]]["parent"]) == ("", first)
    assert rows[first]["newest"] == rows[first]["title"]
    assert (held.has_other_keys("k"), held.has_other_keys("other")) == (False, True)
