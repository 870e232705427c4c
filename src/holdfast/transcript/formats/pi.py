"""pi sessions: one JSON object per line, a head and then a tree by `parentId`; the branch of the newest leaf is the
session.

A `compaction` stands for everything on its branch before the entry that it names as first kept; the turns before
it are kept in `meta["compactions"]`. What an extension or the user's own shell put in is a tool turn that answers
no call. Replies that were cut off are not sent again by the agent: they are named in `meta`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from holdfast.transcript.content import read_content
from holdfast.transcript.document import Document, Entry, MalformedEntry
from holdfast.transcript.injections import SUMMARY_FIELD
from holdfast.transcript.json_fields import copy_object, take_required_text, text_or_empty
from holdfast.transcript.turn import Role, Transcript, Turn

_SUMMARIES = ("compaction", "branch_summary", "compactionSummary", "branchSummary")
_INSERTED = ("custom", "hookMessage", "custom_message")
_CUT_OFF = ("error", "aborted")
_ENVELOPE = ("type", "id", "parentId", "message")


@dataclass(frozen=True)
class Node:
    """One line of the tree, with its turn (none for bookkeeping)."""

    number: int
    fields: dict[str, Any]
    id: str
    parent: str
    turn: Turn | None = None

    @property
    def type(self) -> str:
        return text_or_empty(self.fields.get("type"))


def sniff(document: Document) -> bool:
    values = [entry.value for entry in document.lines if isinstance(entry.value, dict)]
    return any(_is_head(value) or _is_node(value) for value in values)


def _is_head(value: dict[str, Any]) -> bool:
    return value.get("type") == "session" and "id" in value and "cwd" in value


def _is_node(value: dict[str, Any]) -> bool:
    own = "parentId" in value and "id" in value
    return value.get("type") in ("message", "compaction") and (own or "tokensBefore" in value)


def read(document: Document) -> Transcript:
    nodes, skipped = document.read_each(document.lines, read_node)
    tree = [node for node in _name_first_kept(nodes) if node.type != "session"]
    path = branch(tree)
    held, compactions = _context(path)
    meta: dict[str, Any] = {}
    for head in (node.fields for node in nodes if node.type == "session"):
        meta |= {key: value for key, value in head.items() if key != "type"}
    meta |= {key: value for key, value in _count_rest(tree, path).items() if value}
    meta |= {"compactions": compactions} if compactions else {}
    return Transcript(tuple(node.turn for node in held if node.turn), "pi", meta, skipped)


def read_node(entry: Entry) -> Node:
    fields = copy_object(entry.value, "a line")
    type_ = take_required_text(dict(fields), "type", "a line")
    # The first version had no tree: each line follows the one above it.
    own = text_or_empty(fields.get("id")) or f"line {entry.number}"
    parent = text_or_empty(fields.get("parentId")) if "parentId" in fields else f"line {entry.number - 1}"
    turn = None if type_ == "session" else _turn(type_, fields)
    return Node(entry.number, fields, own, parent, turn and replace(turn, source=entry.number))


def _name_first_kept(nodes: tuple[Node, ...]) -> list[Node]:
    """Returns the nodes; a compaction of the first version, which names its first kept line by place, has the id."""
    return [replace(node, fields=_with_first_kept(node.fields, nodes)) for node in nodes]


def _with_first_kept(fields: dict[str, Any], nodes: tuple[Node, ...]) -> dict[str, Any]:
    place = fields.get("firstKeptEntryIndex")
    if not isinstance(place, int) or "firstKeptEntryId" in fields or not 0 <= place < len(nodes):
        return fields
    return {**fields, "firstKeptEntryId": nodes[place].id}


def _turn(type_: str, fields: dict[str, Any]) -> Turn | None:
    """Returns the turn of a node; None for bookkeeping and for a message that the model is not sent."""
    envelope = {key: value for key, value in fields.items() if key not in _ENVELOPE}
    if type_ == "message":
        message = copy_object(fields.get("message"), '"message"')
        turn = _turn_of_message(message)
        return turn and replace(turn, extra={**turn.extra, **envelope})
    if type_ in ("compaction", "branch_summary", "custom_message"):
        return _turn_of_message({**envelope, "role": type_})
    return None


def _turn_of_message(message: dict[str, Any]) -> Turn | None:
    role = take_required_text(message, "role", "a message")
    if role in _SUMMARIES:
        text = message.pop("summary", None)
        return Turn(Role.USER, text_or_empty(text), extra={**message, SUMMARY_FIELD: True})
    if role == "bashExecution":
        return _shell(message)
    content = read_content(_rename_parts(message.pop("content", None)))
    extra = {**message, **content.extra}
    if role in _INSERTED:
        return Turn(Role.TOOL, content.text, extra=extra, opaque=content.opaque)
    if role == "user":
        return Turn(Role.USER, content.text, extra=extra, opaque=content.opaque)
    if role == "assistant":
        if message.get("stopReason") in _CUT_OFF:
            return None
        calls = tuple(content.calls)
        return Turn(Role.ASSISTANT, content.text, content.reasoning, calls, extra=extra, opaque=content.opaque)
    if role == "toolResult":
        call_id = take_required_text(message, "toolCallId", "a toolResult")
        extra = {key: value for key, value in extra.items() if key not in ("toolCallId", "isError")}
        is_error = message.get("isError") is True
        return Turn(Role.TOOL, content.text, "", (), call_id, is_error, extra=extra, opaque=content.opaque)
    raise MalformedEntry(f'expected "role" to be one of user, assistant, toolResult, got "{role[:40]}"')


def _rename_parts(content: object) -> object:
    """Returns pi's call parts under the names that the shared reader of parts knows."""
    if not isinstance(content, list):
        return content
    return [_rename_part(part) if isinstance(part, dict) else part for part in content]


