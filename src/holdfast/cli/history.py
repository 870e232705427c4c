"""Commands over the log beside a session: log, diff, undo, expand, and what `show` says of a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console, outputs
from holdfast.cli.console import AsJson

if TYPE_CHECKING:
    from holdfast.text.file_log import Event, Lineage
    from holdfast.text.file_log.describe import Fate
    from holdfast.text.file_log.lineage import State
    from holdfast.transcript.turn import Turn

File = Annotated[Path, typer.Argument(help="A session that was compacted.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for command in (log, diff, undo, expand):
        app.command()(command)


def log(file: File, as_json: AsJson = False) -> None:
    """List what was done to a session, the newest last."""
    from holdfast.text.file_log import read_lineage, read_log

    events = read_log(file)
    changes = any(event.kind != "overwrite" for event in events)  # a page that was overwritten has no turns
    standing = {event.number for event, _ in read_lineage(file).steps} if changes else set()
    if as_json:
        console.emit([{**_event(event), "stands": event.number in standing} for event in events])
        return
    if not events:
        console.line(f"{file}: no changes logged")
    for event in events:
        state = (
            ""
            if event.number in standing or event.kind in ("undo", "overwrite")
            else "  (taken back, or never took place)"
        )
        change = f"{event.tokens_before:>9,} -> {event.tokens:>9,} tokens"
        console.line(f"{event.number:>4}  {event.time}  {event.kind:<8}{change}  {_asked(event)}{state}")


def diff(
    file: File,
    event: Annotated[int | None, typer.Option(help="Number of the change; see `log`. Default: the last.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print a unified diff of all that is said.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a change made of each turn: verbatim, rewritten or dropped."""
    from holdfast.text.file_log import read_lineage
    from holdfast.text.file_log.describe import diff_lines, turn_fates
    from holdfast.text.file_log.lineage import parse_version

    change, state = _step(read_lineage(file), event, file)
    before, after = state.transcript.turns, parse_version(change.after, file).turns
    found = turn_fates(change, before, state.origins, after)
    lines = diff_lines(before, after, file.name) if full else []
    if as_json:
        rows = [{**vars(fate), "turns": _one_based(fate.turns)} for fate in found]
        console.emit({**_event(change), "turns": rows, **({"diff": lines} if full else {})})
        return
    console.line(
        f"event {change.number}: {change.kind}, {change.tokens_before:,} -> {change.tokens:,} tokens; "
        + ", ".join(
            f"{sum(fate.fate == name for fate in found)} {name}" for name in ("verbatim", "rewritten", "dropped")
        )
    )
    for text in lines if full else map(_fate, found):
        console.line(text)


def undo(
    file: File,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the session as it was here; leave FILE alone.")
    ] = None,
    force: outputs.ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Take back the last change; turns that came later stay."""
    from holdfast.text.file_log import undo_file

    if output is not None:
        outputs.check_output(output, file, force=force)
    done = undo_file(file, output, force=force)
    if as_json:
        console.emit({"file": str(output or file), "undone": _event(done)})
        return
    if done.kind == "overwrite":
        console.line(f"event {done.number} (overwrite) taken back: {output or file} is what stood there before it")
        return
    tokens = f"{done.tokens_before:,} tokens"
    where = f"{output} has" if output else f"{file} has again"
    console.line(f"event {done.number} ({done.kind}) taken back: {where} the {tokens} from before it")


def expand(
    file: File,
    turn: Annotated[int, typer.Argument(help="Number of the raw turn, from 1, as `show` and `diff` name it.")],
    in_place: Annotated[bool, typer.Option("--in-place", help="Put it back into the session.")] = False,
    force: outputs.ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Print a turn in full, as it was said, whatever became of it since."""
    from holdfast.text.file_log import expand_file, read_lineage
    from holdfast.text.file_log.change_file import raw_turn

    raw = raw_turn(read_lineage(file), turn, file)
    done = expand_file(file, turn, force=force) if in_place else None
    if as_json:
        console.emit({"turn": turn, **_turn(raw), **({"event": done and _event(done)} if in_place else {})})
        return
    _print_turn(turn, raw)
    if in_place:
        console.say(f"put back (event {done.number})" if done else "it stands in the session as it was said")


