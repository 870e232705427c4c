"""Writes pi sessions with more lines at their end, as the agent itself compacts, in the version that the agent writes.

A session of an older version is brought to that version first, as the agent does when it opens one: it would link every
line to the one above, and a branch of ours would stand behind all that it replaces.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

from holdfast.transcript.content import write_content
from holdfast.transcript.document import Document, decode
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import input_like
from holdfast.transcript.formats.codex import append_lines
from holdfast.transcript.formats.pi import Node, branch, read_node
from holdfast.transcript.formats.relink import replace_row
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Turn

VERSION = 3
"""The version that the agent writes."""
_SETTINGS = ("model_change", "thinking_level_change")
_THOUGHTS = ("thinking", "redacted_thinking")
_COUNTS = ("input", "output", "cacheRead", "cacheWrite", "totalTokens")
_MODEL = ("api", "provider", "model")


def write(document: Document, held: Draft) -> str:
    """Returns the session with a `compaction` at its end where a head was folded into one summary; any other change is
    a new branch of copies from the root. No line of a session of the agent's own version changes.
    """
    if held.turns == held.raw.turns:
        return append_lines(document, [])
    document = migrate(document)
    nodes, _ = document.read_each(document.lines, read_node)
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
            rows.append(_new(piece.turn, path))
        elif node.type == "compaction" and any(row.get("type") not in _SETTINGS for row in rows):
            # It would hide what stands before it.
            summary = {"fromId": node.id, "summary": piece.turn.text}
            rows.append({**_stamp(node), "type": "branch_summary", **summary})
        else:
            rows.append(_without_usage(node.fields if piece.turn == node.turn else _edit_node(node, piece.turn, path)))
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


def _without_usage(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of an answer that counts no tokens: what it counted was the context before the compaction, and the
    agent would compact again at once.
    """
    message = row.get("message")
    usage = message.get("usage") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(usage, dict):
        return row
    counted = {key: 0 if key in _COUNTS else value for key, value in usage.items()}
    return {**row, "message": {**message, "usage": counted}}


def _new(turn: Turn, path: list[Node]) -> dict[str, Any]:
    """Returns a new turn as a node without its links."""
    stamp, near = _stamp(path[-1]), _last_message(path)
    said = {"timestamp": near["timestamp"]} if "timestamp" in near else {}
    parts: list[Any] = [{"type": "text", "text": turn.text}] if turn.text else []
    if turn.role is Role.TOOL and not turn.call_id:
        return {**stamp, "type": "custom_message", "customType": "holdfast", "content": turn.text, "display": True}
    if turn.role is Role.ASSISTANT:
        thoughts = [{"type": "thinking", "thinking": turn.reasoning}] if turn.reasoning else []
        calls = [_call_part({}, call) for call in turn.calls]
        # The agent adds up the usage of every answer.
        own = {key: near[key] for key in _MODEL if key in near} | {"usage": dict.fromkeys(_COUNTS, 0)}
        message = {"role": "assistant", "content": [*thoughts, *parts, *calls], **own, "stopReason": "stop"}
    elif turn.role is Role.TOOL:
        fields = {"toolCallId": turn.call_id, "toolName": _tool_name(turn.call_id, path), "isError": turn.is_error}
        message = {"role": "toolResult", **fields, "content": parts}
    else:
        message = {"role": "user", "content": parts}
    return {**stamp, "type": "message", "message": {**message, **said}}


def _last_message(path: list[Node]) -> dict[str, Any]:
    """Returns the last answer on the branch, or else its last message; empty if there is none."""
    messages = [node.fields["message"] for node in path if isinstance(node.fields.get("message"), dict)]
    answers = [message for message in messages if message.get("role") == "assistant"]
    return next(reversed(answers or messages), {})


def _tool_name(call_id: str, path: list[Node]) -> str:
    calls = (call for node in path if node.turn for call in node.turn.calls)
    return next((call.name for call in calls if call.id == call_id), "")


def _edit_node(node: Node, new: Turn, path: list[Node]) -> dict[str, Any]:
    """Returns the node with another turn; unchanged fields stay."""
    raw, fields = node.turn, node.fields
    message = fields.get("message")
    holder = message if isinstance(message, dict) else fields
    if raw is None or (raw.role, raw.call_id) != (new.role, new.call_id) or holder.get("role") == "bashExecution":
        return {**_new(new, path), **_stamp(node)}
    if "summary" in holder:
        holder = {**holder, "summary": new.text}
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


def migrate(document: Document) -> Document:
    """Returns the session in the agent's own version, as the agent makes it of an older one; the same line numbers."""
    heads = [entry.value for entry in document.lines if _is_type(entry.value, "session")]
    version = heads[0].get("version") if heads else VERSION
    if isinstance(version, int) and version >= VERSION:
        return document
    rows = document.text.split("\n")
    own = {entry.number: _fresh(f"{heads[0].get('id')} {entry.number}") for entry in document.lines}
    order = [entry.number for entry in document.lines if isinstance(entry.value, dict)]
    above: str | None = None
    for entry in document.lines:
        if not isinstance(entry.value, dict):
            continue
        if entry.value in heads:
            fields = {**entry.value, "version": VERSION}
        else:
            fields = _rename_hook(entry.value)
            if version != VERSION - 1:
                fields |= {"id": own[entry.number], "parentId": above}
                first = fields.pop("firstKeptEntryIndex", None)
                if isinstance(first, int) and 0 < first < len(order):
                    fields["firstKeptEntryId"] = own[order[first]]
                above = own[entry.number]
        replace_row(rows, entry.number, fields)
    made = decode("\n".join(rows), document.path, document.lenient)
    return replace(made, left_out=document.left_out)


def _is_type(value: Any, type_: str) -> bool:
    return isinstance(value, dict) and value.get("type") == type_


def _rename_hook(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of the second version in the words of the third."""
    message = fields.get("message")
    if not isinstance(message, dict) or message.get("role") != "hookMessage":
        return dict(fields)
    return {**fields, "message": {**message, "role": "custom"}}
