"""Says on stderr what a command is at, whenever the command has been silent for a while."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

SILENCE = 1.5  # seconds without output after which a line is written, where stderr is no terminal
FLASH = 0.3  # seconds after which a terminal shows a spinner: shorter work would only flicker
MARK = "… "
"""Begins each line of the ticker, so that a script can leave them out."""


class Ticker:
    """A thread that writes a line, or on a terminal turns a spinner, while nothing else is written."""

    def __init__(self, console: Console, silence: float = SILENCE) -> None:
        self._console, self._silence = console, silence
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._status: Status | None = None
        self._label, self._began, self._written = "", 0.0, 0.0

    def start(self, label: str) -> None:
        """Begins to watch a command; `label` names its work."""
        self.stop()
        self.set(label)
        self._written = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="ticker", daemon=True)
        self._thread.start()

    def set(self, label: str) -> None:
        """Replaces the name of the work; its seconds begin again."""
        with self._lock:
            self._label, self._began = label, time.monotonic()

    def update(self, label: str) -> None:
        """Replaces the name of the work; its seconds go on."""
        with self._lock:
            self._label = label

    def give_way(self) -> None:
        """Takes the spinner away, because something else is about to be written."""
        with self._lock:
            self._hide()
            self._written = time.monotonic()

    def stop(self) -> None:
        """Ends the thread: the command is done, or shows its progress itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.give_way()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            with self._lock:
                now = time.monotonic()
                text = f"{self._label}, {now - self._began:.0f} s"
                if self._console.is_terminal:
                    self._spin(text, now)
                elif now - self._written > self._silence:
                    self._written = now
                    sys.stderr.write(f"{MARK}{text}\n")
                    sys.stderr.flush()

    def _spin(self, text: str, now: float) -> None:
        from rich.markup import escape

        if self._status is not None:
            self._status.update(escape(text))
        elif now - self._written > FLASH:
            self._status = self._console.status(escape(text))
            self._status.start()

    def _hide(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
