"""Generated text as text, reasoning and calls, however it is cut."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blocks.messages import Abilities, chat_messages
from holdfast.server.protocol import ReasoningDelta, TextDelta, ToolCallDelta
from holdfast.transcript.tool_parser import ToolParser, join_deltas
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

HERMES = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
QWEN = "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>"
BARE = "<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>"

MARKERS = ["<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=k>", "</parameter>", "<think>"]
FRAGMENTS = st.sampled_from(
    [
        *MARKERS,
        "</think>",
        "f>",
        "<",
        ">",
        '"',
        "\\",
        "\n",
        " ",
        "x",
        '{"name": "f", "arguments": {}}',
        '{"a',
        HERMES,
        BARE,
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=3), max_size=14).map("".join)


def pieces(parts: Sequence[str], **options: Any) -> list[TextDelta | ReasoningDelta | ToolCallDelta]:
    speech = ToolParser(options.pop("tools", True), **options)
    return [event for part in parts for event in speech.feed(part)] + speech.end()


def turn(*parts: str, **options: Any) -> Turn:
    return join_deltas(pieces(parts, **options))


def called(text: str, **options: Any) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in turn(text, **options).calls]


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("written", [HERMES, QWEN, BARE, BARE + "\n</tool_call>"])
def test_a_call_is_found_in_each_form_and_its_text_is_not_said(written: str) -> None:
    got = turn("Let me look.\n\n" + written + "\n")
    assert got.text == "Let me look."
    assert [(call.name, call.arguments) for call in got.calls] == [("bash", '{"command": "ls"}')]


@pytest.mark.parametrize("written", [HERMES, QWEN, BARE])
def test_calls_in_a_row_have_ids_of_their_own_that_the_same_text_gives_again(written: str) -> None:
    ids = [call.id for call in turn(written + "\n" + written).calls]
    assert len(set(ids)) == 2
    assert all(i.startswith("call_") for i in ids)
    assert ids == [call.id for call in turn(*(written + "\n" + written)).calls]
    assert ids != [call.id for call in turn(written + "\n" + written, call_prefix="7").calls]


def test_without_tools_a_call_is_text() -> None:
    assert turn(*("Look: " + HERMES), tools=False) == Turn(Role.ASSISTANT, "Look: " + HERMES)


def test_reasoning_is_apart_from_the_answer_with_and_without_tools() -> None:
    for tools in (True, False):
        got = turn(*"\n<think>\nFirst, a < b.\n</think>\n\nIt is so.\n", tools=tools)
        assert (got.reasoning, got.text) == ("First, a < b.", "It is so.\n")


def test_reasoning_that_the_template_opened_needs_no_marker() -> None:
    got = turn(*"\nHm.\n</think>\nYes.", thinking=True)
    assert (got.reasoning, got.text) == ("Hm.", "Yes.")


def test_reasoning_that_is_cut_stays_reasoning() -> None:
    assert turn("<think>I was about to <tool_ca") == Turn(Role.ASSISTANT, reasoning="I was about to <tool_ca")


def test_a_marker_of_reasoning_within_an_answer_is_text() -> None:
    text = "Models write <think> and </think>."
    assert turn(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "bash", "arguments": {"command": "ls"}}',
        '<tool_call>{"name": "bash", "arguments": {"command": "ls}}</tool_call> and more',
        '<tool_call>{"name": "bash", "arguments": }</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"x": 1e999}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}</tool_call>",
        '<tool_call>{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>[",
        "<tool_call> [ { ",
        '<tool_call>[{"name": "f", "arguments": {}}</tool_call>',
        "<tool_call>ls</tool_call>",
        "<tool_call>",
        "The tag <tool_call> opens a call, <function=name> names one.",
        "<function=>x</function>",
        "<function=f><parameter=k>v</parameter>",
        "<function=f><parameter=k>v</function>",
        "<function=f>text</function>",
        "a < b",
        "ends in <tool_",
    ],
)
def test_what_is_no_whole_call_comes_out_as_text(text: str) -> None:
    assert turn(text) == turn(*text) == Turn(Role.ASSISTANT, text)


def test_a_whole_call_after_a_broken_one_is_found() -> None:
    broken = '<tool_call>{"name": "f", "arguments": {"x": "}</tool_call>'
    got = turn(*(broken + "\n" + HERMES))
    assert got.text == broken
    assert [call.name for call in got.calls] == ["bash"]


def test_closing_markers_within_a_string_close_nothing() -> None:
    command = "echo '</tool_call>' \\\"</function>"
    written = json.dumps({"name": "bash", "arguments": {"command": command}})
    assert called(f"<tool_call>{written}</tool_call>") == [("bash", {"command": command})]


def test_line_breaks_within_a_string_and_arguments_as_text_are_understood() -> None:
    assert called('<tool_call>{"name": "f", "arguments": {"x": "a\nb"}}</tool_call>') == [("f", {"x": "a\nb"})]
    assert called('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>') == [("f", {"x": 1})]
    assert called('<tool_call>{"name": "f"}</tool_call>') == [("f", {})]


def test_a_list_of_calls_is_each_of_them_or_none() -> None:
    calls = '[\n{"name": "f", "arguments": {"x": 1}},\n{"name": "g", "arguments": {}}\n]'
    got = turn(*f"<tool_call>{calls}</tool_call>")
    assert [(call.name, call.arguments) for call in got.calls] == [("f", '{"x": 1}'), ("g", "{}")]
    assert len({call.id for call in got.calls}) == 2
    wrong = '<tool_call>[{"name": "f", "arguments": {}}, 3]</tool_call>'
    assert turn(*wrong) == Turn(Role.ASSISTANT, wrong)


def test_half_of_a_pair_is_replaced_so_that_the_call_can_be_sent() -> None:
    (call,) = turn('<tool_call>{"name": "f\\ud800", "arguments": {"x": "\\udc00"}}</tool_call>').calls
    assert (call.name, call.arguments) == ("f\ufffd", '{"x": "\ufffd"}')


def test_a_value_may_hold_the_markers_of_its_own_form() -> None:
    code = 'print("</parameter>")\nprint("</function>")'
    written = f"<function=write>\n<parameter=code>\n{code}\n</parameter>\n</function>"
    assert called(written) == [("write", {"code": code})]


def test_a_bare_number_is_text_where_the_tool_says_so() -> None:
    written = "<function=f><parameter=a>3</parameter><parameter=b>3</parameter></function>"
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}
    assert called(written, definitions=[tool]) == [("f", {"a": "3", "b": 3})]
    assert called(written) == [("f", {"a": 3, "b": 3})]


@pytest.mark.parametrize("tool", [{}, {"function": 3}, {"function": {"name": "f", "parameters": {"properties": [1]}}}])
def test_a_definition_that_says_nothing_of_types_is_no_error(tool: dict[str, Any]) -> None:
    assert called("<function=f><parameter=a>3</parameter></function>", definitions=[tool]) == [("f", {"a": 3})]


def test_text_around_a_call_keeps_its_place() -> None:
    got = turn(*f"Before.\n{HERMES}\nAfter.")
    assert got.text == "Before.\n\nAfter."
    assert len(got.calls) == 1


def test_text_that_can_be_no_marker_goes_out_at_once() -> None:
    speech = ToolParser(True)
    assert speech.feed("Hello") == [TextDelta("Hello")]
    assert speech.feed(" <b>") == [TextDelta(" <b>")]
    assert speech.feed(" <to") == []
    assert speech.feed("e>") == [TextDelta(" <toe>")]
    assert join_deltas(speech.feed("<function=f> is")).text == "<function=f> is"
    assert join_deltas(speech.feed("<tool_call>{}")).text == "<tool_call>{}"
    assert join_deltas(speech.feed("<tool_call>[]")).text == "<tool_call>[]"
    assert ToolParser(False).feed("<tool_call>\n") == [TextDelta("<tool_call>\n")]


@given(TEXTS, st.data(), st.booleans(), st.booleans())
def test_any_cut_gives_what_the_whole_gives(text: str, data: st.DataObject, tools: bool, thinking: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = turn(text, tools=tools, thinking=thinking)
    assert turn(*parts, tools=tools, thinking=thinking) == whole
    assert turn(*text, tools=tools, thinking=thinking) == whole


@given(TEXTS)
def test_without_whole_calls_or_thoughts_every_character_is_said(text: str) -> None:
    got = turn(text)
    if not got.calls and not text.lstrip().startswith("<think>"):
        assert got.text == text


@given(
    st.lists(st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=["Cs"])), min_size=1, max_size=4)
)
def test_beside_calls_only_white_space_is_lost(texts: list[str]) -> None:
    got = turn(*HERMES.join(texts))
    assert squeezed(got.text) == squeezed("".join(texts))
    assert len(got.calls) == len(texts) - 1


PLAIN = st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=["Cs"]))
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-(10**6), 10**6) | PLAIN, st.lists, max_leaves=4)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=4))
def test_a_call_that_is_rendered_as_text_comes_back_equal(arguments: dict[str, Any]) -> None:
    said = Turn(Role.ASSISTANT, "Now.", "I think", (ToolCall("1", "f.g-h", json.dumps(arguments)),))
    (message,) = chat_messages(Transcript((said,)), Abilities(tools=False, system=True, repeats=True))
    properties = {key: {"type": "string"} for key, value in arguments.items() if isinstance(value, str)}
    tool = {"function": {"name": "f.g-h", "parameters": {"properties": properties}}}
    got = turn(*message.wire["content"], definitions=[tool])
    assert (got.text, got.reasoning) == ("Now.", "I think")
    assert [(call.name, json.loads(call.arguments)) for call in got.calls] == [("f.g-h", arguments)]


def test_the_work_for_a_call_grows_with_its_length_and_not_with_its_square() -> None:
    def work(lines: int) -> float:
        long = json.dumps({"name": "write", "arguments": {"text": 'a "quoted" <b> line\n' * lines}})
        written, begun = f"<tool_call>{long}</tool_call>", time.thread_time()
        got = turn(*(written[i : i + 4] for i in range(0, len(written), 4)))
        assert len(got.calls) == 1
        return time.thread_time() - begun

    short, long = (min(work(lines) for _ in range(3)) for lines in (125, 2000))
    assert long < 64 * short  # of the processor; 16 times the length, and 256 is its square
