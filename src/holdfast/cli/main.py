"""The command line: parse, make one library call, print. Loads no model library until a command needs it.

Exit codes: 0 done, 1 failed, 2 bad input, 3 a strict gate found losses, 130 interrupted. Results go to stdout,
everything else to stderr.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from holdfast import __version__
from holdfast.cli import (
    agent,
    ask,
    calibrate,
    compact,
    config,
    console,
    cost,
    demo,
    diff,
    doctor,
    expand,
    fetch,
    init,
    join,
    log,
    mcp,
    mementos,
    methods,
    models,
    proxy,
    read,
    recompact,
    serve,
    show,
    store,
    train,
    undo,
    version,
)
from holdfast.cli import bench as benchmark
from holdfast.cli import eval as evaluate
from holdfast.cli import queue as task_queue
from holdfast.cli.help import FullSummaries
from holdfast.errors import HoldfastError

SECTIONS: dict[str, tuple[Callable[..., None], ...]] = {
    "Sessions": (read.read, doctor.doctor, compact.compact, log.log, diff.diff, undo.undo, expand.expand, cost.cost),
    "Compact contexts (.holdfast)": (show.show, ask.ask, recompact.recompact, join.join),
    "Live, for an agent": (init.init, serve.serve, proxy.proxy, mcp.mcp, store.store),
    "Work": (),
    "Measuring": (demo.demo, calibrate.calibrate, train.train),
    "This installation": (methods.methods, models.models, fetch.fetch, config.config, version.version),
}
GROUPS = {"eval": "Measuring", "bench": "Measuring", "mementos": "Measuring", "agent": "Work", "queue": "Work"}
"""Commands with commands of their own, and their sections."""


class Sections(FullSummaries):
    """Commands listed by section."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes a section for each kind of command."""
        for title, functions in SECTIONS.items():
            names = [function.__name__ for function in functions] + [
                group for group, section in GROUPS.items() if section == title
            ]
            with formatter.section(title):
                self.format_summaries(formatter, names)


app = typer.Typer(
    cls=Sections,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # half of the time that --help takes would be rich
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context, show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Compacts a coding agent's context, inside an open-weight model or as text, and measures every loss."""
    if show_version:
        typer.echo(f"holdfast {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for commands in SECTIONS.values():
    for command in commands:
        app.command()(command)
app.add_typer(evaluate.app, name="eval")
app.add_typer(mementos.app, name="mementos")
app.add_typer(task_queue.app, name="queue")
app.add_typer(agent.app, name="agent")
app.add_typer(benchmark.app, name="bench")


INTERRUPTED = 130
OUT_OF_MEMORY = "out of memory; use a smaller --window or --dtype bfloat16"

# typer brings its own click; its public BadParameter leads to the base of all usage errors
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits; every expected error is one line on stderr."""
    if hasattr(signal, "SIGPIPE"):  # `| head` ends us quietly, as it ends any other program
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    console.escape_unencodable()
    console.ticker.start("starting")
    try:
        code = app(arguments, prog_name="holdfast", standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer turns Ctrl-C into this
            raise KeyboardInterrupt
        raise SystemExit(code)
    except HoldfastError as error:
        fail(str(error), error.exit_code)
    except UsageError as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "holdfast")
        fail(f"{error.format_message()} Try '{command} --help'.", 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted; finished rows and files are kept", INTERRUPTED)
    except MemoryError:
        fail(OUT_OF_MEMORY, 1)
    except RuntimeError as error:  # how torch says it, on any device
        if not any(words in str(error).lower() for words in ("not enough memory", "out of memory", "can't allocate")):
            raise
        fail(OUT_OF_MEMORY, 1)
    except OSError as error:
        fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    finally:
        console.ticker.stop()


def fail(message: str, code: int) -> NoReturn:
    """Prints one line on stderr and exits."""
    console.ticker.stop()
    print(f"holdfast: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)
