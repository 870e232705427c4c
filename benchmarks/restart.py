"""Worth of the states of erased text: in place, restart, rewritten text and truncation at equal KV bytes.

    python benchmarks/restart.py windows TRANSCRIPTS PROBES    # one compaction, and positions drawn together
    python benchmarks/restart.py rounds TRANSCRIPTS            # compacted every 1,000 tokens
    python benchmarks/restart.py resume SESSION                # a stored session in a second process

A window is the head of a session (system prompt and first request), a middle, and the newest exchanges before a turn of
the assistant, with every text cut to some characters as harnesses do; it is read turn by turn. The next action is the
first tokens of that turn as recorded. `retained` is the share of the nats that the full window gives to it, over what
stays verbatim alone, that the form still gives; answers of probes likewise. `none` has the positions of the full one.

- in place, restart: `Session.compact`, with the states of what stays verbatim as they were or read again
- erase in place: all of the middle goes, so that only retained states know of it; its restart is `none`
- newest: the newest tokens of the middle beside what stays verbatim, as they were or read again where they stood;
  `truncate in place` is the method of that name, which reads them again but not what stays
- text: `tiered` with the gate; facts: a list of facts of the middle made by code, nothing else of it; truncated: the
  head and the newest tokens. All three have the bytes of `informed in place` and are read afresh, without gaps
- drawn: `informed in place` with its compacted positions drawn together, to that part of their length

Rows are appended to out/restart/; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from restart_parts import Row, Window, append, count_tokens, has_session, read_rows, shorten, table, windows

import holdfast
from holdfast.blocks.render import answer_ids, question_ids, render
from holdfast.compaction.plan import Plan, Policy
from holdfast.context.compress_positions import find_stretches
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.errors import HoldfastError
from holdfast.eval.probes import check_static_rules, read_probes
from holdfast.model.load import full_bytes
from holdfast.session.cache import SessionCache, fit_positions
from holdfast.session.session import Session
from holdfast.storage.store import Store
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Role, Transcript, Turn

RATIO = 8.0
DRAWN = (0.5, 0.25)
INFORMED, TRUNCATE = "informed", "truncate"
TEXTS = {"text": "tiered", "facts": "keep_recent:exchanges=0"}


def draw_context(cache: SessionCache, share: float) -> KVContext:
    """Returns the running memory of a cache whose positions are drawn together to a share of their length."""
    return draw_together(cache, share).live


def read_windows(path: Path, options: argparse.Namespace, engine: LocalEngine) -> list[Window]:
    own = [p for p in read_probes(options.probes) if p.transcript == path.name] if options.probes else []
    short = read_short(path, options.clip, [p.evidence for p in own])
    sizes = count_tokens(short, engine.model.tokenizer)
    found = windows(path.stem, short, sizes, options.size, max(options.keep_recent), own, options.each)
    return [replace(w, session=f"{path.stem} {at}") for at, w in enumerate(found)]


def read_short(path: Path, most: int, quotes: Sequence[str] = ()) -> Transcript:
    return Transcript(tuple(shorten(turn, most, quotes) for turn in holdfast.read(path).turns))


# -- measuring ---------------------------------------------------------------------------------------------------------


@contextmanager
def count_passes(engine: LocalEngine) -> Iterator[list[int]]:
    """Counts the tokens of every pass through the model."""
    read: list[int] = []
    decoder = engine.model.hf.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda module, args, given: read.append(given["position_ids"].numel()), with_kwargs=True
    )
    try:
        yield read
    finally:
        handle.remove()


@dataclass
class Bench:
    """One window and what is asked of every form of it."""

    engine: LocalEngine
    session: Session
    window: Window
    action: Continuation
    asked: list[Continuation]
    nats: dict[str, list[float]] = field(default_factory=dict)
    """Log-probabilities of the next action's tokens, by form."""

    def row(self, keep: int, ratio: float, form: str, make: Callable[[], KVContext]) -> Row:
        """Makes a memory, asks it, and returns its row."""
        began = perf_counter()
        with count_passes(self.engine) as read:
            live = make()
        seconds = perf_counter() - began
        scores = self.engine.score(live, [self.action])[0]
        self.nats[form], action = [round(x, 4) for x in scores.tolist()], float(scores.sum())
        answers = [float(s.sum()) for s in self.engine.score(live, self.asked)] if self.asked else []
        name = self.window.session
        return Row(name, keep, ratio, form, action, answers, live.nbytes, sum(read), round(seconds, 3))

    def places(self, recent: int) -> tuple[list[int], list[int]]:
        """Returns the positions of the tokens that stay verbatim if the turns from `recent` on do, and
        of the middle.
        """
        stay: list[int] = []
        middle: list[int] = []
        for block in self.session.cache.blocks:
            kept = block.origin.turn >= recent or self.session.stays(block)
            (stay if kept else middle).extend(range(*block.origin.tokens))
        return stay, middle

    @property
    def ids(self) -> list[int]:
        return [i for block in self.session.cache.blocks for i in block.ids]

    def reread(self, places: Sequence[int]) -> KVContext:
        """Returns a memory of these tokens alone, read again at their positions."""
        live, every = KVContext(self.engine.model), torch.tensor(self.ids)
        with torch.no_grad():
            live.feed(every[places], positions=torch.tensor(places))
        live.settle(len(every))
        return live

    def as_read(self, places: Sequence[int], source: KVContext | None = None) -> KVContext:
        """Returns a memory of these tokens alone, as the live session read them, or another memory of its length."""
        live, runs = KVContext(self.engine.model), groupby(enumerate(places), key=lambda x: x[1] - x[0])
        for _, run in runs:
            own = [at for _, at in run]
            live.take(source or self.session.cache.live, slice(own[0], own[-1] + 1))
        live.settle(len(self.ids))
        return live


