"""Examines a session: what is in it, what it wastes, what compactions took from it, and which providers accept it.

Reads leniently and loads no model. Turns are named from 1, as everywhere that a person reads them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from posixpath import normpath
from typing import Any

from holdfast.cost.prices import read_prices
from holdfast.cost.session_cost import SessionCost, session_cost
from holdfast.errors import BadOption
from holdfast.facts.fact import Fact, FactKind
from holdfast.facts.handles import parse_handle
from holdfast.facts.notes import NOTES_WRITER
from holdfast.facts.occurrences import SearchableText, visible_text
from holdfast.facts.prohibitions import RULE_KINDS, STANDING_KINDS
from holdfast.facts.session_facts import collect_facts
from holdfast.gate.text.claims import StruckSentence, strike_claims
from holdfast.text.file_log import Event, read_lineage
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.activity import find_activity
from holdfast.transcript.draft import MESSAGE_TOKENS, Draft, Piece, turn_size
from holdfast.transcript.injections import SUMMARY_FIELD
from holdfast.transcript.legality import PROVIDERS, Problem, find_problems
from holdfast.transcript.read import read, read_bytes
from holdfast.transcript.summary_frame import strip_frame
from holdfast.transcript.task import find_task
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn

STRATEGIES = ("dedup_reads", "clamp", "mask_observations", "drop_observations")
"""Text methods without a model, whose utmost is shown. Those that drop whole turns can always save nearly all."""
BIGGEST = 5


@dataclass(frozen=True)
class OpaqueParts:
    """The parts of one name that cannot be read."""

    parts: int
    tokens: int


@dataclass(frozen=True)
class BigTurn:
    """A turn by its size."""

    turn: int
    what: str
    tokens: int


@dataclass(frozen=True)
class Reread:
    """A file, or the same part of one, that was read more than once."""

    path: str
    times: int
    unchanged: int
    """The number of reads since whose predecessor nothing was written to the file."""
    tokens: int
    """Of all reads but the first."""


@dataclass(frozen=True)
class RecordedCompaction:
    """A compaction that the session records: what it lost and what it made up."""

    turns: int
    tokens_before: int
    tokens: int
    """Of the summary."""
    held: Counter[str]
    """Live facts per kind that the summary, or a turn that was kept, still holds word for word."""
    live: Counter[str]
    lost: tuple[Fact, ...]
    """The user's rules first, then other rules and live handles, then the newest."""
    invented: tuple[StruckSentence, ...]
    """Sentences that no turn bears out."""


@dataclass(frozen=True)
class Checkup:
    """The findings about a session."""

    format: str
    turns: int
    tokens: int
    kinds: dict[str, int]
    """Tokens by kind, the largest first."""
    opaque: dict[str, OpaqueParts]
    """The parts that the model sees and nobody else can read, by name, the largest first."""
    biggest: tuple[BigTurn, ...]
    rereads: tuple[Reread, ...]
    compactions: tuple[RecordedCompaction, ...]
    problems: dict[str, tuple[Problem, ...]]
    """By provider; empty where it would take the session."""
    savings: dict[str, int]
    """Tokens that each text strategy would leave at its utmost."""
    cost: SessionCost | None
    """None where the model, or its price, is not known."""
    logged: tuple[Event, ...]
    """The changes that Holdfast made to it so far."""
    skipped: tuple[str, ...]


def examine_session(path: Path, model: str = "", summary: str = "", session: int = 0) -> Checkup:
    """Examines a session file. `model` names whose prices are used, by default the one that the file names most. A
    `summary` that is to stand for the session is examined as its newest compaction; `session` chooses one of several
    in the file.

    Raises BadTranscript for a file that is no session, BadOption for a model that was asked for and has no price.
    """
    transcript = read(path, lenient=True, session=session)
    turns = transcript.turns
    kinds = tokens_by_kind(turns)
    sized = sorted(
        ((turn_size(turn, estimate_tokens), at) for at, turn in enumerate(turns)), key=lambda pair: (-pair[0], pair[1])
    )
    names = _tool_names(turns)
    return Checkup(
        format=transcript.format,
        turns=len(turns),
        tokens=sum(size for size, _ in sized),
        kinds=dict(sorted(kinds.items(), key=lambda pair: -pair[1])),
        opaque=find_opaque(turns),
        biggest=tuple(BigTurn(at + 1, _first_line(turns[at], names), size) for size, at in sized[:BIGGEST]),
        rereads=find_rereads(turns),
        compactions=(
            *examine_compactions(transcript),
            *((examine_summary(transcript, summary),) if summary.strip() else ()),
        ),
        problems={name: _provider_problems(turns, name) for name in PROVIDERS},
        savings=possible_savings(transcript),
        cost=_cost(transcript, model),
        logged=tuple(event for event, _ in read_lineage(path, read_bytes(path, session)).steps),
        skipped=transcript.skipped,
    )


