"""Tasks as values, and `tasks.json`, Bearing's file of them: read and written without loss, unknown keys included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from holdfast.errors import BadInput

Status = Literal["queued", "running", "completed", "failed", "awaiting_review", "skipped"]
Format = Literal["structured", "prose", "embedding", "embedding+llm"]
FINISHED = ("completed", "skipped")
"""Statuses of records that only `retry` opens again."""
ENDED = (*FINISHED, "failed")


class _Value(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    def raw(self) -> dict[str, Any]:
        """Returns the JSON object as it was read: with unknown keys, without defaults."""
        return self.model_dump(exclude_unset=True)


class Dependency(_Value):
    """One task that another waits for; in a file also the bare id."""

    id: str
    kind: Literal["needs", "completed", "after"] = "needs"
    """`needs`: completed or skipped. `completed`: that alone. `after`: at its end, failed or not."""
    context: Literal["auto", "raw", "compact", "retrieve", "none"] = "auto"
    """Part of its result that the dependent task is given; `auto` as the queue's context_format says."""

    @model_validator(mode="before")
    @classmethod
    def _read_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @model_serializer
    def _write(self) -> Any:
        given = {name: getattr(self, name) for name in self.model_fields_set} | (self.model_extra or {})
        return given if len(given) > 1 else self.id


class Config(_Value):
    """The executor of one task and its limits."""

    cli: str = "claude"
    """claude, codex, opencode, holdfast, or a command line; see `executors.py`."""
    model: str = "sonnet"
    effort: str = "high"
    budget_usd: float = Field(default=3.0, ge=0)
    max_turns: int = Field(default=20, ge=1)
    permission_mode: str = "auto"
    worktree: str | None = None
    """A name: the task works on a branch in a work tree of its own, and is merged back."""
    context: str = "none"
    """Way in which Holdfast's own agent keeps its history small, such as merge@8."""
    max_seconds: float = Field(default=3600.0, gt=0)
    stall_seconds: float = Field(default=600.0, gt=0)
    """Seconds without a byte of output after which an attempt is stopped."""
    max_tokens: int = Field(default=10_000_000, ge=1)
    """Tokens, cache reads included, after which an attempt is stopped."""


class Task(_Value):
    """A unit of work for one agent."""

    id: str = Field(min_length=1, max_length=500)
    name: str
    prompt: str
    config: Config = Config()
    depends_on: tuple[Dependency, ...] = ()
    checkpoint: Literal["auto", "notify", "pause"] = "auto"
    on_failure: Literal["retry_once", "pause", "skip"] = "pause"
    retries: int | None = Field(default=None, ge=0, le=100)
    """Further attempts after a failure; None for what `on_failure` says: 1 or 0."""
    context: str = ""
    relevant_files: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()
    result: dict[str, Any] = {}
    """The record as the file tells it; the queue owns it."""

    @property
    def most_retries(self) -> int:
        return self.retries if self.retries is not None else int(self.on_failure == "retry_once")

    def plan(self) -> dict[str, Any]:
        """Returns what the planner owns: the task without its result."""
        raw = self.raw()
        raw.pop("result", None)
        return raw


class Plan(_Value):
    """A whole `tasks.json`."""

    project: str
    description: str = ""
    context_format: Format = "structured"
    relevance_threshold_keep: float = 0.6
    relevance_threshold_drop: float = 0.35
    embedding_model: str = "nomic-embed-text"
    compression_model: str = "gemma4:26b"
    revision: str | None = None
    """The edit of the plan that the file was written from; a file without it removes no task."""
    tasks: tuple[Task, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Returns what describes the queue itself."""
        raw = self.raw()
        return {name: value for name, value in raw.items() if name not in ("tasks", "revision")}


def read_plan(data: bytes, where: str = "tasks.json") -> Plan:
    """Returns the plan of a file. Raises BadInput, with the place, for JSON that is none or no plan."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("expected an object with project and tasks")
        plan = Plan.model_validate(value)
    except ValidationError as error:
        faults = "; ".join(f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors()[:3])
        raise BadInput(f"{where}: {faults}; correct it, `holdfast queue validate` says when it is right") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON of a queue: {error}; correct it, nothing was changed") from error
    return plan


def write_plan(fields: Mapping[str, Any], revision: str | None, tasks: Iterable[Mapping[str, Any]]) -> bytes:
    """Returns the bytes of a `tasks.json`; without a revision, of one that is in no log yet."""
    whole = {**fields, **({"revision": revision} if revision else {}), "tasks": list(tasks)}
    return (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def folder_name(task: str) -> str:
    """Returns a name for files and branches: no separators, no dots in front, no two tasks alike."""
    name = quote(task, safe="").replace(".", "%2E").replace("~", "%7E")
    return name if len(name) <= 60 else f"{name[:40]}-{hashlib.sha256(task.encode()).hexdigest()[:16]}"


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "queue"