def open_session(engine: LocalEngine, window: Window, keep: int, most: int) -> Bench:
    """Opens the live session of a window. Its probes are those that the verbatim tokens do not answer."""
    session = Session(engine, build_plan(INFORMED, RATIO, keep))
    for turn in window.turns:
        session.append((turn,))
    encode, opens = engine.model.tokenizer, len(answer_ids(engine.model.tokenizer)[0])
    ids = tuple(i for block in session.render_turns((window.action,)) for i in block.ids)
    stays = [b for b in session.cache.blocks if b.origin.turn >= session.recent or session.stays(b)]
    verbatim = "\n".join(encode.decode(b.ids, clean_up_tokenization_spaces=False) for b in stays)
    fair = [p for p in window.probes if not check_static_rules(p, verbatim)]
    asked = [
        Continuation(
            tuple(question_ids(encode, p.question)), tuple(encode(p.answer, add_special_tokens=False)["input_ids"])
        )
        for p in fair
    ]
    action = Continuation(ids[:opens], ids[opens : opens + most])
    return Bench(engine, session, replace(window, probes=tuple(fair)), action, asked)


def build_plan(latent: str, ratio: float, keep: int) -> Plan:
    return Plan(latent, ratio, policy=Policy(keep_recent=keep))


def compact_fork(session: Session, plan: Plan, restart: bool) -> Session:
    twin = session.fork()
    twin.compact(plan, restart=restart)
    return twin


