"""The compactor: a stable prefix between compactions, nothing compacted twice, and no failure ever in the way."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests_of_a_loop import RULES, STEPS, TASK, TRIGGER, check_requests, observation

from holdfast.adapters import compactor as module
from holdfast.adapters.compactor import CompactionWarning, Compactor
from holdfast.adapters.messages import compact_messages, turns_of
from holdfast.errors import BadOption
from holdfast.session.trigger import CircuitBreaker
from holdfast.text.rewrite import Rewritten, TextPlan


def step(number: int) -> list[dict[str, Any]]:
    call = {"id": f"c{number}", "type": "function", "function": {"name": "bash", "arguments": '{"command": "make"}'}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call], "vendor": {"signature": number}},
        {"role": "tool", "tool_call_id": f"c{number}", "content": observation(number)},
    ]


def session(steps: int, task: str = TASK) -> list[dict[str, Any]]:
    head = [{"role": "system", "content": "You are careful."}, {"role": "user", "content": task}]
    return [*head, *(message for number in range(steps) for message in step(number))]


def small(**options: Any) -> tuple[Compactor, list[Rewritten], list[str]]:
    done: list[Rewritten] = []
    failures: list[str] = []
    made = Compactor(trigger=TRIGGER, on_compaction=done.append, on_failure=failures.append, **options)
    return made, done, failures


@pytest.mark.parametrize("method", ["tiered", "truncate", "mask_observations", "keep_recent"])
def test_a_loop_stays_small_legal_and_byte_stable(method):
    compactor, done, failures = small(plan=TextPlan(method, budget=TRIGGER // 2))
    sent = [compact_messages(compactor, session(steps)) for steps in range(STEPS)]
    check_requests([turns_of(request) for request in sent], [list(map(json.dumps, r)) for r in sent], len(done))
    assert failures == []


def test_a_library_that_hands_back_what_it_was_given_gets_the_same_requests():
    one, done, _ = small()
    other, done_again, _ = small()
    kept: list[dict[str, Any]] = session(0)
    for steps in range(STEPS):
        kept = compact_messages(other, [*kept, *(step(steps - 1) if steps else ())])
        assert kept == compact_messages(one, session(steps))
    assert len(done) == len(done_again) > 1
    assert done_again[-1].draft.raw.turns[:2] == turns_of(session(2))[:2]
    assert len(done_again[-1].draft.raw.turns) == len(done[-1].draft.raw.turns)


def test_the_raw_session_is_compacted_on_and_not_again():
    compactor, done, _ = small()
    for steps in range(STEPS):
        compact_messages(compactor, session(steps))
    assert len(done) > 1
    assert all(one.tokens_before < 1.5 * TRIGGER for one in done)


def test_what_nothing_touched_is_the_object_that_was_given():
    compactor, _, _ = small()
    given_ = session(STEPS)
    sent = compact_messages(compactor, given_)
    assert sent[-1] is given_[-1]
    assert sent[0] is given_[0]
    assert any(message is not given_[at] for at, message in enumerate(sent))


def test_a_short_history_goes_through_as_it_is():
    compactor, done, _ = small()
    assert compact_messages(compactor, session(3)) == session(3)
    assert done == []
    assert compact_messages(compactor, []) == []


def test_inputs_are_never_changed():
    compactor, _, _ = small()
    given_ = session(STEPS)
    before = json.dumps(given_)
    compact_messages(compactor, given_)
    assert json.dumps(given_) == before


def test_histories_that_share_a_compactor_do_not_mix():
    compactor, _, failures = small()
    for steps in range(STEPS):
        for task in (TASK, f"Write docs. {TASK}"):
            sent = compact_messages(compactor, session(steps, task))
            assert sent[1]["content"] == task
    assert failures == []


def test_a_fork_keeps_the_prefix_of_its_parent():
    compactor, _, _ = small()
    parent = compact_messages(compactor, session(STEPS))
    fork = compact_messages(compactor, [*session(STEPS), {"role": "user", "content": "Another way?"}])
    assert fork[:-1] == parent


def test_an_edited_history_is_a_new_one():
    compactor, _, _ = small()
    compact_messages(compactor, session(STEPS))
    edited = session(STEPS)
    edited[3]["content"] = "rewritten by hand"
    assert compact_messages(compactor, edited)[1] == edited[1]


def failing(*_: Any, **__: Any) -> Rewritten:
    raise RuntimeError("out of luck")


def test_a_failure_sends_the_original_and_is_reported(monkeypatch):
    compactor, _, failures = small()
    monkeypatch.setattr(module, "rewrite_again", failing)
    assert compact_messages(compactor, session(STEPS)) == session(STEPS)
    assert failures == ["RuntimeError: out of luck"]


def test_a_failure_is_a_warning_where_nobody_is_told(monkeypatch):
    monkeypatch.setattr(module, "rewrite_again", failing)
    with pytest.warns(CompactionWarning, match="out of luck"):
        compact_messages(Compactor(trigger=TRIGGER), session(STEPS))


def test_a_later_failure_keeps_what_stands(monkeypatch):
    compactor, done, failures = small()
    sent = compact_messages(compactor, session(STEPS))
    monkeypatch.setattr(module, "rewrite_again", failing)
    later = compact_messages(compactor, session(2 * STEPS))
    assert len(done) == 1
    assert failures
    assert later[: len(sent)] == sent


def test_failures_are_not_tried_at_every_request(monkeypatch):
    compactor, _, failures = small()
    monkeypatch.setattr(module, "rewrite_again", failing)
    for steps in range(20, 20 + STEPS):
        compact_messages(compactor, session(steps))
    assert 1 < len(failures) < 10


def test_it_is_tried_again_once_the_history_has_grown(monkeypatch):
    compactor, done, _ = small(breaker=CircuitBreaker(most_failures=1))
    with monkeypatch.context() as patched:
        patched.setattr(module, "rewrite_again", failing)
        compact_messages(compactor, session(25))
    compact_messages(compactor, session(27))
    assert done == []
    compact_messages(compactor, session(60))
    assert len(done) == 1


def test_a_compaction_that_gains_nothing_is_not_used():
    compactor, done, failures = small(plan=TextPlan("none", budget=TRIGGER // 2))
    assert compact_messages(compactor, session(STEPS)) == session(STEPS)
    assert done == []
    assert "too little" in failures[0]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "robot", "content": "x"},
        {"content": "x"},
        {"role": "user", "content": 3},
        "text",
        None,
        {"role": "exit"},
    ],
)
def test_messages_that_cannot_be_read_go_through(message):
    compactor, _, failures = small()
    given_ = [*session(STEPS), message]
    assert compact_messages(compactor, given_) == given_
    assert len(failures) == 1


def test_an_orphaned_result_goes_through_and_is_reported():
    compactor, _, failures = small()
    given_ = [*session(STEPS), {"role": "tool", "tool_call_id": "nobody", "content": "x"}]
    assert compact_messages(compactor, given_) == given_
    assert "nobody" in failures[0]


@pytest.mark.parametrize(
    "options",
    [
        {"trigger": 0},
        {"window": 0},
        {"trigger": 100, "plan": TextPlan("tiered", budget=100)},
        {"plan": TextPlan("no_such_method", budget=10)},
    ],
)
def test_a_plan_that_cannot_work_is_refused_at_once(options):
    with pytest.raises(BadOption):
        Compactor(**options)


def test_nothing_is_compacted_below_a_fifth_of_the_window():
    assert Compactor(window=200_000).trigger == 40_000
    assert Compactor(window=8_000).trigger == 12_000


def test_on_request_it_compacts_below_the_trigger_too():
    compactor = Compactor(plan=TextPlan("truncate", budget=500), trigger=100_000)
    turns = turns_of(session(STEPS))
    assert len(compactor.view(turns).pieces) == len(turns)
    assert len(compactor.view(turns, force=True).pieces) < len(turns)


def test_threads_may_share_one():
    compactor, _, failures = small()
    made: dict[int, list[dict[str, Any]]] = {}

    def work(number: int) -> None:
        for steps in range(0, STEPS, 3):
            made[number] = compact_messages(compactor, session(steps, f"{number} {TASK}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(made[number][1]["content"].startswith(str(number)) for number in made)


def test_masked_arguments_are_sent_in_the_kind_of_their_call():
    code = "x = 1\n" * 200
    part = {"type": "tool_use", "id": "p", "name": "Write", "input": {"path": "a.py", "content": code}}
    calls = [
        {"id": "f", "type": "function", "index": 0, "function": {"name": "w", "arguments": json.dumps({"t": code})}},
        {"id": "c", "type": "custom", "custom": {"name": "apply_patch", "input": code}},
    ]
    messages = [
        {"role": "user", "content": "Fix it"},
        {"role": "assistant", "content": [part], "tool_calls": calls},
        *({"role": "tool", "tool_call_id": id_, "content": "ok"} for id_ in "fcp"),
        {"role": "assistant", "content": "Done."},
    ]
    compactor = Compactor(TextPlan("mask_calls", budget=1, keep_recent=1, gate=False), trigger=50)
    sent = compact_messages(compactor, messages)[1]
    (told,) = [block for block in sent["content"] if block["type"] == "tool_use"]
    function, custom = sent["tool_calls"]
    assert told == {**part, "input": {"path": "a.py", "content": told["input"]["content"]}}
    assert (function["index"], custom["type"], list(custom)) == (0, "custom", list(calls[1]))
    masked = [told["input"]["content"], json.loads(function["function"]["arguments"])["t"], custom["custom"]["input"]]
    assert all(text.startswith("[holdfast: 201 lines") for text in masked)


def test_fenced_commands_and_their_results_stay_messages_of_their_kinds():
    messages: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    for number in range(STEPS):
        action = {"actions": [{"command": "make"}]}
        messages.append({"role": "assistant", "content": "Run it.\n```bash\nmake\n```", "extra": action})
        messages.append({"role": "user", "content": f"<returncode>0</returncode>\n{observation(number)}"})
    compactor, done, failures = small(plan=TextPlan("mask_observations", budget=TRIGGER // 2))
    sent = compact_messages(compactor, messages)
    assert len(done) == 1
    assert failures == []
    assert {message["role"] for message in sent} == {"user", "assistant"}
    assert not any("tool_calls" in message or "tool_call_id" in message for message in sent)
    assert all(rule in sent[0]["content"] for rule in RULES)


def test_what_a_vendor_needs_stays_on_a_rewritten_message():
    original = {
        "role": "assistant",
        "content": [{"type": "text", "text": "old"}, {"type": "image_url", "image_url": {"url": "x"}}],
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, "signature": "s"}],
        "reasoning_content": "thoughts",
    }
    turn = turns_of([original])[0]
    made = module_message_of(replace(turn, text="new\n[image]"), original)
    assert made["tool_calls"] == original["tool_calls"]
    assert made["reasoning_content"] == "thoughts"
    assert made["content"][0] == {"type": "text", "text": "new"}
    bare = module_message_of(replace(turn, text="new", calls=(), reasoning=""), original)
    assert "tool_calls" not in bare
    assert "reasoning_content" not in bare


def module_message_of(turn: Any, original: dict[str, Any]) -> dict[str, Any]:
    from holdfast.adapters.messages import message_of

    return message_of(turn, original)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), st.sampled_from(["tiered", "truncate"]))
def test_property_any_growth_stays_legal_and_keeps_its_prefix(sizes, method):
    done: list[Rewritten] = []
    compactor = Compactor(
        TextPlan(method, budget=400), trigger=1_000, on_compaction=done.append, on_failure=lambda _: None
    )
    messages, before = session(0), list[dict[str, Any]]()
    for number, size in enumerate(sizes):
        call, result = step(number)
        messages = [*messages, call, {**result, "content": f"value {number} " * size}]
        known = len(done)
        sent = compact_messages(compactor, messages)
        assert turns_of(sent)
        assert sent[-1] is messages[-1]
        assert len(done) > known or sent[: len(before)] == before
        before = sent
