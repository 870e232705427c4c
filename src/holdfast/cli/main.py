"""The command line: parse, make one library call, print. Loads no model library until a command needs it.

Exit codes: 0 done, 1 failed, 2 bad input, 3 a strict gate found losses, 130 interrupted. Results go to stdout,
everything else to stderr.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated, NoReturn

import typer

from holdfast import __version__
from holdfast.cli import compact, console, contexts, cost, demo, doctor, history, proxy, rounds, serve
from holdfast.cli import eval as evaluate
from holdfast.errors import HoldfastError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # half of the time that --help takes would be rich
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Compact a coding agent's context, inside an open-weight model or as text, and measure every loss."""
    if version:
        typer.echo(f"holdfast {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


contexts.add_to(app)
compact.add_to(app)
rounds.add_to(app)
history.add_to(app)
doctor.add_to(app)
cost.add_to(app)
serve.add_to(app)
proxy.add_to(app)
app.add_typer(evaluate.app, name="eval")
app.command()(demo.demo)


INTERRUPTED = 130
OUT_OF_MEMORY = "out of memory; use a smaller --window or --dtype bfloat16"

# typer brings its own click; its public BadParameter leads to the base of all usage errors
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; every expected error is one line on stderr."""
    if hasattr(signal, "SIGPIPE"):  # `| head` ends us quietly, as it ends any other program
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    console.forgiving()
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


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, and out."""
    print(f"holdfast: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)
