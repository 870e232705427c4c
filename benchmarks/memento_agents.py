"""Does the second channel help an agent? The same memento in place and after a restart, beside all and nothing.

    python benchmarks/memento_agents.py TRANSCRIPTS [PROBES] [--model NAME] [--writer ledger|own] [--each 2]

Windows are those of `restart.py`: the head of a session, a middle, and the newest exchange before a turn of the
assistant. A memento of the middle is written behind everything and the middle goes; `memento in place` keeps the states
of the memento and of the newest exchange, `memento restart` reads both again: the text and the positions are the same.
`early memento` is written before the newest exchange is read, as the published ones are: the exchange stands behind it
and never saw the middle. `none` has no memento. Next action and answers as in `restart.py`; `peak` and `area` are slots
over tokens, of the session as it goes on, against all that it read. Rows go to out/mementos/; a run that was
interrupted goes on.

With --causes, `memento beside all` (nothing goes: what the note itself does), and `erase prose in place` (the newest
exchange was read behind as many tokens of other prose, which went: what states alone do that know nothing of use).
The tokens of the next action fall into copies of what stays, copies of the middle alone, and new ones: a token
is a copy where it ends a run of three that stands there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from restart import Bench, open_session, read_windows
from restart_parts import Row, append, has_session, read_rows, table

import holdfast
from holdfast.blocks.block import Kind
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import HoldfastError
from holdfast.mementos.compress import CodeCompressor
from holdfast.mementos.kv import curve_of_log, replay_curve
from holdfast.mementos.strategy import MementoStrategy, OtherWriter, OwnWriter, Writer, write_memento
from holdfast.session.session import Session
from holdfast.storage.files import Lines

PROSE = Path(__file__).parent.parent / "docs/design.md"
RUN = 3


class _SameText:
    """A writer that says what another one said, so that both forms have one text."""

    name = "said before"

    def __init__(self, text: str) -> None:
        self.text = text

    def write(self, *_: object) -> str:
        return self.text


def measure(bench: Bench, writer: Writer, share: float, prose: Sequence[int]) -> tuple[list[Row], dict[str, Any]]:
    """Returns the rows of a window, and the sizes of the session with a memento. Without `prose` no causes are told."""
    keep = bench.session.plan.policy.keep_recent
    rows = [bench.row(0, 0, "full", lambda: bench.session.cache.live)]
    stay, middle = bench.places(bench.session.recent)
    rows.append(bench.row(keep, 0, "none", partial(bench.reread, stay)))
    rows.append(bench.row(keep, 0, "erase in place", partial(bench.as_read, stay)))
    session, same = bench.session.fork(), writer
    for early in (False, True):
        for restart in (False, True):
            twin = bench.session.fork(turns=bench.session.recent if early else None)
            how = MementoStrategy(same, share=share, least=1, restart=restart)
            form = f"{'early memento' if early else 'memento'} {'restart' if restart else 'in place'}"
            rows.append(bench.row(keep, 0, form, partial(note, twin, how, bench.session)))
            if same is writer:
                session, same = twin, _SameText(str(twin.events[-2]["told"]["text"]))
    memento = next(block for block in session.cache.blocks if block.kind is Kind.MEMENTO)
    if prose:
        beside = bench.session.cache.read((memento,)).live
        rows.append(bench.row(keep, 0, "memento beside all", lambda: beside))
        rows.append(bench.row(keep, 0, "erase prose in place", partial(read_behind, bench, stay, middle, prose)))
    curve, replayed = curve_of_log(session.events), replay_curve(session.events)
    assert curve == replayed, "the count in memory and the replay of the log differ"
    told = session.events[-1]["told"]
    sizes = {
        "peak": curve.peak,
        "area": curve.area,
        "full_area": curve.full_area,
        "tokens": session.cache.tokens,
        "slots": told["slots"],
        "dropped": told["compacted"],
        "memento": told["memento"],
        "facts": told["facts"]["live"],
        "lost": len(told["facts"]["lost"]),
        "kinds": kinds(bench, stay, middle),
        "nats": bench.nats,
    }
    return rows, sizes


def note(session: Session, how: MementoStrategy, whole: Session) -> KVContext:
    """Has the middle noted and dropped; then reads what `whole` has beyond this session. Returns the memory."""
    write_memento(session, how, recent=whole.recent)
    session.append(whole.turns[len(session.turns) :])
    return session.cache.live


def read_behind(bench: Bench, stay: Sequence[int], middle: Sequence[int], prose: Sequence[int]) -> KVContext:
    """Returns a memory of what stays, as it is read with other text in the middle's place."""
    ids, live = torch.tensor(bench.ids), KVContext(bench.engine.model)
    ids[middle] = torch.tensor(prose).repeat(len(middle) // len(prose) + 1)[: len(middle)]
    with torch.no_grad():
        live.feed(ids)
    return bench.as_read(stay, live)


def kinds(bench: Bench, stay: Sequence[int], middle: Sequence[int]) -> str:
    """Returns a letter for each token of the next action: `s`, `m` for copies of what stays, of the middle; `n`."""
    ids, said = bench.ids, [*bench.action.prompt, *bench.action.target]
    held = {name: set(runs_of([ids[at] for at in places])) for name, places in (("s", stay), ("m", middle))}
    runs = runs_of(said[len(bench.action.prompt) - RUN + 1 :])
    return "".join(next((name for name, found in held.items() if run in found), "n") for run in runs)


def runs_of(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + RUN]) for at in range(len(ids) - RUN + 1)]


def table_of_kinds(sizes: Sequence[dict[str, Any]]) -> str:
    """Returns the nats a token of each form over none, by where the token is a copy from."""
    lines = ["| nats a token over none | copies of what stays | copies of the middle | new |", "|---|--:|--:|--:|"]
    for form in sizes[0]["nats"]:
        cells: list[str] = []
        for kind in "smn":
            found = [
                a - b
                for row in sizes
                for a, b, k in zip(row["nats"].get(form, ()), row["nats"]["none"], row["kinds"], strict=False)
                if k == kind
            ]
            cells.append(f"{np.mean(found):+.3f} (n {len(found)})" if found else "-")
        lines.append(f"| {form} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(path: Path, options: argparse.Namespace, engine: LocalEngine, out: Path) -> None:
    """Measures the windows of a session that have no rows yet."""
    prose: list[int] = []
    if options.causes:
        prose = engine.model.tokenizer(PROSE.read_text(), add_special_tokens=False)["input_ids"]
    writer: Writer = OwnWriter() if options.writer == "own" else OtherWriter(CodeCompressor(options.share))
    for window in read_windows(path, options, engine):
        if has_session(out, window.session):
            continue
        began = perf_counter()
        bench = open_session(engine, window, options.keep_recent[0], options.action)
        rows, sizes = measure(bench, writer, options.share, prose)
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
    parser.add_argument("--causes", action="store_true")
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
    sizes = [json.loads(line) for line in out.with_suffix(".sizes.jsonl").read_text().splitlines()]
    print(table(read_rows(out)))
    print(table_of_kinds(sizes))
    for name in ("tokens", "dropped", "memento", "slots", "peak", "facts", "lost"):
        print(f"{name}: median {np.median([row[name] for row in sizes]):g}")
    print(f"area of the full one's: {sum(row['area'] for row in sizes) / sum(row['full_area'] for row in sizes):.3f}")


if __name__ == "__main__":
    main()
