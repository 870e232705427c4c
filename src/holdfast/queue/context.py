"""The prompt of a task: FOCUS and SKIP, what earlier tasks did, what went wrong last time, then the task itself.

Earlier results are values and are never parsed out of text, so that names may hold any character and one id may begin
another. For each of them a choice is made: whole, compact, the passages that fit, or nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from holdfast.engine.chat import Chat
from holdfast.errors import Failed
from holdfast.queue.events import Record, State
from holdfast.queue.tasks import Plan, Task

Score = Callable[[str, Sequence[str]], list[float]]
"""Returns how well each text fits a query: cosines of embeddings."""
SNIPPET = 300
"""Characters of a result that go to a dependent task by default, as in Bearing."""
_SHORT, _ERROR = 100, 150
PASSAGES = 5
"""Passages of an earlier result that `retrieve` gives."""
_NUMBERED = re.compile(r"\s*(\d+)\s*[.):-]\s*(.+)")
_SECONDS = 60.0


@dataclass(frozen=True)
class Prior:
    """The result of one earlier task, as a dependent task may be given it."""

    id: str
    name: str
    did: str
    """All of its summary."""
    files: tuple[str, ...] = ()
    failed: bool = False
    how: str = "auto"
    transcript: str = ""
    """Path of all that its agent printed."""

    def prose(self) -> str:
        """Returns one line. What separates the fields is escaped in them."""
        head = f"{_escape(self.id)}: {_escape(self.name)}"
        files = f" | files: {', '.join(map(_escape, self.files))}" if self.files else ""
        return f"[{head}{' | FAILED' if self.failed else files}] {' '.join(self.did.split())}"

    def fields(self) -> dict[str, object]:
        """Returns Bearing's short object: id, did, files."""
        told: dict[str, object] = {"id": self.id, "did": self.did}
        return told | ({"files": list(self.files)} if self.files else {}) | ({"failed": True} if self.failed else {})

    def template(self) -> str:
        """Returns Bearing's short line: id, 100 characters, files."""
        files = f" | files:{','.join(self.files)}" if self.files else ""
        return f"{self.id} | {' '.join(self.did.split())[:_SHORT]}{files}"


@dataclass(frozen=True)
class ContextSizes:
    """The sizes of what was given of earlier results, and the seconds of deciding it."""

    format: str = ""
    original: int = 0
    """Characters of all earlier results in prose, whole."""
    compressed: int = 0
    kept: int = 0
    shortened: int = 0
    dropped: int = 0
    scores: tuple[float, ...] = ()
    scoring_ms: int = 0
    compression_ms: int = 0
    note: str = ""

    def result(self) -> dict[str, object]:
        """Returns the fields of Bearing's result."""
        return {
            "context_chars_original": self.original,
            "context_chars_compressed": self.compressed,
            "chunks_kept": self.kept,
            "chunks_compressed": self.shortened,
            "chunks_dropped": self.dropped,
            "scoring_latency_ms": self.scoring_ms,
            "compression_latency_ms": self.compression_ms,
        }


@dataclass(frozen=True)
class Models:
    """Models that the formats with embeddings ask; each may be absent."""

    score: Score | None = None
    chat: Chat | None = None


NO_MODELS = Models()


def priors(state: State, task: Task, transcript: Callable[[str, Record], str] = lambda *_: "") -> list[Prior]:
    """Returns the results of the tasks that `task` waits for, in its order."""
    found = []
    for one in task.depends_on:
        record, other = state.records[one.id], state.tasks[one.id]
        failed = record.status in ("failed", "skipped")
        told = str(record.result.get("error" if failed else "summary") or "")
        if one.kind == "after" or one.context == "none" or not told:
            continue
        files = () if failed else _unite(other.relevant_files, record.result.get("files_changed") or ())
        did = told[:_ERROR] if failed else told
        found.append(Prior(one.id, other.name, did, files, failed, one.context, transcript(one.id, record)))
    return found


def build_prompt(
    task: Task, plan: Plan, earlier: Sequence[Prior], models: Models = NO_MODELS, extra: Sequence[str] = ()
) -> tuple[str, ContextSizes]:
    """Returns the whole prompt of a task, and what its context measures. `extra` stands behind the task's own words."""
    format_ = plan.context_format
    focus = _unite(task.relevant_files, *(one.files for one in earlier if not one.failed))
    given, measured = give(task, plan, earlier, models)
    own = _own_context(task, earlier)
    parts = [_directives(focus, task.ignore_patterns, format_), own and f"CONTEXT FROM THE PLANNER:\n{own}", given]
    if paths := [f"{one.id}: {one.transcript}" for one in earlier if one.transcript]:
        parts.append("All that an earlier task said stands in these files; read them only if you need more:")
        parts[-1] += "\n" + "\n".join(paths)
    parts += [task.prompt, *extra]
    return "\n\n".join(part for part in parts if part), measured


def give(task: Task, plan: Plan, earlier: Sequence[Prior], models: Models) -> tuple[str, ContextSizes]:
    """Returns the text of earlier results in the format of the plan, each as its dependency says."""
    original = len("\n".join(one.prose() for one in earlier))
    measured = ContextSizes(plan.context_format, original)
    if not earlier:
        return "", measured
    scored = plan.context_format.startswith("embedding") and models.score is not None
    chunks = [_apply_policy(one, task.prompt, models) for one in earlier]
    if scored:
        chunks, measured = _weigh(task, plan, chunks, models, measured)
    elif plan.context_format.startswith("embedding"):
        measured = replace(measured, note="no embedding model: earlier results are given in the structured format")
    text = _join(chunks, "prose" if plan.context_format == "prose" else "embedding" if scored else "structured")
    return text, replace(measured, compressed=len(text), kept=measured.kept or (0 if scored else len(chunks)))


