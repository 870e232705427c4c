"""What the tests of the writers share: random legal changes of a draft, and what a wire cannot tell apart."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from holdfast.transcript.draft import Draft, Line, Piece, new_draft, piece_of_lines, units
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

TEXTS = st.sampled_from(
    ["short", "two\nlines", "[image]", "é \u2028 '\"{}", "# head\n\n- item", "cut …\n```bash\nls\n```"]
)


@dataclass(frozen=True)
class Said:
    """A turn as every wire can say it: ids only by the place of their call."""

    role: Role
    text: str
    calls: tuple[tuple[str, str], ...]
    answers: tuple[int, int] | None


def said(turns: tuple[Turn, ...], merged: bool = False) -> list[Said]:
    """The turns to compare; `merged` joins neighbours of one role, which an alternating wire cannot tell apart."""
    shown: list[Said] = []
    places: dict[str, tuple[int, int]] = {}
    for turn in turns:
        role = Role.USER if merged and turn.role is Role.SYSTEM and shown else turn.role
        joins = merged and bool(shown) and role in (Role.USER, Role.ASSISTANT) and shown[-1].role is role
        at = len(shown) - joins
        before = len(shown[-1].calls) if joins else 0
        places |= {call.id: (at, before + n) for n, call in enumerate(turn.calls)}
        calls = tuple((call.name, call.arguments) for call in turn.calls)
        if joins:
            last = shown[-1]
            text = "\n".join(filter(None, (last.text, turn.text)))
            shown[-1] = replace(last, text=text, calls=last.calls + calls)
        else:
            shown.append(Said(role, turn.text, calls, places.get(turn.call_id)))
    # Blank lines between what is joined are the format's own.
    return [replace(one, text=re.sub(r"\n+", "\n", one.text)) for one in shown] if merged else shown


@st.composite
def changed(drawn: st.DrawFn, transcript: Transcript) -> Draft:
    """A draft with some units dropped or folded into a summary, some texts and arguments rewritten, and maybe a facts
    section."""
    held = new_draft(transcript)
    for _ in range(drawn(st.integers(0, 4))):
        spans = units(held)
        first = drawn(st.integers(0, len(spans) - 1))
        last = drawn(st.integers(first, min(len(spans) - 1, first + 4)))
        start, stop = spans[first][0], spans[last][1]
        rest = (*held.pieces[:start], *held.pieces[stop:])
        if all(piece.turn.role is Role.SYSTEM for piece in rest):
            continue
        what = drawn(st.sampled_from(["drop", "fold", "put", "put", "calls", "calls", "add"]))
        text = drawn(TEXTS)
        if what == "drop":
            held = held.keep(at for at in range(len(held.pieces)) if not start <= at < stop)
        elif what == "fold":
            turns = tuple(at for piece in held.pieces[start:stop] for at in piece.turns)
            held = held.replace_pieces(
                start, stop, piece_of_lines([Line(line, turns) for line in text.split("\n")], "summarize")
            )
        elif what == "put":
            held = held.replace_text(drawn(st.integers(start, stop - 1)), text, "clamp")
        elif what == "calls":
            held = with_arguments(held, drawn(st.integers(start, stop - 1)), text)
        elif not closed(held, start):
            held = held.replace_pieces(start, start, Piece(Turn(Role.USER, text), (), "facts", (Line(text),)))
    return held


def closed(held: Draft, at: int) -> bool:
    """Whether nobody else may speak there: the turn before waits for its results, or the system prompt follows."""
    return held.pieces[at].turn.role is Role.SYSTEM or (at > 0 and bool(held.pieces[at - 1].turn.calls))


def with_arguments(held: Draft, at: int, text: str) -> Draft:
    """The draft with `text` in every string among the arguments of a piece's calls."""
    calls = tuple(replace(call, arguments=arguments(call, text)) for call in held.pieces[at].turn.calls)
    return held.replace_calls(at, calls, "mask_calls") if calls else held


def arguments(call: ToolCall, text: str) -> str:
    try:
        value = json.loads(call.arguments)
    except ValueError:
        return text if call.arguments else ""
    if not isinstance(value, dict):
        return call.arguments
    return json.dumps({k: text if isinstance(v, str) else v for k, v in value.items()}, ensure_ascii=False)