def measure_window(bench: Bench, cells: Sequence[tuple[int, float]]) -> Iterator[Row]:
    """Yields a row for every form of a window, the baselines first. The first cell's keep has
    rewritten text beside it.
    """
    yield bench.row(0, 0, "full", lambda: bench.session.cache.live)
    for at, (keep, ratio) in enumerate(cells):
        bench.session.plan = build_plan(INFORMED, ratio, keep)
        stay, middle = bench.places(bench.session.recent)
        if keep not in [k for k, _ in cells[:at]]:
            yield bench.row(keep, 0, "none", partial(bench.reread, stay))
            yield bench.row(keep, 0, "erase in place", partial(bench.as_read, stay))
        row, inside = latent(bench, INFORMED, ratio, False)
        yield row
        yield latent(bench, INFORMED, ratio, True)[0]
        if keep == cells[0][0]:
            yield from texts(bench, keep, ratio, inside.nbytes)
            newest = sorted((*stay, *middle[-(inside.nbytes // full_bytes(bench.engine.model, 1) - len(stay)) :]))
            yield bench.row(keep, ratio, "newest in place", partial(bench.as_read, newest))
            yield bench.row(keep, ratio, "newest restart", partial(bench.reread, newest))
        if (keep, ratio) == (cells[0][0], RATIO):
            yield latent(bench, TRUNCATE, ratio, False)[0]
            for part in DRAWN:
                yield bench.row(keep, ratio, f"drawn to {part:.0%}", partial(draw_context, inside, part))


def latent(bench: Bench, name: str, ratio: float, restart: bool) -> tuple[Row, SessionCache]:
    keep, twin = bench.session.plan.policy.keep_recent, bench.session.fork()

    def make() -> KVContext:
        twin.compact(build_plan(name, ratio, keep), restart=restart)
        return twin.cache.live

    return bench.row(keep, ratio, f"{name} {'restart' if restart else 'in place'}", make), twin.cache


def texts(bench: Bench, keep: int, ratio: float, most: int) -> Iterator[Row]:
    """Yields a row for each text of at most `most` bytes of KV, read afresh."""
    engine, slots, every = bench.engine, most // full_bytes(bench.engine.model, 1), bench.ids
    whole, tokenizer = Transcript(bench.window.turns), engine.model.tokenizer
    made = {name: find_longest_rewrite(whole, spec, keep, slots, tokenizer) for name, spec in TEXTS.items()}
    _, middle = bench.places(bench.session.recent)
    head, rest = every[: middle[0]], every[middle[0] :]
    made["truncated"] = [*head, *rest[len(head) - slots :]]
    for name, ids in made.items():
        yield bench.row(keep, ratio, name, partial(feed_ids, engine, ids))


def find_longest_rewrite(transcript: Transcript, spec: str, keep: int, slots: int, tokenizer: Any) -> list[int]:
    """Returns the token ids of the longest rewriting that fits `slots`, or of the shortest if none does."""
    low, high, made = 1, 2 * slots, [list(render(transcript, tokenizer).ids)]
    while low <= high:
        budget = (low + high) // 2
        draft = rewrite(transcript, TextPlan(spec, budget, keep_recent=keep)).draft
        made.append(list(render(draft.transcript, tokenizer).ids))
        low, high = (budget + 1, high) if len(made[-1]) <= slots else (low, budget - 1)
    return max(made, key=lambda ids: (1, len(ids)) if len(ids) <= slots else (0, -len(ids)))


def feed_ids(engine: LocalEngine, ids: Sequence[int]) -> KVContext:
    live = KVContext(engine.model)
    with torch.no_grad():
        live.feed(list(ids))
    return live


def draw_together(held: SessionCache, part: float) -> SessionCache:
    """Returns the cache with its compacted positions drawn together to `part` of their length."""
    end = held.live.next_position - sum(map(len, held.blocks[held.tail :]))
    room = sum(s.positions[1] - s.positions[0] for s in find_stretches(held.segments, end) if s.compacted)
    return fit_positions(held, held.live.next_position - int(room * (1 - part)))


# -- again and again ---------------------------------------------------------------------------------------------------


def again_and_again(engine: LocalEngine, name: str, turns: tuple[Turn, ...], options: argparse.Namespace) -> list[Row]:
    """Compacts a session `rounds` times, each time `every` more tokens may be; returns the rows of its next action."""
    keep = options.keep_recent[0]
    made = {restart: Session(engine, build_plan(INFORMED, RATIO, keep)) for restart in (False, True)}
    read, seconds = dict.fromkeys(made, 0), dict.fromkeys(made, 0.0)
    units = exchanges(Transcript(turns))
    for start, stop in units:
        done = made[False].compactions == options.rounds
        if done and turns[start].role is Role.ASSISTANT:
            break
        for restart, session in made.items():
            session.append(turns[start:stop])
            if not done and session.compactable >= options.every:
                with count_passes(engine) as passed:
                    session.compact(restart=restart)
                read[restart] += sum(passed)
                seconds[restart] += session.events[-1]["told"]["seconds"]
    else:
        print(f"{name} is left out: it ends after {made[False].compactions} compactions", flush=True)
        return []
    session = made[False]
    window = Window(name, session.turns, turns[start])
    bench = open_session(engine, window, keep, options.action)
    recent = session.cache.blocks[session.cache.tail].origin.turn
    rows = [
        bench.row(keep, 0, "full", lambda: bench.session.cache.live),
        bench.row(keep, 0, "none", lambda: bench.reread(bench.places(recent)[0])),
    ]
    for restart, session in made.items():
        form = f"{INFORMED} {'restart' if restart else 'in place'}"
        row = bench.row(keep, RATIO, form, partial(operator.attrgetter("cache.live"), session))
        rows.append(replace(row, read=read[restart], seconds=round(seconds[restart], 3)))
    print(f"{name}: {session.cache.tokens} tokens, {session.compactions} compactions", flush=True)
    return rows


# -- another process ---------------------------------------------------------------------------------------------------


def resume(options: argparse.Namespace, engine: LocalEngine) -> None:
    """Prints the largest difference between the logits of a stored session, opened by a second process, and of the live
    one.
    """
    window = read_windows(options.transcripts, options, engine)[0]
    with tempfile.TemporaryDirectory() as folder:
        session = Session(
            engine, build_plan(INFORMED, RATIO, options.keep_recent[0]), store=Store(f"{folder}/store"), name="s"
        )
        half = len(window.turns) * 2 // 3
        for at, turn in enumerate(window.turns):
            session.append((turn,))
            if at == half:
                session.compact()
        ids = list(session.render_turns((window.action,))[0].ids)[: options.action]
        ours = engine.next_logits(session.cache.live, ids)
        print(f"{session.cache.tokens} tokens, {session.cache.slots:.0f} slots, {len(ids)} tokens asked")
        for saved in (False, True):
            if saved:
                session.save()
            subprocess.run([sys.executable, __file__, "resumed", folder, json.dumps(ids)], check=True)
            theirs, state = torch.load(f"{folder}/logits.pt"), "saved" if saved else "not saved"
            print(f"{state}: logits differ by at most {float((ours - theirs).abs().max()):.3g}")


def write_logits(folder: str, ids: list[int]) -> None:
    """Writes the logits after each of `ids`, in the second process."""
    engine = holdfast.load()
    session = Session.resume("s", engine, Store(f"{folder}/store"))
    torch.save(engine.next_logits(session.cache.live, ids), f"{folder}/logits.pt")


# -- running -----------------------------------------------------------------------------------------------------------


def main() -> None:
    if sys.argv[1:2] == ["resumed"]:
        write_logits(sys.argv[2], json.loads(sys.argv[3]))
        return
    options = parse_options()
    engine = holdfast.load()
    if options.what == "resume":
        resume(options, engine)
        return
    out = options.out / f"{options.what}.jsonl"
    every = sorted(options.transcripts.iterdir()) if options.transcripts.is_dir() else [options.transcripts]
    for path in (path for path in every if path.is_file()):
        try:
            (run_windows if options.what == "windows" else run_rounds)(path, options, engine, out)
        except HoldfastError as error:
            print(f"{path.stem} is left out: {error}", flush=True)
    print(table(read_rows(out)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("windows", "rounds", "resume"))
    parser.add_argument("transcripts", type=Path, help="a session or a folder of them")
    parser.add_argument("probes", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=1536, help="tokens of a window")
    parser.add_argument("--clip", type=int, default=500, help="characters to which every text is cut")
    parser.add_argument("--each", type=int, default=1, help="windows of a session")
    parser.add_argument("--keep-recent", type=int, nargs="+", default=[3, 1], help="the first has every form")
    parser.add_argument("--ratio", type=float, nargs="+", default=[4, 8, 16], help="the others have 8 alone")
    parser.add_argument("--action", type=int, default=64, help="tokens of the next action that count")
    parser.add_argument("--every", type=int, default=1000, help="rounds: tokens between compactions")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out/restart"))
    return parser.parse_args()


def run_windows(path: Path, options: argparse.Namespace, engine: LocalEngine, out: Path) -> None:
    first, *others = options.keep_recent
    cells = [(first, ratio) for ratio in options.ratio] + [(keep, RATIO) for keep in others]
    for window in read_windows(path, options, engine):
        if has_session(out, window.session):
            continue
        began = perf_counter()
        bench = open_session(engine, window, max(options.keep_recent), options.action)
        rows = list(measure_window(bench, cells))
        append(out, rows)
        print(
            f"{window.session}: {bench.session.cache.tokens} tokens, {len(bench.window.probes)} probes, next action "
            f"{len(bench.action.target)} tokens, {perf_counter() - began:.0f} s",
            flush=True,
        )


def run_rounds(path: Path, options: argparse.Namespace, engine: LocalEngine, out: Path) -> None:
    if not has_session(out, path.stem):
        append(out, again_and_again(engine, path.stem, read_short(path, options.clip).turns, options))


if __name__ == "__main__":
    main()
