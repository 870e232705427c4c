"""Writes Claude Code sessions, so that the agent resumes them.

Changes inside the session are made in its lines, and the chain of parents is closed over lines that go. If the head is
replaced, nothing above is touched: a compaction boundary and a summary line stand before the rest, as when the agent
compacts by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from holdfast.errors import BadInput
from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft, Piece, new_draft
from holdfast.transcript.formats import anthropic_write
from holdfast.transcript.formats.apply_draft import Change, NewEntry, apply_draft, find_raw_turn, render_file
from holdfast.transcript.formats.claude_code import as_parts, group_lines, read_chains
from holdfast.transcript.formats.claude_code_attachments import write_attachment
from holdfast.transcript.formats.claude_code_chain import Chains
from holdfast.transcript.formats.claude_code_links import link_entries
from holdfast.transcript.provider_requests import to_anthropic_message
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Turn

_ENVELOPE = ("isSidechain", "userType", "cwd", "sessionId", "version", "gitBranch", "slug", "timestamp")
"""Fields that a new line takes from the line that it stands before."""
_LINE = "\0line"


def write(document: Document, held: Draft) -> str:
    chains = read_chains(document)
    where = _lines_of_turns(chains)
    head, kept = _split_head(held)
    items = apply_draft(document.lines, kept, _edit, _new, where)
    if head:
        items = _insert_compaction(items, held, head, where)
    return render_file(document, link_entries(items, chains, where))


def _lines_of_turns(chains: Chains) -> list[tuple[int, ...]]:
    """Returns the line numbers of every turn."""
    groups = group_lines(chains.chain_to(chains.leaf))
    return [tuple(line.number for line in lines) for lines, turns in groups for _ in turns]


def _split_head(held: Draft) -> tuple[tuple[Piece, ...], Draft]:
    """Returns the pieces in place of a replaced head, and the draft with the head as it was instead of them.

    A head is replaced if new turns stand for turns that went, and nothing but the user's words is left before them. No
    pieces: none is replaced.
    """
    said = tuple(takewhile(lambda piece: piece.turn.role is Role.USER, held.pieces))
    stop = 1 + max((at for at, piece in enumerate(said) if find_raw_turn(piece, held) is None), default=-1)
    head, rest = said[:stop], held.pieces[stop:]
    until = find_raw_turn(rest[0], held) if rest else len(held.raw.turns)
    kept = {find_raw_turn(piece, held) for piece in head}
    told = {turn for piece in head if find_raw_turn(piece, held) is None for turn in piece.turns}
    if until is None or not told & set(range(until)) - kept:
        return (), held
    return head, replace(held, pieces=(*new_draft(held.raw).pieces[:until], *rest))


def _insert_compaction(
    items: list[NewEntry], held: Draft, head: Sequence[Piece], where: Sequence[tuple[int, ...]]
) -> list[NewEntry]:
    """Inserts the agent's own records of a compaction before the first line that stays."""
    rest = held.pieces[len(head) :]
    follows = find_raw_turn(rest[0], held) if rest else None
    ends = where[-1] if follows is None else where[follows]
    found = [at for at, item in enumerate(items) if item.number in ends]
    cut = found[0] if follows is not None else found[-1] + 1
    values = {item.number: item.value for item in items}
    near = items[found[0]].value
    metadata = {
        "trigger": "manual",
        "preTokens": new_draft(held.raw).size(estimate_tokens),
        "postTokens": held.size(estimate_tokens),
    }
    boundary = {
        **_envelope(near, "system"),
        "subtype": "compact_boundary",
        "content": "Conversation compacted",
        "isMeta": False,
        "level": "info",
        "compactMetadata": metadata,
    }
    made = [boundary, *(_line_behind_boundary(piece, held, near, values, where) for piece in head)]
    return [*items[:cut], *map(NewEntry, made), *items[cut:]]


def _line_behind_boundary(
    piece: Piece, held: Draft, near: dict[str, Any], values: dict[int, Any], where: Sequence[tuple[int, ...]]
) -> dict[str, Any]:
    """Returns a line behind the boundary: a summary, or the user's words again."""
    own = find_raw_turn(piece, held)
    if own is None:
        return {**_new(piece.turn, near), "isVisibleInTranscriptOnly": True, "isCompactSummary": True}
    turns = [at for at, numbers in enumerate(where) if numbers == where[own]]
    changes = tuple(Change(held.raw.turns[at], piece.turn if at == own else None) for at in turns)
    line = values[where[own][0]]
    if any(change.raw != change.new for change in changes):
        (line,) = _edit([line], changes)
    return dict(line)


def _new(turn: Turn, near: dict[str, Any]) -> dict[str, Any]:
    message = to_anthropic_message(turn)
    if message["role"] == "user" and turn.role is not Role.TOOL:
        message["content"] = turn.text
    return {**_envelope(near, message["role"]), "message": message}


def _envelope(near: dict[str, Any], type_: str) -> dict[str, Any]:
    """Returns the fields around a new line; `link_entries` sets its id and its parent."""
    shared = {key: near[key] for key in _ENVELOPE if key in near}
    return {"parentUuid": None, **shared, "type": type_, "uuid": ""}


def _edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    if len(values) > 1:
        return _edit_streamed(values, changes[0])
    (value,) = values
    attachment = value.get("attachment")
    if value["type"] == "attachment" and attachment.get("type") != "queued_command":
        new = changes[0].new
        return [value if new is None else write_attachment(value, new.text)]
    if value["type"] == "attachment":
        message = {"role": "user", "content": attachment["prompt"]}
    else:
        message = {**value["message"], "role": value["type"]}
    (made,) = anthropic_write.edit([message], changes)
    if isinstance(made, anthropic_write.Split):
        raise BadInput("an assistant turn cannot stand between the words of one user line; put it before or after them")
    if value["type"] == "attachment":
        return [{**value, "attachment": {**attachment, "prompt": made["content"]}}]
    return [{**value, "message": {**value["message"], "content": made["content"]}}]


def _edit_streamed(values: list[Any], change: Change) -> list[Any]:
    """Returns the lines of one streamed message: every block stays in its line, and a line without blocks goes."""
    raw, turn = change.raw, change.new
    if raw is None or turn is None:
        raise AssertionError("a streamed message is one turn, dropped whole")
    marked = [
        {**(part if isinstance(part, dict) else {"type": "text", "text": part}), _LINE: at}
        for at, value in enumerate(values)
        for part in as_parts(value["message"].get("content"))
    ]
    made: list[list[Any]] = [[] for _ in values]
    line = 0
    for block in anthropic_write.put_content(marked, raw, turn):
        line = block.get(_LINE, line)
        made[line].append({key: part for key, part in block.items() if key != _LINE})
    if not any(made):
        return [_with_content(values[0], []), *[None] * (len(values) - 1)]
    return [_with_content(value, content) if content else None for value, content in zip(values, made, strict=True)]


def _with_content(value: dict[str, Any], content: list[Any]) -> dict[str, Any]:
    same = value["message"].get("content") == content
    return value if same else {**value, "message": {**value["message"], "content": content}}
