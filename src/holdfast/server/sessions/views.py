"""Sessions as rows and details, as the page, the endpoints and the extension field show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from holdfast.context.compress_positions import slots_of_tokens
from holdfast.mementos.kv import curve_of_log
from holdfast.model.load import Model, full_bytes
from holdfast.server.protocol import BlockRow, CurvePoint, FactResult, RawTurn, SessionDetail, SessionRow
from holdfast.server.sessions.entry import SessionEntry
from holdfast.server.sessions.registry import replay_turns
from holdfast.session.events import SessionCompacted, SessionSaved, TurnsAppended
from holdfast.session.session import Session
from holdfast.transcript.speaker import extract_own_words
from holdfast.transcript.turn import Turn

TITLE = 120
TEXT = 2000
PRIVATE = ("turns", "blocks", "ids", "tools", "key")  # fields of an event that are shown otherwise, or to nobody


def row(entry: SessionEntry, model: Model) -> SessionRow:
    """Returns a session as a list shows it."""
    session = entry.resident  # read once: another thread may spill it meanwhile
    sizes = _newest_sizes(entry, session)
    tokens = int(sizes.get("tokens", 0))
    turns = session.turns if session else replay_turns(entry.events)
    asked = [said for turn in turns if (said := extract_own_words(turn).strip())] or [""]
    events = session.events if session else entry.events
    return SessionRow(
        id=entry.name,
        title=_one_line(asked[0]),
        turns=len(turns),
        tokens=tokens,
        slots=math.ceil(sizes.get("slots", 0)),
        bytes=int(sizes.get("bytes", 0)),
        bytes_full=full_bytes(model, tokens),
        compactions=session.compactions if session else _count_compactions(entry),
        resident=session is not None,
        busy=entry.busy > 0,
        activities=list(dict.fromkeys(entry.activities)),
        parent=str(events[0].get("parent", "")) if events else "",
        newest=_one_line(asked[-1]),
        updated=entry.used,
    )


def _one_line(text: str) -> str:
    return " ".join(text[: 8 * TITLE].split())[:TITLE]


def unreadable_row(name: str, reason: str) -> SessionRow:
    """Returns the row of a session that cannot be read, so that its owner sees it and can drop it."""
    title = f"This session cannot be read: {reason}"[:TITLE]
    return SessionRow(
        id=name,
        title=title,
        turns=0,
        tokens=0,
        slots=0,
        bytes=0,
        bytes_full=0,
        compactions=0,
        resident=False,
        busy=False,
        activities=[],
        parent="",
        newest="",
        updated=0.0,
    )


def extension(entry: SessionEntry) -> dict[str, Any]:
    """Returns the `holdfast` field beside the usage of an answer."""
    session = entry.session
    newest, cache = _newest_evidence(session), session.cache
    out = {
        "session": entry.name,
        "tokens": cache.tokens,
        "slots": math.ceil(cache.slots),
        "bytes": cache.nbytes,
        "bytes_full": full_bytes(cache.model, cache.tokens),
        "compactions": session.compactions,
    }
    return {**out, "evidence": _summarize(newest)} if newest else out


def detail(entry: SessionEntry, session: Session, model: Model) -> SessionDetail:
    """Returns a session that is in memory, or a snapshot of it, with its blocks and its past."""
    facts = _read_facts(session)
    return SessionDetail(
        **row(entry, model),
        blocks=_block_rows(session, facts),
        rounds=[point for event in session.events if (point := _curve_point(event, session))],
        events=[{k: v for k, v in event.items() if k not in PRIVATE} for event in session.events],
        curve=_slots_over_tokens(session),
        facts=facts,
        evidence=dict(_newest_evidence(session)),
    )


def raw(turn: Turn, number: int) -> RawTurn:
    """Returns a turn as it was given."""
    return RawTurn(
        turn=number,
        role=turn.role.value,
        text=turn.text,
        reasoning=turn.reasoning,
        calls=[{"id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.calls],
        call_id=turn.call_id,
        is_error=turn.is_error,
    )


def _newest_sizes(entry: SessionEntry, session: Session | None) -> Mapping[str, Any]:
    """Returns the newest tokens, slots and bytes of a session, as far as its log tells."""
    if session:
        cache = session.cache
        return {"tokens": cache.tokens, "slots": cache.slots, "bytes": cache.nbytes}
    return next((e["told"] for e in reversed(entry.events) if "slots" in e.get("told", {})), {})


def _count_compactions(entry: SessionEntry) -> int:
    return next((int(e["compactions"]) for e in reversed(entry.events) if "compactions" in e), 0)


def _newest_evidence(session: Session) -> Mapping[str, Any]:
    """Returns the evidence of the newest compaction that stands; empty if there is none."""
    event = _standing_compactions(session).get(session.compactions)
    return dict(event["told"]) if event else {}


def _standing_compactions(session: Session) -> dict[int, Mapping[str, Any]]:
    """Returns the events of the compactions that stand, by number; an undo gives its number to the next one."""
    events = {e["compactions"]: e for e in session.events if e["kind"] == SessionCompacted.kind}
    return {number: event for number, event in sorted(events.items()) if number <= session.compactions}


def _summarize(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a compaction in a few numbers."""
    gate = evidence.get("gate") or {}
    fields = {name: evidence[name] for name in ("before", "slots", "seconds", "restart", "why") if name in evidence}
    counts = {"lost": len(gate.get("lost", ())), "repaired": len(gate.get("repaired", ()))} if gate else {}
    accepted = {"accept": evidence["accept"]["tries"][-1]} if "accept" in evidence else {}
    return {**fields, **counts, **accepted}