def _provider_problems(turns: Sequence[Turn], provider: str) -> tuple[Problem, ...]:
    """Returns what a provider would refuse. A session that ended well ends with the assistant, so that
    is no problem.
    """
    return tuple(found for found in find_problems(turns, provider) if found.rule != "user_last")


def find_opaque(turns: Sequence[Turn]) -> dict[str, OpaqueParts]:
    """Returns the parts that no reader can read, by name, those that cost most first."""
    parts = [part for turn in turns for part in turn.hidden]
    numbers = Counter(part.name for part in parts)
    tokens: Counter[str] = Counter()
    for part in parts:
        tokens[part.name] += part.tokens
    return {name: OpaqueParts(numbers[name], size) for name, size in tokens.most_common()}


def tokens_by_kind(turns: Sequence[Turn]) -> Counter[str]:
    """Counts tokens by who says what; the message's own overhead counts with its text."""
    names = _tool_names(turns)
    task = find_task(turns)
    found: Counter[str] = Counter()
    for at, turn in enumerate(turns):
        kind = "task" if at == task else _kind(turn, names)
        found[kind] += MESSAGE_TOKENS + (estimate_tokens(turn.text) if turn.text else 0)
        for part in turn.hidden:
            found[f"opaque {part.name}"] += part.tokens
        if turn.reasoning:
            found["reasoning"] += estimate_tokens(turn.reasoning)
        for call in turn.calls:
            found[f"calls of {call.name}"] += estimate_tokens(call.name) + (
                estimate_tokens(call.arguments) if call.arguments else 0
            )
    return found


def find_rereads(turns: Sequence[Turn]) -> tuple[Reread, ...]:
    """Returns the files that were read again, those that cost most first."""
    seen = find_activity(turns)
    writes = defaultdict(list)
    for access in seen.writes:
        writes[normpath(access.path)].append(access.turn)
    groups = defaultdict(list)
    for access in seen.reads:
        if access.result_turn is not None and access.alone:
            groups[normpath(access.path), access.part].append(access)
    found = []
    for (path, part), reads in groups.items():
        results = list(dict.fromkeys(access.result_turn for access in reads if access.result_turn is not None))
        if len(results) < 2:
            continue
        pairs = pairwise(reads)
        unchanged = sum(not any(a.turn < at < b.turn for at in writes[path]) for a, b in pairs)
        tokens = sum(turn_size(turns[at], estimate_tokens) for at in results[1:])
        found.append(Reread(f"{reads[0].path} ({part})" if part else reads[0].path, len(results), unchanged, tokens))
    return tuple(sorted(found, key=lambda reread: -reread.tokens))


def examine_compactions(transcript: Transcript) -> tuple[RecordedCompaction, ...]:
    """Returns what each recorded compaction lost and made up, the oldest first."""
    records = transcript.meta.get("compactions") or ()
    segments = [
        _mark_summaries(tuple(turns), records) for turns in (*(one["turns"] for one in records), transcript.turns)
    ]
    said: tuple[Turn, ...] = ()
    found = []
    for record, (before, next_) in zip(records, pairwise(segments), strict=True):
        after = _mark_summaries(tuple(record["after"]), records) if "after" in record else next_
        told = tuple(replace(turn, role=Role.ASSISTANT) if is_summary(turn) else turn for turn in before)
        said += tuple(turn for turn in before if not is_summary(turn))
        found.append(_examine_compaction(told, said, after))
    return tuple(found)