def show_session(file: Path, why: str, as_json: bool) -> None:
    """A session with its lines numbered, or why one of them is there."""
    from holdfast.text.file_log import read_lineage
    from holdfast.text.file_log.describe import describe_session, turn_ranges

    past = read_lineage(file)
    lines = describe_session(past.now.transcript.turns, past.now.origins)
    if not why:
        if as_json:
            rows = [
                {"line": n, "text": line.text, "turns": _one_based(past.sources(line))} for n, line in _counted(lines)
            ]
            console.emit({"file": str(file), "raw_turns": len(past.raw), "lines": rows})
            return
        for number, line in _counted(lines):
            console.line(f"{number:>6}  {line.text}")
        return
    number = _found(why, [line.text for line in lines], file)
    line = lines[number - 1]
    made, sources = past.now.origins[line.at].made, past.sources(line)
    if as_json:
        raw = [{"turn": at + 1, **_turn(past.raw[at])} for at in sources]
        console.emit({"line": number, "text": line.text, "made_by": made, "raw": raw})
        return
    told = f"made by {made} from turn {turn_ranges(sources)}" if sources else f"made by {made}; stands for no turn"
    console.line(f"line {number}: {line.text}\n{told if made else f'as it was said, turn {turn_ranges(sources)}'}")
    for at in sources:
        _print_turn(at + 1, past.raw[at])


def _found(why: str, lines: Sequence[str], file: Path) -> int:
    """A line by its number, or by what it says."""
    from holdfast.errors import BadOption

    if why.isdecimal() and 1 <= int(why) <= len(lines):
        return int(why)
    hits = [number for number, text in enumerate(lines, 1) if why in text]
    if why.isdecimal() or len(hits) != 1:
        turn_ranges = (
            f"lines {', '.join(map(str, hits[:8]))} say it" if hits and not why.isdecimal() else "no line is it"
        )
        raise BadOption(
            f"--why takes a number from 1 to {len(lines)}, as `holdfast show {file}` prints them, "
            f"or words of one line; got {why[:60]!r}: {turn_ranges}"
        )
    return hits[0]


def _step(past: Lineage, number: int | None, file: Path) -> tuple[Event, State]:
    from holdfast.errors import BadOption

    steps = {event.number: (event, state) for event, state in past.steps}
    if not steps:
        raise BadOption(f"{file}: its log holds no change that it came from; compact it first")
    if number is not None and number not in steps:
        raise BadOption(f"{file} did not come from event {number}; it came from {', '.join(map(str, steps))}")
    return steps[max(steps) if number is None else number]


def _fate(fate: Fate) -> str:
    from holdfast.text.file_log.describe import turn_ranges

    size = f"{fate.tokens_before:>8,}" + (f" -> {fate.tokens:>7,}" if fate.fate == "rewritten" else "")
    return f"  {turn_ranges(fate.turns) or '-':>8}  {fate.role:<9}  {fate.fate:<9} {size:<20} {fate.by}"


def _event(event: Event) -> dict[str, Any]:
    from holdfast.text.file_log.log import digest

    fields = {name: getattr(event, name) for name in ("number", "kind", "time", "tokens_before", "tokens", "seconds")}
    told = {"plan": dict(event.plan), "gate": dict(event.gate)}
    return {**fields, **told, "sha256_before": digest(event.before), "sha256_after": digest(event.after)}


def _asked(event: Event) -> str:
    return " ".join(f"{key}={value}" for key, value in event.plan.items() if value is not None)


def _turn(turn: Turn) -> dict[str, Any]:
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.calls]
    return {"role": turn.role.value, "text": turn.text, "reasoning": turn.reasoning, "calls": calls}


def _print_turn(number: int, turn: Turn) -> None:
    from holdfast.text.file_log.describe import turn_label, turn_lines

    console.line(f"== {turn_label(number, turn)}")
    for text, _ in turn_lines(turn):
        console.line(text)


def _one_based(turns: Sequence[int]) -> list[int]:
    return [at + 1 for at in turns]


def _counted(lines: Sequence[Any]) -> list[tuple[int, Any]]:
    return list(enumerate(lines, 1))
