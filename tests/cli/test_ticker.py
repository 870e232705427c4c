"""Nothing is silent for long: a line where the output is piped, a spinner on a terminal, and neither in between."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from holdfast import TextPlan, read, rewrite
from holdfast.cli import console
from holdfast.cli.ticker import MARK, Ticker
from waiting import until

EXAMPLE = "examples/taskdeck/session.json"


def test_a_command_that_is_busy_says_what_it_is_at(capsys: pytest.CaptureFixture[str]) -> None:
    ticker, said = Ticker(Console(file=io.StringIO()), silence=0.05), []
    ticker.start("reading [bold]")

    def has_spoken() -> bool:
        said.append(capsys.readouterr().err)
        return f"{MARK}reading [bold], " in "".join(said)

    until(has_spoken)
    ticker.set("drawing")
    said.clear()
    until(lambda: said.append(capsys.readouterr().err) or f"{MARK}drawing, " in "".join(said))
    ticker.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "ticker"]


def test_a_spinner_turns_on_a_terminal_and_goes_before_anything_is_written() -> None:
    screen = io.StringIO()
    ticker = Ticker(Console(file=screen, force_terminal=True, width=80))
    ticker.start("reading [bold]")
    until(lambda: "reading [bold]" in screen.getvalue())
    ticker.give_way()
    hidden, shown = (screen.getvalue().count(code) for code in ("\x1b[?25l", "\x1b[?25h"))
    assert hidden == shown > 0, "the cursor is there again"
    ticker.stop()


def test_bars_move_before_the_first_report_and_name_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=True, width=100))
    with console.progress("compacting s.json") as report:
        until(lambda: "compacting s.json" in screen.getvalue())
        report("read", 0, 4, "")
        report("read", 3, 4, "[note]")
        until(lambda: "3/4" in screen.getvalue())
    console.ticker.stop()
    assert "[note]" in screen.getvalue()


def test_a_rewrite_tells_python_of_its_steps() -> None:
    told: list[tuple[str, int, int, str]] = []
    rewrite(read(EXAMPLE), TextPlan("truncate", ratio=4), progress=lambda *step: told.append(step))
    assert [(what, done, total) for what, done, total, _ in told] == [("step", n, 3) for n in range(3)]
    assert told[1][3] == "rewriting"