def examine_summary(transcript: Transcript, summary: str) -> RecordedCompaction:
    """Returns what a summary that is to stand for the whole session lost and made up."""
    told = Turn(Role.USER, summary)
    record = {"turns": transcript.turns, "summaries": (told,)}
    records = (*(transcript.meta.get("compactions") or ()), record)
    return examine_compactions(replace(transcript, turns=(told,), meta={**transcript.meta, "compactions": records}))[-1]


def _mark_summaries(turns: tuple[Turn, ...], records: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Marks the turns that the records name as summaries, so that `is_summary` knows them."""
    named = {(turn.role, turn.text) for record in records for turn in record.get("summaries") or ()}
    marks = ({SUMMARY_FIELD: True} if (turn.role, turn.text) in named else {} for turn in turns)
    return tuple(replace(turn, extra={**turn.extra, **mark}) for turn, mark in zip(turns, marks, strict=True))


def is_summary(turn: Turn) -> bool:
    """Returns True if an agent wrote the turn in place of earlier ones, in the user's role."""
    return turn.extra.get(SUMMARY_FIELD) is True


def possible_savings(transcript: Transcript) -> dict[str, int]:
    """Returns the tokens that each strategy would leave at its utmost, with the gate off."""
    plans = {name: TextPlan(name, budget=1, gate=False) for name in STRATEGIES}
    return {name: rewrite(transcript, plan).tokens for name, plan in plans.items()}


def _examine_compaction(
    before: tuple[Turn, ...], said: tuple[Turn, ...], after: tuple[Turn, ...]
) -> RecordedCompaction:
    """Compares a summary with the session before it, where earlier summaries count as the assistant's words."""
    summaries = tuple(turn for turn in after if is_summary(turn))
    originals = {(turn.role, turn.text) for turn in before}
    kept = [turn for turn in after if (turn.role, turn.text) in originals]
    standing = SearchableText("\n".join(visible_text(turn) for turn in (*summaries, *kept)))
    live = collect_facts(Transcript(before)).live
    lost = [fact for fact in live if not _stands(fact, standing)]
    whole = tuple(range(len(said)))
    claims = (replace(turn, text=strip_frame(turn.text)) for turn in summaries)
    held = Draft(Transcript(said), tuple(Piece(turn, whole, NOTES_WRITER) for turn in claims))
    return RecordedCompaction(
        turns=len(before),
        tokens_before=sum(turn_size(turn, estimate_tokens) for turn in before),
        tokens=sum(turn_size(turn, estimate_tokens) for turn in summaries),
        held=Counter(fact.kind.value for fact in live) - Counter(fact.kind.value for fact in lost),
        live=Counter(fact.kind.value for fact in live),
        lost=tuple(sorted(lost, key=_sort_key)),
        invented=strike_claims(held, find_activity(said))[1],
    )


def _stands(fact: Fact, standing: SearchableText) -> bool:
    """Returns True if a summary holds a fact; a handle stands where its id does, however it is described."""
    handle = parse_handle(fact.text, 0) if fact.kind is FactKind.HANDLE else None
    if handle is not None and handle.name and standing.contains(handle.name, FactKind.IDENTIFIER):
        return True
    return standing.contains(fact.text, fact.kind)


def _sort_key(fact: Fact) -> tuple[bool, bool, int]:
    return fact.kind not in RULE_KINDS, fact.kind not in STANDING_KINDS, -fact.turn


def _cost(transcript: Transcript, model: str) -> SessionCost | None:
    named = Counter(str(turn.extra["model"]) for turn in transcript.turns if turn.extra.get("model"))
    if not model and not named:
        return None
    try:
        return session_cost(transcript, read_prices(model or named.most_common(1)[0][0]))
    except BadOption:
        if model:
            raise
        return None


def _tool_names(turns: Sequence[Turn]) -> dict[str, str]:
    return {call.id: call.name for turn in turns for call in turn.calls}


def _kind(turn: Turn, names: dict[str, str]) -> str:
    if turn.role is Role.TOOL:
        return f"results of {names[turn.call_id]}" if turn.call_id in names else "results"
    return "summary" if is_summary(turn) else turn.role.value


def _first_line(turn: Turn, names: dict[str, str]) -> str:
    first = next((line.strip() for line in turn.text.split("\n") if line.strip()), "")
    calls = ", ".join(f"{call.name} {call.arguments}" for call in turn.calls)
    return f"{_kind(turn, names)}: {first or calls}"
