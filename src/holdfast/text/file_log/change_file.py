"""The verbs that change a session file: compact, undo, expand.

What fails leaves the session exactly as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast.engine.chat import Chat
from holdfast.errors import BadInput, BadOption
from holdfast.progress import Progress
from holdfast.storage.files import DISK, Disk
from holdfast.text.file_log.describe import turn_label, turn_lines
from holdfast.text.file_log.file_draft import draft_for_writer, draft_of_file
from holdfast.text.file_log.lineage import Lineage, find_applied_events, parse_version, read_lineage, trace_turns
from holdfast.text.file_log.log import (
    COMPACT,
    EXPAND,
    OVERWRITE,
    UNDO,
    Event,
    Origin,
    check_output,
    log_path,
    read_log,
)
from holdfast.text.file_log.three_way_merge import three_way_merge, without_record
from holdfast.text.file_log.write_session import write_copy, write_in_place, write_output
from holdfast.text.rewrite import Rewritten, TextPlan, rewrite_again
from holdfast.transcript.cuts import check_legal, legal_cuts
from holdfast.transcript.draft import Draft, Line, Piece, new_draft
from holdfast.transcript.read import decode_text, parse, read_bytes
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Turn
from holdfast.transcript.write import relink, write

Clock = Callable[[], datetime]
_BOM = b"\xef\xbb\xbf"


def utc() -> datetime:
    """Returns the time now."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Compaction:
    """A session file that was compacted."""

    rewritten: Rewritten
    event: Event | None
    """Its entry in the log; None where the session fitted and stayed as it was."""


def compact_file(  # noqa: PLR0913  (each is an option of its own)
    path: Path,
    plan: TextPlan,
    output: Path | None = None,
    chat: Chat | None = None,
    *,
    session: int = 0,
    lenient: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    clock: Clock = utc,
    disk: Disk = DISK,
) -> Compaction:
    """Compacts a session file as text, in place or into `output`, and logs it beside the file that was written.

    `session` chooses one of several in the file, counted from 1.

    What an agent appends meanwhile stays behind the compaction. With `force`, a file that a process has open is written
    too, and what stands at `output` is logged first and overwritten. Raises BadTranscript and BadOption as `read` and
    `rewrite` do, BadInput for a format that cannot be written, a link, and an `output` that exists, Conflict if the
    file was changed otherwise meanwhile.
    """
    output = None if output is None or output.resolve() == path.resolve() else output
    if output is None and (session or path.is_dir()):
        raise BadInput(f"{path}: one of several sessions, or a folder of events, is not written in place; give -o FILE")
    data = _read_content(path, session)
    check_output(output or path, force or output is None)
    text = decode_text(data, path)
    check_legal(parse(text, path=str(path), lenient=lenient).turns)
    past = read_lineage(path, data)
    start = draft_of_file(past)
    made = rewrite_again(start, plan, chat, progress=progress)
    written = write(text, draft_for_writer(made.draft, start, past), path=str(path), lenient=True)
    parse(written, path=str(path), lenient=lenient)  # what cannot be read back is not written
    after = _bytes(written, data)
    if after == data:
        if output is not None:
            write_output(output, data, like=path, force=force, disk=disk)
        return Compaction(made, None)
    event = Event(
        number=0,
        kind=COMPACT,
        time=clock().isoformat(timespec="seconds"),
        before=data,
        after=after,
        plan=asdict(plan),
        tokens_before=made.tokens_before,
        tokens=made.tokens,
        seconds=round(made.seconds, 3),
        gate=made.report.as_evidence() if made.report else {},
        origins=_read_origins(made.draft, after, path),
    )
    if output is None:
        return Compaction(made, write_in_place(path, event, force=force, disk=disk))
    return Compaction(made, write_copy(path, event, output, force=force, disk=disk))


def undo_file(
    path: Path, output: Path | None = None, *, force: bool = False, clock: Clock = utc, disk: Disk = DISK
) -> Event:
    """Takes back the last change: the file is exactly as it was before it, and behind that is what was appended since.

    `output` gets the file as it was instead, without what came later. A file that was overwritten by force comes back.
    Returns the event that was taken back. Raises BadInput if there is nothing to undo, and if the file was changed
    since by more than appending; and as `compact_file` does.
    """
    data = _read_content(path)
    check_output(output or path, force or output is None)
    log = read_log(path)
    events = [event for event in log if event.kind == OVERWRITE and event.after == data]
    events = events or list(find_applied_events(log, data, path))
    if not events:
        raise BadInput(f"{path}: nothing to undo; {log_path(path).name} holds no change that this file came from")
    last = events[-1]
    if output is not None:
        write_output(output, last.before, like=path, force=force, disk=disk)
        return last
    restored = last.before if last.kind == OVERWRITE else three_way_merge(last.before, last.after, data)
    if restored is None:
        restored = without_record(last.before, last.after, data)
    if restored is None:
        raise BadInput(
            f"{path} was changed since event {last.number} by more than appending, and undo would lose that change; "
            f"write the session as it was before to another file with `holdfast undo {path} -o OTHER`"
        )
    if last.kind != OVERWRITE and restored != last.before:
        texts = (decode_text(version, path) for version in (restored, last.before))
        restored = _bytes(relink(*texts, path=str(path)), restored)
    versions = () if last.kind == OVERWRITE else (data, restored)
    sizes = [new_draft(parse_version(version, path)).size(estimate_tokens) for version in versions] or [0, 0]
    event = Event(
        number=0,
        kind=UNDO,
        time=clock().isoformat(timespec="seconds"),
        before=data,
        after=restored,
        plan={"of": last.number},
        tokens_before=sizes[0],
        tokens=sizes[1],
    )
    write_in_place(path, event, force=force, disk=disk)
    return last


