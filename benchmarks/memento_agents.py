"""Does the second channel help an agent? The same memento in place and after a restart, beside all and nothing.

    python benchmarks/memento_agents.py TRANSCRIPTS [PROBES] [--model NAME] [--writer ledger|own] [--each 2]

Windows are those of `restart.py`: the head of a session, a middle, and the newest exchange before a turn of the
assistant. A memento of the middle is written behind everything and the middle goes; `memento in place` keeps the states
of the memento and of the newest exchange, `memento restart` reads both again: the text and the positions are the same.
`none` has no memento. Next action and answers as in `restart.py`; `peak` and `area` are slots over tokens, of the
session as it goes on, against all that it read. Rows go to out/mementos/; a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from operator import attrgetter
from pathlib import Path
from time import perf_counter

import numpy as np
from restart import Bench, open_session, read_windows
from restart_parts import Row, append, has_session, read_rows, table

import holdfast
from holdfast.engine.local import LocalEngine
from holdfast.errors import HoldfastError
from holdfast.mementos.compress import CodeCompressor
from holdfast.mementos.kv import curve_of_log, replay_curve
from holdfast.mementos.strategy import MementoStrategy, OtherWriter, OwnWriter, Writer, write_memento
from holdfast.session.session import Session
from holdfast.storage.files import Lines


class _SameText:
    """A writer that says what another one said, so that both forms have one text."""

    name = "said before"

    def __init__(self, text: str) -> None:
        self.text = text

    def write(self, *_: object) -> str:
        return self.text


def measure(bench: Bench, writer: Writer, share: float) -> tuple[list[Row], dict[str, float]]:
    """Returns the rows of a window, and the sizes of the session with a memento."""
    keep = bench.session.plan.policy.keep_recent
    rows = [bench.row(0, 0, "full", lambda: bench.session.cache.live)]
    stay, _ = bench.places(bench.session.recent)
    rows.append(bench.row(keep, 0, "none", partial(bench.reread, stay)))
    rows.append(bench.row(keep, 0, "erase in place", partial(bench.as_read, stay)))
    forms: dict[bool, Session] = {}
    for restart in (False, True):
        forms[restart] = bench.session.fork()
        own = writer if not restart else _SameText(str(forms[False].events[-2]["told"]["text"]))
        how = MementoStrategy(own, share=share, least=1, restart=restart)

        def make(session: Session = forms[restart], how: MementoStrategy = how) -> object:
            write_memento(session, how)
            return session.cache.live

        rows.append(bench.row(keep, 0, f"memento {'restart' if restart else 'in place'}", make))  # type: ignore[arg-type]
    session = forms[False]
    curve, replayed = curve_of_log(session.events), replay_curve(session.events)
    assert curve == replayed, "the count in memory and the replay of the log differ"
    told = session.events[-1]["told"]
    sizes = {
        "peak": curve.peak,
        "area": curve.area,
        "full_area": curve.full_area,
        "tokens": attrgetter("cache.tokens")(session),
        "slots": told["slots"],
        "dropped": told["compacted"],
        "memento": told["memento"],
        "facts": told["facts"]["live"],
        "lost": len(told["facts"]["lost"]),
    }
    return rows, sizes


def run(path: Path, options: argparse.Namespace, engine: LocalEngine, out: Path) -> None:
    """Measures the windows of a session that have no rows yet."""
    writer: Writer = OwnWriter() if options.writer == "own" else OtherWriter(CodeCompressor(options.share))
    for window in read_windows(path, options, engine):
        if has_session(out, window.session):
            continue
        began = perf_counter()
        bench = open_session(engine, window, options.keep_recent[0], options.action)
        rows, sizes = measure(bench, writer, options.share)
        append(out, rows)
        with Lines(out.with_suffix(".sizes.jsonl")) as lines:
            lines.append(json.dumps({"session": window.session, **sizes}))
        print(
            f"{window.session}: {sizes['dropped']} tokens to {sizes['memento']}, {perf_counter() - began:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("probes", type=Path, nargs="?")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--writer", choices=("ledger", "own"), default="ledger")
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--clip", type=int, default=500)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--keep-recent", type=int, nargs=1, default=[1])
    parser.add_argument("--action", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("out/mementos"))
    options = parser.parse_args()
    engine = holdfast.load(options.model)
    out = options.out / f"{options.model}-{options.writer}.jsonl"
    every = sorted(options.transcripts.iterdir()) if options.transcripts.is_dir() else [options.transcripts]
    for path in (path for path in every if path.is_file()):
        try:
            run(path, options, engine, out)
        except HoldfastError as error:
            print(f"{path.stem} is left out: {error}", flush=True)
    print(table(read_rows(out)))
    sizes = [json.loads(line) for line in out.with_suffix(".sizes.jsonl").read_text().splitlines()]
    for name in ("tokens", "dropped", "memento", "slots", "peak", "facts", "lost"):
        print(f"{name}: median {np.median([row[name] for row in sizes]):g}")
    print(f"area of the full one's: {sum(row['area'] for row in sizes) / sum(row['full_area'] for row in sizes):.3f}")


if __name__ == "__main__":
    main()