def _rename_part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "toolCall":
        return part
    rest = {key: value for key, value in part.items() if key != "arguments"}
    return {**rest, "type": "tool_use", "input": part.get("arguments", {})}


def _shell(message: dict[str, Any]) -> Turn | None:
    """Returns a command that the user ran, as the agent shows it to the model."""
    if message.pop("excludeFromContext", None) is True:
        return None
    command, output = text_or_empty(message.pop("command", None)), text_or_empty(message.pop("output", None))
    code = message.get("exitCode")
    ended = f"\nexit code {code}" if isinstance(code, int) and code else ""
    text = f"Ran `{command}`\n{output}{ended}"
    return Turn(Role.TOOL, text, is_error=bool(ended), extra={"command": command, **message})


def branch(tree: list[Node]) -> list[Node]:
    """Returns the way from the root to the newest leaf. If a parent is not in the file, the line above is the best
    guess.
    """
    by_id = {node.id: node for node in tree}
    above = {node.id: before for before, node in zip([None, *tree], tree, strict=False)}
    at = _leaf(tree, by_id)
    path: list[Node] = []
    seen: set[str] = set()
    while at is not None and at.id not in seen:
        seen.add(at.id)
        path.append(at)
        at = by_id.get(at.parent) or (above[at.id] if at.parent else None)
    return path[::-1]


def _leaf(tree: list[Node], by_id: dict[str, Node]) -> Node | None:
    """Returns the last line, or the one that it names if it only moves the leaf."""
    last = tree[-1] if tree else None
    named = by_id.get(text_or_empty(last.fields.get("targetId"))) if last and last.type == "leaf" else None
    return named or last


def _context(path: list[Node]) -> tuple[list[Node], list[dict[str, Any]]]:
    """Returns the nodes that the model sees, the summary first, and the turns that every compaction replaced.

    A compaction keeps what stands on the path from the entry that it names, even if an earlier one had dropped that;
    a summary before it is gone.
    """
    compactions: list[dict[str, Any]] = []
    held: list[Node] = []
    for at, node in enumerate(path):
        if node.type != "compaction":
            held.append(node)
            continue
        named = node.fields.get("firstKeptEntryId")
        first = next((place for place, kept in enumerate(path[:at]) if kept.id == named), at)
        compactions.append(_compaction(node, held))
        held = [node, *(kept for kept in path[first:at] if kept.type != "compaction")]
    return _drop_results_of_cut_calls(held), compactions


def _drop_results_of_cut_calls(held: list[Node]) -> list[Node]:
    """Drops the results of calls that were cut off with their message."""
    gone = {call for node in held if node.turn is None for call in _cut_off_calls(node.fields)}
    return [node for node in held if node.turn is None or not (node.turn.call_id and node.turn.call_id in gone)]


def _cut_off_calls(fields: dict[str, Any]) -> list[str]:
    message = fields.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return [text_or_empty(part.get("id")) for part in parts if part.get("type") == "toolCall"]


def _compaction(node: Node, before: list[Node]) -> dict[str, Any]:
    spoken = [kept for kept in before if kept.turn]
    metadata = {key: value for key, value in node.fields.items() if key not in (*_ENVELOPE, "summary")}
    turns = tuple(kept.turn for kept in spoken)
    summaries = (node.turn,) if node.turn else ()
    lines = [kept.number for kept in spoken]
    return {"line": node.number, "lines": lines, "turns": turns, "summaries": summaries, "metadata": metadata}


def _count_rest(tree: list[Node], path: list[Node]) -> dict[str, Any]:
    on_path = {node.number for node in path}
    silent = [node for node in path if node.turn is None]
    return {
        "other_lines": dict(Counter(node.type for node in silent if node.type != "message")),
        "unsent_lines": [node.number for node in silent if node.type == "message"],
        "abandoned_lines": [node.number for node in tree if node.turn and node.number not in on_path],
    }