def raw_turn(past: Lineage, number: int, path: Path) -> Turn:
    """Returns the raw turn with this 1-based number. Raises BadOption if there is none."""
    if not 1 <= number <= len(past.raw):
        raise BadOption(f"{path} has the raw turns 1 to {len(past.raw)}, got {number}")
    return past.raw[number - 1]


def expand_file(path: Path, number: int, *, force: bool = False, clock: Clock = utc, disk: Disk = DISK) -> Event | None:
    """Puts a raw turn (1-based) back into the session, where it stands in part, or as a note where it went.

    Returns None if it stands there as it was said. Raises BadOption for a turn that does not exist.
    """
    began = time.perf_counter()
    data = _read_content(path)
    past = read_lineage(path, data)
    start = draft_of_file(past)
    held = _put_back(start, number, raw_turn(past, number, path))
    if held is None:
        return None
    own = draft_for_writer(held, start, past)
    after = _bytes(write(decode_text(data, path), own, path=str(path), lenient=True), data)
    event = Event(
        number=0,
        kind=EXPAND,
        time=clock().isoformat(timespec="seconds"),
        before=data,
        after=after,
        plan={"turn": number},
        tokens_before=start.size(estimate_tokens),
        tokens=held.size(estimate_tokens),
        seconds=round(time.perf_counter() - began, 3),
        origins=_read_origins(held, after, path),
    )
    return write_in_place(path, event, force=force, disk=disk)


def _put_back(start: Draft, number: int, turn: Turn) -> Draft | None:
    own = [at for at, piece in enumerate(start.pieces) if piece.turns == (number - 1,)]
    if any(start.pieces[at].writer in ("", EXPAND) for at in own):
        return None
    for at in own:
        old = start.pieces[at].turn
        if old.role is turn.role and old.call_id == turn.call_id:
            whole = replace(old, text=turn.text, reasoning=turn.reasoning, calls=turn.calls)
            return start.replace_pieces(at, at + 1, Piece(whole, (number - 1,), EXPAND))
    note = f"[holdfast: {turn_label(number, turn)} of this session, put back in full]\n" + "\n".join(
        t for t, _ in turn_lines(turn)
    )
    at = _find_place(start, number - 1)
    return start.replace_pieces(at, at, Piece(Turn(Role.USER, note), (number - 1,), EXPAND))


def _find_place(start: Draft, raw: int) -> int:
    """Returns the first legal position behind everything that was said before the raw turn, or holds it."""
    behind = 1 + max((at for at, p in enumerate(start.pieces) if p.turns and min(p.turns) <= raw), default=-1)
    return next(cut for cut in legal_cuts(start.transcript) if cut >= behind)


def _read_origins(held: Draft, after: bytes, path: Path) -> tuple[Origin, ...]:
    """Returns the origin of each turn of the written file. Raises BadTranscript if it cannot be read again."""
    turns = parse_version(after, path).turns
    return tuple(_origin([held.pieces[at] for at in sources], turn) for sources, turn in _sources(held, turns))


def _sources(held: Draft, turns: tuple[Turn, ...]) -> list[tuple[tuple[int, ...], Turn]]:
    return list(zip(trace_turns(held.turns, turns), turns, strict=True))


def _origin(pieces: list[Piece], turn: Turn) -> Origin:
    made = "+".join(dict.fromkeys(piece.writer for piece in pieces if piece.writer))
    turns = tuple(sorted({at for piece in pieces for at in piece.turns}))
    if not any(piece.lines for piece in pieces):
        return Origin(turns, made if len(pieces) < 2 else made or "joined")
    known = [line for piece in pieces for line in _lines(piece)]
    texts = turn.text.split("\n")
    if [line.text for line in known] == texts:
        return Origin(turns, made, tuple(line.turns for line in known))
    by_text = {line.text: line.turns for line in known}
    return Origin(turns, made, tuple(by_text.get(text, turns) for text in texts))


def _lines(piece: Piece) -> list[Line]:
    whole = piece.lines or (Line(piece.turn.text, piece.turns),)
    return [Line(text, line.turns) for line in whole for text in line.text.split("\n")]


def _read_content(path: Path, session: int = 0) -> bytes:
    """Returns the bytes of a file that will be read again and has a place for a log. Raises BadInput for a pipe or a
    device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadInput(f"{path}: a pipe or a device has no past; write the session to a file first")
    return read_bytes(path, session)


def _bytes(text: str, like: bytes) -> bytes:
    return (_BOM if like.startswith(_BOM) else b"") + text.encode()