def _apply_policy(one: Prior, query: str, models: Models) -> Prior:
    if one.how == "raw":
        return one
    if one.how == "compact":
        return replace(one, did=compact(one.did))
    if one.how == "retrieve":
        return replace(one, did=retrieve(one.did, query, models.score or _bm25))
    return replace(one, did=one.did[:SNIPPET])


def compact(text: str, most: int = SNIPPET) -> str:
    """Returns the lines of a text that hold most facts for their length, in their order, the first line always."""
    from holdfast.facts.extract import extract_facts

    lines = [line.strip() for line in text.splitlines() if line.strip()]
    worth = [len(extract_facts(line)) / (20 + len(line)) for line in lines]
    kept, room = set[int](), most
    for at in sorted(range(len(lines)), key=lambda at: (at > 0, -worth[at])):
        if len(lines[at]) <= room or not kept:
            kept.add(at)
            room -= len(lines[at]) + 1
    return "\n".join(lines[at] for at in sorted(kept))[:most]


def retrieve(text: str, query: str, score: Score, most: int = PASSAGES) -> str:
    """Returns the passages of a text that fit a query best, in their order."""
    passages = [part.strip() for part in re.split(r"\n\s*\n|\n(?=[-*#\d])", text) if part.strip()]
    if len(passages) <= most:
        return text
    scores = score(query, passages)
    best = sorted(range(len(passages)), key=lambda at: -scores[at])[:most]
    return "\n".join(passages[at] for at in sorted(best))


def _weigh(
    task: Task, plan: Plan, chunks: list[Prior], models: Models, measured: ContextSizes
) -> tuple[list[Prior], ContextSizes]:
    """Keeps, shortens or drops each result by how well it fits the prompt; a result with a policy of its own stays."""
    assert models.score is not None
    began = time.perf_counter()
    scores = models.score(task.prompt, [one.prose() for one in chunks])
    scored = time.perf_counter()
    keep, drop = plan.relevance_threshold_keep, plan.relevance_threshold_drop
    free = [one.how == "auto" for one in chunks]
    middle = [at for at, score in enumerate(scores) if free[at] and drop <= score < keep]
    dropped = {at for at, score in enumerate(scores) if free[at] and score < drop}
    short = _shorten([chunks[at] for at in middle], task.prompt, models.chat if "llm" in plan.context_format else None)
    fitted = dict(zip(middle, short, strict=True))
    result = [fitted.get(at, one) for at, one in enumerate(chunks) if at not in dropped]
    return result, replace(
        measured,
        kept=len(chunks) - len(middle) - len(dropped),
        shortened=len(middle),
        dropped=len(dropped),
        scores=tuple(round(score, 4) for score in scores),
        scoring_ms=round(1000 * (scored - began)),
        compression_ms=round(1000 * (time.perf_counter() - scored)),
    )


def _shorten(chunks: list[Prior], prompt: str, chat: Chat | None) -> list[Prior]:
    """Returns each result in one sentence of a model, or cut where there is no model or it left one out."""
    said: dict[int, str] = {}
    if chunks and chat is not None:
        listed = "\n".join(f"{number}. {one.prose()}" for number, one in enumerate(chunks, 1))
        ask = "Compress each numbered summary to one sentence, keeping only details relevant to this task: "
        ask += f"{prompt[:200]}"
        ask += f"\n\n{listed}\n\nRespond with one compressed sentence per line, numbered to match."
        try:
            said = read_numbered(chat("", ask, 100 * len(chunks) + 100, _SECONDS).text)
        except Failed:  # a model that is away costs detail, not the task
            said = {}
    return [replace(one, did=said.get(at) or one.did[:_SHORT]) for at, one in enumerate(chunks, 1)]


def read_numbered(text: str) -> dict[int, str]:
    """Returns the sentences of a numbered list by their numbers, whatever stands behind a number."""
    found = (_NUMBERED.fullmatch(line) for line in text.splitlines())
    return {int(match[1]): match[2].strip() for match in found if match}


def _join(chunks: Sequence[Prior], how: str) -> str:
    if not chunks:
        return ""
    if how == "prose":
        return "CONTEXT FROM PREVIOUS TASKS:\n" + "\n".join(one.prose() for one in chunks)
    if how == "structured":
        objects = [one.fields() for one in chunks]
        return "PRIOR:" + json.dumps(objects, separators=(",", ":"), ensure_ascii=False)
    return "PRIOR:\n" + "\n".join(one.prose() for one in chunks)


def _own_context(task: Task, earlier: Sequence[Prior]) -> str:
    """Returns the task's stored context without the lines that Bearing put there about the same tasks."""
    known = tuple(f"[{one.id}: " for one in earlier)  # the colon ends the id: task-1 is no part of task-10
    lines = task.context.splitlines()
    return "\n".join(line for line in lines if not line.startswith(known)).strip() if known else task.context.strip()


def _directives(focus: Sequence[str], skip: Sequence[str], format_: str) -> str:
    if format_ == "prose":
        lines = [f"FOCUS: Read these files first, they are most relevant: {', '.join(focus)}" if focus else ""]
        lines += [f"SKIP: Do not read or modify these: {', '.join(skip)}" if skip else ""]
    else:
        dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
        lines = ["FOCUS:" + dump(list(focus)) if focus else "", "SKIP:" + dump(list(skip)) if skip else ""]
    return "\n".join(line for line in lines if line)


def _unite(*lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(item) for one in lists for item in one))


def _escape(text: str) -> str:
    return re.sub(r"([\\|\]])", r"\\\1", " ".join(text.split()))


def _bm25(query: str, texts: Sequence[str]) -> list[float]:
    from holdfast.methods.text.similarity import bm25

    return bm25(query, texts)
