"""Claude Code session files: one JSON object per line, linked by uuid and parentUuid.

Reads what the model saw: the chain up to the last line, after the last compaction. Lines of one streamed
message become one turn. Sidechains, abandoned branches and bookkeeping lines are counted in `meta`; the
turns before each compaction are kept in `meta["compactions"]`. The system prompt is not in the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.formats import anthropic
from holdfast.transcript.formats.claude_code_attachments import read_attachment
from holdfast.transcript.formats.claude_code_chain import Chains, Line
from holdfast.transcript.json_fields import copy_object, text_or_empty
from holdfast.transcript.turn import Role, Transcript, Turn

_ENVELOPE = ("type", "message", "uuid", "parentUuid", "logicalParentUuid", "isSidechain", "sessionId")
_SESSION = ("sessionId", "cwd", "gitBranch", "version")


def sniff(document: Document) -> bool:
    values = [entry.value for entry in document.lines if isinstance(entry.value, dict)]
    return any("uuid" in v and "parentUuid" in v and isinstance(v.get("type"), str) for v in values)


def read(document: Document) -> Transcript:
    lines, skipped = document.read_each(document.lines, _line)
    main = _main_lines(lines)
    chains = Chains(main)
    chain = chains.chain_to(chains.leaf)
    left_out = {"sidechain_lines": len(lines) - len(main), **_count_rest(main, chains, chain)}
    meta = {**_session(lines), **{key: value for key, value in left_out.items() if value}}
    return Transcript(_turns(chain), "claude_code", meta, skipped)


def read_chains(document: Document) -> Chains:
    """Links the lines that can be read; others are left out."""
    lines, _ = replace(document, lenient=True).read_each(document.lines, _line)
    return Chains(_main_lines(lines))


def _main_lines(lines: tuple[Line, ...]) -> list[Line]:
    """Returns all lines but the sidechains; a sub-agent's own file is nothing but one, and is then the session."""
    main = [line for line in lines if not line.sidechain]
    return main if any(line.turns for line in main) else list(lines)


def _line(entry: Entry) -> Line:
    fields = copy_object(entry.value, "a line")
    return Line(
        number=entry.number,
        fields=fields,
        turns=_turns_of_line(fields, entry.number),
        message_id=_message_id(fields),
    )


def _turns_of_line(fields: dict[str, Any], number: int) -> tuple[Turn, ...]:
    """Returns the turns of one line; none if the line is bookkeeping."""
    type_ = fields.get("type")
    if type_ in ("user", "assistant"):
        message = {**copy_object(fields.get("message"), '"message"'), "role": type_}
        turns = anthropic.turns_of(message, number)
    elif type_ == "attachment" and _read_queue(fields) is not None:
        turns = anthropic.turns_of({"role": "user", "content": _read_queue(fields)}, number)
    elif type_ == "attachment" and (sent := read_attachment(fields.get("attachment"))):
        turns = (Turn(Role.USER, sent.text, source=number, extra={"isMeta": True}, opaque=sent.opaque),)
    else:
        return ()
    envelope = {key: value for key, value in fields.items() if key not in _ENVELOPE}
    return (replace(turns[0], extra={**turns[0].extra, **envelope}), *turns[1:])


def _read_queue(fields: dict[str, Any]) -> Any:
    """Returns the words that the user typed while the agent worked: an attachment delivers them, never a user line."""
    attachment = fields.get("attachment")
    if isinstance(attachment, dict) and attachment.get("type") == "queued_command":
        return attachment.get("prompt")
    return None


def _message_id(fields: dict[str, Any]) -> str:
    message = fields.get("message")
    if fields.get("type") != "assistant" or not isinstance(message, dict):
        return ""
    return text_or_empty(message.get("id"))


def group_lines(chain: list[Line]) -> list[tuple[list[Line], tuple[Turn, ...]]]:
    """Returns lines that belong together, with their turns; neighbours with one message id are one message."""
    groups: list[tuple[list[Line], tuple[Turn, ...]]] = []
    for message_id, group in groupby(chain, key=lambda line: line.message_id):
        lines = list(group)
        groups += [(lines, (_merge_pieces(lines),))] if message_id else [([line], line.turns) for line in lines]
    return groups


def _turns(chain: list[Line]) -> tuple[Turn, ...]:
    return tuple(turn for _, turns in group_lines(chain) for turn in turns)


def _merge_pieces(lines: list[Line]) -> Turn:
    """Merges pieces into one turn: content end to end, the last piece's bookkeeping (it has the final usage)."""
    if len(lines) == 1:
        return lines[0].turns[0]
    messages = [line.fields["message"] for line in lines]
    content = [part for message in messages for part in as_parts(message.get("content"))]
    last = lines[-1].fields
    whole = {**last, "message": {**last["message"], "content": content}}
    return _turns_of_line(whole, lines[0].number)[0]


def as_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content or ""]


def _session(lines: tuple[Line, ...]) -> dict[str, Any]:
    """Returns the place and the program of the session, from the first line that names them."""
    found: dict[str, Any] = {}
    for line in lines:
        found = {**{key: line.fields[key] for key in _SESSION if key in line.fields}, **found}
    return found


def _count_rest(lines: list[Line], chains: Chains, chain: list[Line]) -> dict[str, Any]:
    """Counts every line that is not in the transcript; compactions are given in full."""
    compactions = [_compaction(line, chains) for line in chains.boundaries]
    shown = {line.number for line in chain} | {n for c in compactions for n in c.lines}
    return {
        "other_lines": dict(Counter(line.type for line in lines if not line.turns)),
        "abandoned_lines": [line.number for line in lines if line.turns and line.number not in shown],
        "compactions": [c.as_meta() for c in compactions],
    }


@dataclass(frozen=True)
class _Compaction:
    boundary: Line
    chain: list[Line]

    @property
    def lines(self) -> list[int]:
        return [line.number for line in self.chain]

    def as_meta(self) -> dict[str, Any]:
        """Returns its line, the lines of the turns that the summary replaced, and those turns."""
        metadata = self.boundary.fields.get("compactMetadata")
        return {
            "line": self.boundary.number,
            "lines": self.lines,
            "turns": _turns(self.chain),
            "metadata": metadata,
        }


def _compaction(boundary: Line, chains: Chains) -> _Compaction:
    return _Compaction(boundary, chains.chain_before(boundary))
