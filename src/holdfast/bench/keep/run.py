"""Measures conditions on items: one prefill an item, a row per condition, written as it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast.agent.sandbox import open_sandbox
from holdfast.agent.sandbox.base import Sandbox
from holdfast.bench.keep.conditions import DEFAULT, FULL, Condition, read_condition
from holdfast.bench.keep.contexts import ANSWER_TOKENS, OpenItem
from holdfast.bench.keep.item import Item, make_item
from holdfast.bench.keep.judge import judge
from holdfast.bench.keep.rows import KeepRow, Key
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.eval.rows import describe_run, read_clock
from holdfast.model.load import BASE_ITEMSIZE, full_bytes
from holdfast.progress import Progress, quiet
from holdfast.storage.json_lines import append_line, has_line, read_lines

Note = Callable[[str], object]


@dataclass(frozen=True)
class KeepRun:
    """The items and conditions that are measured."""

    tokens: int
    items: int = 100
    first: int = 0
    """Seed of the first item; the others follow one by one."""
    conditions: tuple[str, ...] = DEFAULT
    sandbox: str = "auto"
    """The sandbox of the programs that the model writes; `none` runs them as you."""

    def __post_init__(self) -> None:
        if self.items < 1 or self.first < 0:
            raise BadOption(f"items must be at least 1 and the first seed at least 0, got {self.items}, {self.first}")


def measure(run: KeepRun, engine: LocalEngine, out: Path, progress: Progress = quiet, note: Note = print) -> int:
    """Appends the missing rows to `out` and returns how many; a condition that cannot be met is told to `note`.

    Raises BadOption for an unknown condition, a session that the model cannot read, or rows of another model, and
    Failed where no sandbox works.
    """
    sandbox = open_sandbox(run.sandbox)
    conditions = [read_condition(name) for name in dict.fromkeys((FULL, *run.conditions))]
    most = engine.model.max_tokens - 4 * ANSWER_TOKENS
    if run.tokens > most:
        raise BadOption(f"sessions of {run.tokens} tokens are too long: {engine.model.name} reads up to {most}")
    written = _read_keys(out, engine, note)
    before = len(written)
    for number, seed in enumerate(range(run.first, run.first + run.items)):
        item = make_item(seed, run.tokens)
        progress("item", number, run.items, item.id)
        missing = [c for c in conditions if (item.id, digest(item), c.name) not in written]
        for row in _measure_item(item, missing, engine, sandbox, note) if missing else ():
            append_line(out, row)
            written.add(row.key)
    progress("item", run.items, run.items, "")
    return len(written) - before


def digest(item: Item) -> str:
    """Returns a digest of everything that an item asks and holds."""
    said = [(t.role.value, t.text, [c.arguments for c in t.calls]) for t in item.transcript.turns]
    whole = [said, dict(item.assignment.values), item.assignment.opening]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _measure_item(
    item: Item, missing: Sequence[Condition], engine: LocalEngine, sandbox: Sandbox, note: Note
) -> Iterator[KeepRow]:
    """Yields a row per condition."""
    opened = OpenItem.read(item, engine)
    about = _about(item, opened, engine)
    for condition in missing:
        try:
            answer = opened.answer(condition)
        except (BadOption, BadInput, Failed) as error:
            note(f"{item.id}: {condition.name} is left out: {error}")
            continue
        found = judge(item.assignment, answer.text, sandbox)
        yield KeepRow(
            **about,
            created=read_clock(),
            condition=condition.name,
            kind=condition.kind,
            ratio=condition.ratio,
            tokens=answer.tokens,
            bytes=answer.bytes,
            seconds_context=round(answer.seconds_context, 3),
            seconds_answer=round(answer.seconds_answer, 3),
            text=answer.text,
            facts=dict(found.facts),
            passed=found.complete,
            error=found.error,
        )


def _about(item: Item, opened: OpenItem, engine: LocalEngine) -> dict[str, Any]:
    model = engine.model
    return {
        **describe_run(model, _config(engine)),
        "item": item.id,
        "item_digest": digest(item),
        "seed": item.seed,
        "size": item.tokens,
        "family": item.assignment.family,
        "place": item.place,
        "depth": item.depth,
        "tokens_full": opened.tokens,
        "bytes_full": full_bytes(model, opened.tokens, BASE_ITEMSIZE),
        "seconds_prefill": round(opened.seconds, 3),
    }


def _config(engine: LocalEngine) -> dict[str, Any]:
    model = engine.model
    dtype = str(model.dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    return {"dtype": dtype, "device": str(model.device), "threads": threads, "answer_tokens": ANSWER_TOKENS}


def _read_keys(out: Path, engine: LocalEngine, note: Note) -> set[Key]:
    """Returns the keys of the rows in `out`. Raises BadOption if another model measured them."""
    if not out.parent.is_dir() or out.is_dir():
        raise BadInput(f"{out}: rows need a file in a folder that exists")
    if not has_line(out):
        return set()
    rows = read_lines(out, KeepRow, note)
    ours = {"model": engine.model.digest, "dtype": _config(engine)["dtype"]}
    for row in rows:
        theirs = {"model": row.model_digest, "dtype": row.config.get("dtype")}
        if theirs != ours:
            raise BadOption(f"{out} holds rows measured with {theirs} and not {ours}; give another --out")
    return {row.key for row in rows}
