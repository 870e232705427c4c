"""Sessions as rows and details: what the page, the endpoints and the extension field show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from holdfast.compaction.compact import full_bytes
from holdfast.context.compress_positions import slots_of_tokens
from holdfast.model.load import Model
from holdfast.server.protocol import BlockRow, CurvePoint, FactResult, RawTurn, SessionDetail, SessionRow
from holdfast.server.sessions.registry import SessionEntry, replay_turns
from holdfast.session.session import Session
from holdfast.transcript.turn import Role, Turn

TITLE = 120
TEXT = 2000
UNTOLD = ("turns", "blocks", "tools", "key")  # of an event: they are told otherwise, or are nobody's business


def row(entry: SessionEntry, model: Model) -> SessionRow:
    """A session as a list shows it."""
    session = entry.resident  # taken once: another thread may spill it meanwhile
    told = _last(entry, session)
    tokens = int(told.get("tokens", 0))
    turns = session.turns if session else replay_turns(entry.events)
    title = next((turn.text for turn in turns if turn.role is Role.USER), "")
    return SessionRow(
        id=entry.name,
        title=" ".join(title.split())[:TITLE],
        turns=len(turns),
        tokens=tokens,
        slots=math.ceil(told.get("slots", 0)),
        bytes=int(told.get("bytes", 0)),
        bytes_full=full_bytes(model, tokens),
        compactions=session.compactions if session else _compactions(entry),
        resident=session is not None,
        busy=entry.busy > 0,
        updated=entry.used,
    )


def extension(entry: SessionEntry) -> dict[str, Any]:
    """What stands as `holdfast` beside the usage."""
    session = entry.session
    told, held = _newest(session), session.cache
    out = {
        "session": entry.name,
        "tokens": held.tokens,
        "slots": math.ceil(held.slots),
        "bytes": held.nbytes,
        "bytes_full": full_bytes(held.model, held.tokens),
        "compactions": session.compactions,
    }
    return {**out, "evidence": _brief(told)} if told else out


def detail(entry: SessionEntry, model: Model) -> SessionDetail:
    """A session that is in memory, with its blocks and its past."""
    session, facts = entry.session, _facts(entry.session)
    return SessionDetail(
        **row(entry, model),
        blocks=_pieces(session, facts),
        rounds=[found for event in session.events if (found := _round(event, session))],
        events=[
            {k: v for k, v in event.items() if k not in ("turns", "blocks", "tools", "key")} for event in session.events
        ],
        facts=facts,
        evidence=dict(_newest(session)),
    )


def raw(turn: Turn, number: int) -> RawTurn:
    """A turn as it was given."""
    return RawTurn(
        turn=number,
        role=turn.role.value,
        text=turn.text,
        reasoning=turn.reasoning,
        calls=[{"id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.calls],
        call_id=turn.call_id,
        is_error=turn.is_error,
    )


def _last(entry: SessionEntry, session: Session | None) -> Mapping[str, Any]:
    """The newest sizes that are known."""
    if session:
        held = session.cache
        return {"tokens": held.tokens, "slots": held.slots, "bytes": held.nbytes}
    return next((e["told"] for e in reversed(entry.events) if "slots" in e.get("told", {})), {})


def _compactions(entry: SessionEntry) -> int:
    return next((int(e["compactions"]) for e in reversed(entry.events) if "compactions" in e), 0)


def _newest(session: Session) -> Mapping[str, Any]:
    """What the newest compaction that stands told."""
    event = _standing(session).get(session.compactions)
    return dict(event["told"]) if event else {}


def _standing(session: Session) -> dict[int, Mapping[str, Any]]:
    """The events of the compactions that stand, by number; one that was taken back gave its number to the next."""
    made = {e["compactions"]: e for e in session.events if e["kind"] == "compacted"}
    return {number: event for number, event in sorted(made.items()) if number <= session.compactions}


def _brief(told: Mapping[str, Any]) -> dict[str, Any]:
    """The newest compaction in a few numbers."""
    gate = told.get("gate") or {}
    kept = {name: told[name] for name in ("before", "slots", "seconds", "restart", "why") if name in told}
    counts = {"lost": len(gate.get("lost", ())), "repaired": len(gate.get("repaired", ()))} if gate else {}
    return {**kept, **counts}


def _facts(session: Session) -> list[FactResult]:
    """What the gate of every compaction that stands found lost or repaired."""
    out: list[FactResult] = []
    for event in _standing(session).values():
        gate = event.get("told", {}).get("gate") or {}
        for fate in ("lost", "repaired"):
            out += [
                FactResult(turn=int(fact["turn"]) + 1, kind=str(fact["kind"]), text=str(fact["text"]), fate=fate)  # type: ignore[typeddict-item]
                for fact in gate.get(fate, ())
                if int(fact["turn"]) < len(session.turns)
            ]
    return out


def _pieces(session: Session, facts: list[FactResult]) -> list[BlockRow]:
    held, tokenizer = session.cache, session.engine.model.tokenizer
    end = held.live.next_position - sum(map(len, held.blocks[held.tail :]))
    first = held.blocks[held.tail].origin.tokens[0] if held.tail < len(held.blocks) else held.tokens
    slots = slots_of_tokens(held.segments, end, first).tolist()
    fates: dict[int, Literal["lost", "repaired"]] = {}
    for fact in sorted(facts, key=lambda fact: fact["fate"], reverse=True):  # lost outweighs repaired
        fates[fact["turn"]] = fact["fate"]
    out: list[BlockRow] = []
    for at, block in enumerate(held.blocks):
        a, b = block.origin.tokens
        tail = at >= held.tail
        kept = float(b - a) if tail else sum(slots[a:b])
        whole = tail or kept >= b - a - 1e-3
        turn = block.origin.turn + 1
        out.append(
            BlockRow(
                turn=turn,
                kind=block.kind.value,
                tokens=b - a,
                slots=math.ceil(kept - 1e-3),
                fate="verbatim" if whole else fates.get(turn, "compacted"),
                pinned=block.origin.turn in session.pinned,
                text=str(tokenizer.decode(block.ids))[:TEXT],
            )
        )
    return out


def _round(event: Mapping[str, Any], session: Session) -> CurvePoint | None:
    told = event.get("told", {})
    if "slots" not in told or event["kind"] == "saved":
        return None
    answered = event["kind"] == "turns" and "prompt" in told
    if event["kind"] == "turns" and not answered:
        return None
    return CurvePoint(
        turn=max((row[0] + 1 for row in event["blocks"]), default=1) if answered else _turn_at(event, session),
        tokens=int(told["tokens"]),
        slots=math.ceil(told["slots"]),
        bytes=int(told["bytes"]),
        compacted=event["kind"] == "compacted",
        prompt_tokens=int(told.get("prompt", 0)),
        prefilled=int(told.get("prefilled", 0)),
        seconds_to_first_token=told.get("first"),
    )


def _turn_at(event: Mapping[str, Any], session: Session) -> int:
    """The newest turn at a compaction or an undo."""
    tokens = event["told"]["tokens"]
    return max((b.origin.turn + 1 for b in session.cache.blocks if b.origin.tokens[1] <= tokens), default=1)
