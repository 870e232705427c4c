"""`holdfast demo`: the main job on a recorded session, from the raw file to a report, in a few minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console
from holdfast.errors import BadInput

if TYPE_CHECKING:
    from holdfast.engine.local import LocalEngine
    from holdfast.eval.run import Run

RATIOS = (2.0, 4.0, 8.0, 16.0)
WINDOW = 1200
ANSWERED = 8.0  # the ratio at which the answers are shown
# three parts of the session: its house rules, a request, and its last exchanges
PROBES = frozenset(f"taskdeck-{n:02}" for n in (1, 2, 3, 6, 10, 11, 12, 35, 47, 48, 49, 50))
TURN_PROBES = ("taskdeck-10", "taskdeck-11", "taskdeck-12", "taskdeck-26", "taskdeck-35")  # all about one request


def demo(
    out: Annotated[Path, typer.Option(help="Folder; rows, plots and reports go to taskdeck/ in it.")] = Path("out"),
    limit: Annotated[int | None, typer.Option(help="Ask only so many of the 12 probes.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling of probes.")] = 0,
    steps: Annotated[int, typer.Option(help="Most tuning steps of the virtual tokens.")] = 60,
) -> None:
    """Compacts a recorded coding session and shows what survived, what it cost and what was lost."""
    from holdfast.eval.probes import read_probes
    from holdfast.eval.run import Run
    from holdfast.transcript.read import read

    folder = taskdeck()
    transcript = read(folder / "session.json")
    console.line(f"taskdeck: an agent builds an Express + SQLite task API in {len(transcript.turns)} turns\n")
    engine = console.engine("smollm2-135m", "float32", "cpu")
    files, probes = (folder / "session.json",), tuple(read_probes(folder / "probes.jsonl"))
    out = out / "taskdeck"  # a folder of its own: what stands there is replaced
    out.mkdir(parents=True, exist_ok=True)
    chosen = tuple(p for p in probes if p.id in PROBES)
    quick: dict[str, Any] = {"action_tokens": 0, "later": False, "seed": seed}
    methods = "truncate", "informed"
    whole = Run(files, chosen, methods, RATIOS, window=WINDOW, limit=limit, answer_tokens=8, **quick)
    _measure(f"1. Windows of {WINDOW} tokens, compacted at {_list(RATIOS)}", whole, engine, out / "windows.jsonl")
    one = tuple(p for p in probes if p.id in TURN_PROBES)
    virtual = f"virtual_tokens:steps={steps}"
    turn = Run(
        files, one, ("truncate", "informed", virtual), (3.2,), window=1024, span="turn", answer_tokens=24, **quick
    )
    _measure("2. One turn at 3.2x, with gradient-tuned virtual tokens beside it", turn, engine, out / "turn.jsonl")


def _measure(title: str, run: Run, engine: LocalEngine, rows: Path) -> None:
    from holdfast.eval.report import answers_table, survival_table, table, write_report
    from holdfast.eval.rows import read_rows
    from holdfast.eval.run import measure
    from holdfast.eval.score import score

    rows.unlink(missing_ok=True)  # a demo shows this machine, now
    console.stdout().print(f"[bold]{title}[/bold]", highlight=False)
    with console.progress("measuring") as report:
        measure(run, engine, rows, report, console.say)
    measured = read_rows(rows)
    console.stdout().print(table(score(measured)))
    console.stdout().print(survival_table(measured, run.latent[-1]))
    console.stdout().print(answers_table(measured, "informed", max(r for r in run.ratios if r <= ANSWERED)))
    page = write_report(rows, rows.with_suffix(".html"))[0]
    console.line(f"report: {page}\n")


def taskdeck() -> Path:
    """Returns the folder of the recorded session: beside the package when installed, in `examples/` in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "examples" / "taskdeck", package.parents[1] / "examples" / "taskdeck"):
        if (folder / "session.json").exists():
            return folder
    raise BadInput("the demo's session is not installed; run `holdfast demo` from a checkout of the repository")


def _list(ratios: tuple[float, ...]) -> str:
    return ", ".join(f"{r:g}x" for r in ratios)