def _read_facts(session: Session) -> list[FactResult]:
    """Returns the facts that the gates of all standing compactions found lost or repaired."""
    out: list[FactResult] = []
    for event in _standing_compactions(session).values():
        gate = event.get("told", {}).get("gate") or {}
        for fate in ("lost", "repaired"):
            out += [
                FactResult(turn=int(fact["turn"]) + 1, kind=str(fact["kind"]), text=str(fact["text"]), fate=fate)  # type: ignore[typeddict-item]
                for fact in gate.get(fate, ())
                if int(fact["turn"]) < len(session.turns)
            ]
    return out


def _block_rows(session: Session, facts: list[FactResult]) -> list[BlockRow]:
    cache, tokenizer = session.cache, session.engine.model.tokenizer
    end = cache.live.next_position - sum(map(len, cache.blocks[cache.tail :]))
    first = cache.blocks[cache.tail].origin.tokens[0] if cache.tail < len(cache.blocks) else cache.tokens
    slots = slots_of_tokens(cache.segments, end, first).tolist()
    fates: dict[int, Literal["lost", "repaired"]] = {}
    for fact in sorted(facts, key=lambda fact: fact["fate"], reverse=True):  # lost outweighs repaired
        fates[fact["turn"]] = fact["fate"]
    out: list[BlockRow] = []
    for at, block in enumerate(cache.blocks):
        a, b = block.origin.tokens
        tail = at >= cache.tail
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


def _curve_point(event: Mapping[str, Any], session: Session) -> CurvePoint | None:
    sizes = event.get("told", {})
    if "slots" not in sizes or event["kind"] == SessionSaved.kind:
        return None
    answered = event["kind"] == TurnsAppended.kind and "prompt" in sizes
    if event["kind"] == TurnsAppended.kind and not answered:
        return None
    return CurvePoint(
        turn=max((row[0] + 1 for row in event["blocks"]), default=1) if answered else _turn_at(event, session),
        tokens=int(sizes["tokens"]),
        slots=math.ceil(sizes["slots"]),
        bytes=int(sizes["bytes"]),
        compacted=event["kind"] == SessionCompacted.kind,
        prompt_tokens=int(sizes.get("prompt", 0)),
        prefilled=int(sizes.get("prefilled", 0)),
        seconds_to_first_token=sizes.get("first"),
    )


def _slots_over_tokens(session: Session) -> list[tuple[int, float]]:
    """Returns the sawtooth of a session that drops blocks; none for one that does not."""
    if not any("dropped" in event.get("told", {}) for event in session.events):
        return []
    return list(curve_of_log(session.events).points)


def _turn_at(event: Mapping[str, Any], session: Session) -> int:
    """Returns the newest turn at a compaction or an undo."""
    tokens = event["told"]["tokens"]
    return max((b.origin.turn + 1 for b in session.cache.blocks if b.origin.tokens[1] <= tokens), default=1)
