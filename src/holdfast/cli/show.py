"""`holdfast show`: a stored context or a session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.context_files import model_for
from holdfast.cli.evidence import count_from_one, print_evidence
from holdfast.cli.options import AsJson, Force
from holdfast.cli.turns import one_based, print_turn, turn_as_json

if TYPE_CHECKING:
    from holdfast.context.holdfast_file import Manifest


def show(
    file: Annotated[Path, typer.Argument(help="A .holdfast file, or a session.")],
    why: Annotated[
        str, typer.Option(help="Of a session: say what this line stands for; its number, or words of it.")
    ] = "",
    turns: Annotated[bool, typer.Option("--turns", help="List what became of every turn.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write the session, coloured by fate.")] = None,
    session: Annotated[
        Path | None,
        typer.Option(help="The session that it was made from (for --html); of a file of several sessions: which."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Default: the model that made the file (for --html).")] = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Says what a stored context holds, where it came from and what it cost; or prints a session, line by line."""
    from holdfast.errors import BadOption
    from holdfast.transcript.read import is_text

    if is_text(file):
        which = str(session) if session else "0"
        if turns or page or model or not which.isdigit():
            raise BadOption(f"{file} is a session; only --why and --json apply, the others are of .holdfast files")
        if why:
            _print_source(file, int(which), why, as_json)
        else:
            _print_session(file, int(which), as_json)
        return
    from holdfast.context.holdfast_file import read_manifest

    if why:
        raise BadOption(f"{file} is no session; --why takes the session itself")
    if page is None and (session or model):
        raise BadOption("--session and --model are of the page; add --html FILE")
    if page and (turns or as_json):
        raise BadOption("--turns and --json print; leave them out with --html")
    manifest = read_manifest(file)
    if page:
        _write_page(file, manifest, page, session, model, force)
    elif as_json:
        console.emit({**_as_shown(manifest), "file_bytes": file.stat().st_size})
    else:
        _print_context(file, manifest, turns)


def _as_shown(manifest: Manifest) -> dict[str, Any]:
    """Returns the manifest with its turns counted from 1."""
    stored = manifest.model_dump(mode="json")
    for segment in stored["segments"]:
        segment["origins"] = [[turn + 1, *rest] for turn, *rest in segment["origins"]]
    return {**stored, "evidence": count_from_one(stored["evidence"])}


def _print_context(file: Path, manifest: Manifest, turns: bool) -> None:
    console.line(f"{file}: made with {manifest.model} ({manifest.dtype}), next position {manifest.next_position}")
    recipe = ", ".join(f"{k} {_short(v)}" for k, v in manifest.recipe.items() if k != "policy")
    console.line(f"  recipe    {recipe}")
    print_evidence(manifest.evidence)
    for number, segment in enumerate(manifest.segments):
        origins = segment.origins if turns else segment.origins[:1] + segment.origins[-1:]
        console.line(f"  segment {number}: {segment.kind:<6} {_span(segment.origins)}")
        if turns:
            for turn, kind, _, _, first, last in origins:
                console.line(f"    turn {turn + 1:>4}  {kind:<11} {last - first:>6} tokens")


def _short(value: Any) -> Any:
    """Returns the number of parts of a joined context, or of rounds of a smaller one; all else as it is."""
    return len(value) if isinstance(value, list) else value


def _span(origins: list[tuple[int, str, int, int, int, int]]) -> str:
    if not origins:
        return ""
    kinds = Counter(kind for _, kind, *_ in origins)
    return f"turns {origins[0][0] + 1}-{origins[-1][0] + 1}: {console.count(kinds)}"


def _write_page(file: Path, manifest: Manifest, page: Path, session: Path | None, model: str, force: bool) -> None:
    from holdfast.blocks.render import render
    from holdfast.compaction.compact import session_digest
    from holdfast.errors import BadContext, BadInput
    from holdfast.eval.report.session_page import fates, session_page
    from holdfast.model.load import tokenizer
    from holdfast.transcript.read import read

    if session is None:
        raise BadInput("--html colours the session itself; give the file that was compacted with --session")
    outputs.check_output(page, session, file, force=force)
    made_from = manifest.evidence.get("session_digest")
    if made_from is None:
        raise BadInput(f"{file} does not say which one session it was made from, as joined contexts do not")
    # leniently, because that is how it may have been compacted; the digest tells whether it is the same
    console.ticker.set("drawing the page")
    rendered = render(read(session, lenient=True), tokenizer(model_for(file, manifest, model)))
    if session_digest(rendered) != made_from:
        raise BadInput(f"{session} is not the session that {file} was made from")
    try:
        fate = fates(manifest.segments, manifest.evidence, len(rendered.ids))
        drawn = session_page(f"{file.name}: {session.name}", rendered, fate, manifest.evidence)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadContext(f"{file}: its evidence is not as the gate writes it; make it again") from error
    outputs.write_output(page, drawn.encode(), force)
    console.line(f"{page} written")


def _print_session(file: Path, session: int, as_json: bool) -> None:
    """Prints a session with its lines numbered."""
    from holdfast.text.file_log import read_lineage
    from holdfast.text.file_log.describe import describe_session
    from holdfast.transcript.read import read_bytes

    past = read_lineage(file, read_bytes(file, session))
    lines = describe_session(past.now.transcript.turns, past.now.origins)
    if as_json:
        rows = [
            {"line": number, "text": line.text, "turns": one_based(past.sources(line))}
            for number, line in enumerate(lines, 1)
        ]
        console.emit({"file": str(file), "raw_turns": len(past.raw), "lines": rows})
        return
    for number, line in enumerate(lines, 1):
        console.line(f"{number:>6}  {line.text}")


def _print_source(file: Path, session: int, why: str, as_json: bool) -> None:
    """Prints the raw turns that one line of a session stands for."""
    from holdfast.text.file_log import read_lineage
    from holdfast.text.file_log.describe import describe_session
    from holdfast.transcript.draft import turn_ranges
    from holdfast.transcript.read import read_bytes

    past = read_lineage(file, read_bytes(file, session))
    lines = describe_session(past.now.transcript.turns, past.now.origins)
    number = _find_line(why, [line.text for line in lines], file)
    line = lines[number - 1]
    method, sources = past.now.origins[line.at].made, past.sources(line)
    if as_json:
        raw = [{"turn": at + 1, **turn_as_json(past.raw[at])} for at in sources]
        console.emit({"line": number, "text": line.text, "made_by": method, "raw": raw})
        return
    rewritten = (
        f"made by {method} from turn {turn_ranges(sources)}" if sources else f"made by {method}; stands for no turn"
    )
    console.line(
        f"line {number}: {line.text}\n{rewritten if method else f'as it was said, turn {turn_ranges(sources)}'}"
    )
    for at in sources:
        print_turn(at + 1, past.raw[at])


def _find_line(why: str, lines: Sequence[str], file: Path) -> int:
    """Returns the number of the line that `why` names by number, or by words that only this line holds."""
    from holdfast.errors import BadOption

    if why.isdecimal() and 1 <= int(why) <= len(lines):
        return int(why)
    hits = [number for number, text in enumerate(lines, 1) if why in text]
    if why.isdecimal() or len(hits) != 1:
        numbers = f"lines {', '.join(map(str, hits[:8]))} say it" if hits and not why.isdecimal() else "no line is it"
        raise BadOption(
            f"--why takes a number from 1 to {len(lines)}, as `holdfast show {file}` prints them, "
            f"or words of one line; got {why[:60]!r}: {numbers}"
        )
    return hits[0]
