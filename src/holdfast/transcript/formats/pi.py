"""pi sessions: one JSON object per line, a head and then a tree by `parentId`; the branch of the newest leaf is the
session.

A `compaction` stands for everything on its branch before the entry that it names as first kept; the turns before
it are kept in `meta["compactions"]`. What an extension or the user's own shell put in is a tool turn that answers
no call. Replies that were cut off are not sent again by the agent: they are named in `meta`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from holdfast.transcript.content import read_content, write_content
from holdfast.transcript.document import Document, Entry, MalformedEntry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import input_like
from holdfast.transcript.formats.codex import append_lines
from holdfast.transcript.json_fields import copy_object, take_required_text, text_or_empty
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_SUMMARIES = ("compaction", "branch_summary", "compactionSummary", "branchSummary")
_INSERTED = ("custom", "hookMessage", "custom_message")
_CUT_OFF = ("error", "aborted")
_SETTINGS = ("model_change", "thinking_level_change")
_THOUGHTS = ("thinking", "redacted_thinking")
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
    return value.get("type") in ("message", "compaction") and "parentId" in value and "id" in value


def read(document: Document) -> Transcript:
    nodes, skipped = document.read_each(document.lines, _node)
    tree = [node for node in nodes if node.type != "session"]
    path = branch(tree)
    held, compactions = _context(path)
    meta: dict[str, Any] = {}
    for head in (node.fields for node in nodes if node.type == "session"):
        meta |= {key: value for key, value in head.items() if key != "type"}
    meta |= {key: value for key, value in _count_rest(tree, path).items() if value}
    meta |= {"compactions": compactions} if compactions else {}
    return Transcript(tuple(node.turn for node in held if node.turn), "pi", meta, skipped)


def _node(entry: Entry) -> Node:
    fields = copy_object(entry.value, "a line")
    type_ = take_required_text(dict(fields), "type", "a line")
    # The first version had no tree: each line follows the one above it.
    own = text_or_empty(fields.get("id")) or f"line {entry.number}"
    parent = text_or_empty(fields.get("parentId")) if "parentId" in fields else f"line {entry.number - 1}"
    turn = None if type_ == "session" else _turn(type_, fields)
    return Node(entry.number, fields, own, parent, turn and replace(turn, source=entry.number))


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
        return Turn(Role.USER, text_or_empty(text), extra=message)
    if role == "bashExecution":
        return _shell(message)
    content = read_content(_rename_parts(message.pop("content", None)))
    extra = {**message, **content.extra}
    if role in _INSERTED:
        return Turn(Role.TOOL, content.text, extra=extra)
    if role == "user":
        return Turn(Role.USER, content.text, extra=extra)
    if role == "assistant":
        if message.get("stopReason") in _CUT_OFF:
            return None
        return Turn(Role.ASSISTANT, content.text, content.reasoning, tuple(content.calls), extra=extra)
    if role == "toolResult":
        call_id = take_required_text(message, "toolCallId", "a toolResult")
        extra = {key: value for key, value in extra.items() if key not in ("toolCallId", "isError")}
        is_error = message.get("isError") is True
        return Turn(Role.TOOL, content.text, call_id=call_id, is_error=is_error, extra=extra)
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
    """Returns the nodes that the model sees, the summary first, and the turns that every compaction replaced."""
    compactions: list[dict[str, Any]] = []
    held: list[Node] = []
    for node in path:
        if node.type != "compaction":
            held.append(node)
            continue
        first = next((at for at, kept in enumerate(held) if kept.id == node.fields.get("firstKeptEntryId")), len(held))
        compactions.append(_compaction(node, held))
        held = [node, *held[first:]]
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


def write(document: Document, held: Draft) -> str:
    """Writes the session with more lines at its end, as the agent itself compacts: no line before them changes.

    A head folded into one summary is a `compaction`; any other change is a new branch of copies from the root.
    """
    if held.turns == held.raw.turns:
        return append_lines(document, [])
    nodes, _ = document.read_each(document.lines, _node)
    path = branch([node for node in nodes if node.type != "session"])
    by_number = {node.number: node for node in path}
    kept = [by_number[piece.turn.source] for piece in held.pieces[1:] if piece.turn.source in by_number]
    head = held.pieces[0]
    tail = tuple(piece.at for piece in held.pieces[1:])
    whole = tuple(range(len(held.raw.turns) - len(tail), len(held.raw.turns)))
    untouched = tail == whole and all(not piece.writer for piece in held.pieces[1:])
    if head.at is None and head.turn.role is Role.USER and not head.turn.calls and kept and untouched:
        return append_lines(document, [_compaction_row(head.turn, path, kept[0])])
    return append_lines(document, _branch_rows(held, path, by_number))


def _compaction_row(summary: Turn, path: list[Node], first: Node) -> dict[str, Any]:
    leaf = path[-1]
    size_ = sum(estimate_tokens(node.turn.text) for node in path if node.turn)
    fields = {"summary": summary.text, "firstKeptEntryId": first.id, "tokensBefore": size_}
    return {"type": "compaction", "id": _fresh(leaf.id), "parentId": leaf.id, **_stamp(leaf), **fields}


def _branch_rows(held: Draft, path: list[Node], by_number: dict[int, Node]) -> list[dict[str, Any]]:
    """Returns the draft as lines from the root, after the model and thinking level that the branch had."""
    rows = [dict(node.fields) for node in path if node.type in _SETTINGS]
    for piece in held.pieces:
        node = by_number.get(held.raw.turns[piece.at].source) if piece.at is not None else None
        if node is None or node.turn is None:
            rows.append({**_stamp(path[-1]), **_new(piece.turn)})
        elif node.type == "compaction" and any(row.get("type") not in _SETTINGS for row in rows):
            # It would hide what stands before it.
            summary = {"fromId": node.id, "summary": piece.turn.text}
            rows.append({**_stamp(node), "type": "branch_summary", **summary})
        else:
            rows.append(node.fields if piece.turn == node.turn else _edit_node(node, node.turn, piece.turn))
    parent: str | None = None
    linked: list[dict[str, Any]] = []
    for at, row in enumerate(rows):
        own = _fresh(f"{path[-1].id} {at}")
        linked.append({**row, "id": own, "parentId": parent})
        parent = own
    return linked


def _stamp(node: Node) -> dict[str, Any]:
    return {"timestamp": node.fields["timestamp"]} if "timestamp" in node.fields else {}


def _fresh(seed: str) -> str:
    """Returns an id of the form that the agent gives, the same for the same session."""
    return sha256(seed.encode()).hexdigest()[:8]


def _new(turn: Turn) -> dict[str, Any]:
    """Returns a new turn as a node without its links."""
    parts: list[Any] = [{"type": "text", "text": turn.text}] if turn.text else []
    if turn.role is Role.ASSISTANT:
        thoughts = [{"type": "thinking", "thinking": turn.reasoning}] if turn.reasoning else []
        calls = [_call_part({}, call) for call in turn.calls]
        return {"type": "message", "message": {"role": "assistant", "content": [*thoughts, *parts, *calls]}}
    if turn.role is Role.TOOL and turn.call_id:
        fields = {"toolCallId": turn.call_id, "isError": turn.is_error}
        return {"type": "message", "message": {"role": "toolResult", **fields, "content": parts}}
    if turn.role is Role.TOOL:
        return {"type": "custom_message", "customType": "holdfast", "content": turn.text, "display": True}
    return {"type": "message", "message": {"role": "user", "content": parts}}


def _edit_node(node: Node, raw: Turn, new: Turn) -> dict[str, Any]:
    """Returns the node with another turn; unchanged fields stay."""
    if (raw.role, raw.call_id) != (new.role, new.call_id):
        return {**_stamp(node), **_new(new)}
    fields = node.fields
    message = fields.get("message")
    holder = message if isinstance(message, dict) else fields
    if "summary" in holder:
        holder = {**holder, "summary": new.text}
    elif holder.get("role") == "bashExecution":
        return {**_stamp(node), **_new(new)}
    elif raw.role is not Role.ASSISTANT:
        holder = {**holder, "content": write_content(holder.get("content"), new.text)}
    else:
        holder = {**holder, "content": _answer(holder.get("content"), raw, new)}
    return {**fields, "message": holder} if isinstance(message, dict) else holder


def _answer(content: Any, raw: Turn, new: Turn) -> list[Any]:
    """Returns the parts of an answer; parts with unchanged words stay as they stood."""
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    olds = {part.get("id"): part for part in parts if part.get("type") == "toolCall"}
    thoughts = [part for part in parts if part.get("type") in _THOUGHTS]
    words = [part for part in parts if part.get("type") not in (*_THOUGHTS, "toolCall")]
    if new.reasoning != raw.reasoning:
        thoughts = [{"type": "thinking", "thinking": new.reasoning}] if new.reasoning else []
    if new.text != raw.text:
        words = write_content(words, new.text)
    same = {call.id for call in new.calls if call in raw.calls}
    calls = [olds[c.id] if c.id in same and c.id in olds else _call_part(olds.get(c.id, {}), c) for c in new.calls]
    return [*thoughts, *words, *calls]


def _call_part(old: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    return {
        **old,
        "type": "toolCall",
        "id": call.id,
        "name": call.name,
        "arguments": input_like(old.get("arguments"), call),
    }
