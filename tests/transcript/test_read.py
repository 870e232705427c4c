"""What cannot be read is refused in one line that says where and what to do; nothing else is ever raised."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_sessions import ANTHROPIC, BY_FORMAT, CLAUDE_CODE, OPENAI, lines, openai_call

from holdfast.errors import BadTranscript
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.document import decode
from holdfast.transcript.read import parse, read

BAD_FILES = {
    "empty": (b" \n", "empty"),
    "binary": (b"\x7fELF\0\0", "binary"),
    "latin-1": (b'[{"role": "user",\n"content": "\xe9"}]', "not UTF-8"),
    "utf-16": ("[]".encode("utf-16"), "binary"),
    "cut off": (b'[{"role": "user", "content": "h', "broken JSON"),
    "prose": (b"Dear diary", "no known session format"),
    "other json": (b'{"b": 1, "a": 2}', "'a', 'b'"),
    "no message": (b"[]", "no known session format"),
    "number": (b"12", "a number"),
    "deep": (b"[" * 100_000, "broken JSON"),
    "deep but closed": (b"[" * 5_000 + b"]" * 5_000, "nested more than"),
    "only bookkeeping": (lines(CLAUDE_CODE[0], CLAUDE_CODE[3]).encode(), "holds no turn"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_in_one_line_with_its_path(name: str, tmp_path: Path) -> None:
    content, reason = BAD_FILES[name]
    path = tmp_path / "session"
    path.write_bytes(content)
    with pytest.raises(BadTranscript) as caught:
        read(path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", ["missing.json", ".", "no\0such"])
def test_path_that_is_no_file_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadTranscript, match=r"no such file|is a folder|cannot be read"):
        read(tmp_path / path)


def test_file_name_does_not_matter(tmp_path: Path) -> None:
    for name, text in BY_FORMAT.items():
        path = tmp_path / "session.zip"
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert read(path).format == name


def test_content_of_two_formats_is_ambiguous() -> None:
    mixed = [*OPENAI, *ANTHROPIC["messages"]]
    with pytest.raises(BadTranscript, match=r"ambiguous.*openai_chat and anthropic"):
        parse(json.dumps(mixed))


@pytest.mark.parametrize("number", range(1, len(OPENAI) + 1))
@pytest.mark.parametrize("line", ["{oops", "7", '{"role": "king", "content": "x"}', '{"role": "user", "content": 7}'])
def test_malformed_line_is_named_and_skipped_when_lenient(number: int, line: str) -> None:
    rows = lines(*OPENAI).splitlines()
    rows.insert(number - 1, line)
    text = "\n".join(rows)
    with pytest.raises(BadTranscript, match=r"expected.*got.*use --lenient to skip it") as caught:
        parse(text, path="s.jsonl")
    assert caught.value.line == number
    assert str(caught.value).startswith(f"s.jsonl:{number}: ")
    lenient = parse(text, lenient=True)
    assert [turn.text for turn in lenient.turns] == [turn.text for turn in parse(lines(*OPENAI)).turns]
    assert len(lenient.skipped) == 1
    assert lenient.skipped[0].startswith(f"line {number}: ")


@pytest.mark.parametrize("number", range(1, len(OPENAI) + 1))
def test_malformed_message_of_a_document_is_named_by_its_index(number: int) -> None:
    messages: list[Any] = copy.deepcopy(OPENAI)
    messages[number - 1] = {"role": "user", "content": {"no": "text"}}
    text = json.dumps({"messages": messages})
    with pytest.raises(BadTranscript, match=rf"^s.json: message {number}: expected"):
        parse(text, path="s.json")
    lenient = parse(text, lenient=True)
    assert lenient.skipped[0].startswith(f"message {number}: ")
    check_legal(lenient.turns)


@pytest.mark.parametrize("lenient", [False, True])
def test_a_session_with_orphans_is_read_as_a_legal_one_that_says_what_was_dropped(lenient: bool) -> None:
    messages = [
        {"role": "assistant", "content": "I call.", "tool_calls": [openai_call("k")]},
        {"role": "user", "content": "Never mind."},
        {"role": "tool", "tool_call_id": "other", "content": "x"},
    ]
    session = parse(json.dumps(messages), lenient=lenient)
    check_legal(session.turns)
    assert [turn.text for turn in session.turns] == ["I call.", "Never mind."]
    assert [reason[:10] for reason in session.skipped] == ["message 1:", "message 3:"]


def test_text_cut_inside_a_surrogate_pair_is_read_and_can_be_encoded() -> None:
    (turn,) = parse('[{"role": "user", "content": "cut \\ud83d", "x\\udc00": "\\ud83d\\ude00"}]').turns
    assert turn.text == "cut \ufffd"
    assert turn.extra == {"x\ufffd": "\U0001f600"}
    turn.text.encode()
    assert parse('[{"role": "user", "content": "\ud83d"}]').turns[0].text == "\ufffd"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_json_become_null(value: str) -> None:
    (turn,) = parse(f'[{{"role": "user", "content": "x", "cost": {value}}}]').turns
    assert turn.extra == {"cost": None}


def test_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BadTranscript, match="too many digits"):
        parse('[{"role": "user", "content": "x", "n": %s}]' % ("9" * 10_000))


def test_line_separators_inside_strings_do_not_split_lines() -> None:
    text = '{"role": "user", "content": "a\u2028b\u0085c"}\r\n{"role": "assistant", "content": "d"}\r\n'
    assert [turn.text for turn in parse(text).turns] == ["a\u2028b\u0085c", "d"]


@pytest.mark.parametrize("name", ["openai_chat", "anthropic", "mini_swe_agent", "openhands"])
def test_unknown_fields_survive_reading(name: str) -> None:
    document = json.loads(BY_FORMAT[name])
    messages = document if isinstance(document, list) else document.get("messages") or document["history"]
    for message in messages:
        message["x_custom"] = {"kept": [1, None]}
    if isinstance(document, dict):
        document["x_top"] = "kept"
    transcript = parse(json.dumps(document))
    carriers = {turn.source for turn in transcript.turns if turn.extra.get("x_custom") == {"kept": [1, None]}}
    assert carriers == {turn.source for turn in transcript.turns if turn.source}
    assert isinstance(document, list) or transcript.meta["x_top"] == "kept"


@pytest.mark.parametrize("name", BY_FORMAT)
def test_extra_holds_nothing_that_was_understood(name: str) -> None:
    understood = {"role", "content", "tool_call_id", "message", "uuid", "parentUuid", "reasoning_content"}
    assert all(understood.isdisjoint(turn.extra) for turn in parse(BY_FORMAT[name]).turns)


def refused_or_read(text: str) -> None:
    """The whole promise to a caller with a damaged file."""
    for lenient in (False, True):
        with suppress(BadTranscript):
            check_legal(parse(text, lenient=lenient).turns)


@given(st.sampled_from(sorted(BY_FORMAT)), st.floats(0, 1))
def test_truncated_file_never_raises_anything_else(name: str, share: float) -> None:
    text = BY_FORMAT[name]
    refused_or_read(text[: int(share * len(text))])


@given(st.sampled_from(sorted(BY_FORMAT)), st.data())
def test_file_with_changed_characters_never_raises_anything_else(name: str, data: st.DataObject) -> None:
    text = list(BY_FORMAT[name])
    for at in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=5)):
        text[at] = data.draw(st.sampled_from(['"', "{", "]", ",", "0", "\\", "\ud800", "\n", "é", " "]))
    refused_or_read("".join(text))


def paths_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [pair for key in keys for pair in paths_in(value[key])]


@given(st.sampled_from([name for name in sorted(BY_FORMAT) if name != "aider"]), st.data())
def test_file_with_any_value_replaced_never_raises_anything_else(name: str, data: st.DataObject) -> None:
    text = BY_FORMAT[name]
    by_line = len(decode(text).lines) > 0
    document = [json.loads(row) for row in text.splitlines()] if by_line else json.loads(text)
    odd: st.SearchStrategy[Any] = st.sampled_from(
        [None, True, 7, 1.5, "", "x", [], {}, [[]], [None], {"type": 1}, {"type": "tool_result"}, -1]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(paths_in(document)))
        container[key] = copy.deepcopy(data.draw(odd))
    rows = document if isinstance(document, list) else [document]
    refused_or_read(lines(*rows) if by_line else json.dumps(document))


TEXTS = st.text(max_size=20)
CALLS = st.lists(st.tuples(st.text(min_size=1, max_size=8), TEXTS), max_size=3)


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS, TEXTS, CALLS),
        min_size=1,
        max_size=8,
    )
)
def test_any_openai_session_reads_back_with_the_same_texts_and_calls(
    session: list[tuple[str, str, str, list[tuple[str, str]]]],
) -> None:
    messages: list[dict[str, Any]] = []
    for at, (role, text, reasoning, calls) in enumerate(session):
        acting = calls if role == "assistant" else []
        wire = [openai_call(f"{at}-{n}", arguments, name) for n, (name, arguments) in enumerate(acting)]
        message: dict[str, Any] = {"role": role, "content": text, "x": at}
        messages.append(message | ({"tool_calls": wire, "reasoning": reasoning} if wire else {}))
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": text} for call in wire]
    transcript = parse(json.dumps(messages))
    check_legal(transcript.turns)
    assert len(transcript.turns) == len(messages)
    for turn, message in zip(transcript.turns, messages, strict=True):
        wire = message.get("tool_calls", [])
        assert (turn.role.value, turn.text) == (message["role"], message["content"])
        assert turn.reasoning == message.get("reasoning", "")
        assert [(c.id, c.name, c.arguments) for c in turn.calls] == [
            (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in wire
        ]
        assert turn.call_id == message.get("tool_call_id", "")


def test_error_that_quotes_several_lines_is_told_in_one() -> None:
    with pytest.raises(BadTranscript) as caught:
        parse(json.dumps([{"role": "user", "content": "a"}, {"role": "wiz\nard", "content": "b"}]))
    assert "\n" not in str(caught.value)


def test_anthropic_session_without_any_tool_is_known_by_its_system_prompt() -> None:
    session = {"system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]}
    assert parse(json.dumps(session)).format == "anthropic"
