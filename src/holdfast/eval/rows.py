"""The row: one measured answer of one method at one ratio to one probe, and how rows are stored (JSON lines).

Rows are facts; nothing here averages, joins or judges them. A row file is only ever appended to, so that an
interrupted run can be resumed. Later versions may add fields: unknown ones are kept, known ones are checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

import holdfast
from holdfast import config
from holdfast.errors import BadInput
from holdfast.storage import json_lines

if TYPE_CHECKING:
    from holdfast.model.load import Model

FULL = "full"
"""The baseline method that keeps everything."""
NONE = "none"
"""The baseline method that keeps nothing of the span."""

Count = Annotated[int, Field(ge=0)]
Tokens = Annotated[int, Field(ge=1)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Line = TypeVar("Line", bound=BaseModel)


class ModelRow(BaseModel):
    """The fields by which a row of any measurement of a model says how it was made."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    version: str
    """Version of Holdfast that measured the row."""
    commit: str = ""
    """Git commit of the working tree, or empty where there is none."""
    created: str
    """Time of the measurement: ISO 8601 with its zone."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the run: `window` (tokens), `dtype`, `device`, `threads`, `attention`, options."""
    model: str
    """Name of the model, as it was asked for."""
    model_digest: str
    """Digest of the model's weights."""
    tokenizer_digest: str
    """Digest of the tokenizer."""


def describe_run(model: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `ModelRow` but the time."""
    return {
        "version": holdfast.__version__,
        "commit": config.source_commit(),
        "config": settings,
        "model": model.name,
        "model_digest": model.digest,
        "tokenizer_digest": model.tokenizer_digest,
    }


def read_clock() -> str:
    """Returns the time of a measurement, as a row holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Row(ModelRow):
    """One (transcript, window, method, ratio, probe). Log-probabilities are natural, so sums are in nats."""

    model_parameters: Count = 0
    """Numbers in its weights; 0 in old rows."""
    seed: int
    """Seed of everything random in the run."""

    transcript: str
    """File name of the session."""
    session_digest: str = ""
    """Digest of the session's token ids."""
    window: str
    """Name of the part of the session; several probes may share one window."""
    probe: str
    """Id of the probe."""
    probe_digest: str = ""
    """Digest of the probe: what is asked and how it is judged."""
    category: str
    """Kind of knowledge that the probe asks for, e.g. `recall` or `decision`."""
    question: str = ""
    """The probe's question, kept so that a report can show it."""
    answer: str = ""
    """The right answer as it was scored."""
    distractor: str = ""
    """The near miss as it was scored."""
    method: str
    """Method as spelled, options included; `full` and `none` are the baselines."""
    ratio: Annotated[FiniteFloat, Field(ge=1)] | None
    """Times fewer slots that were asked for: 1.0 for `full`, null for `none`."""

    tokens_full: Count
    """Tokens of the whole window."""
    tokens_span: Count
    """Tokens of the span that was compacted."""
    slots: Annotated[FiniteFloat, Field(ge=0)]
    """KV slots held for the span: the mean over layers and heads."""
    bytes_full: Count
    """KV bytes that the full context holds for the window."""
    bytes: Count
    """KV bytes held for the window after compaction."""
    bytes_span_full: Count
    """KV bytes that the full context holds for the span."""
    bytes_span: Count
    """KV bytes held for the span after compaction."""
    bytes_stored: Count = 0
    """Bytes of the compacted span's slots in a file, with their positions and scores; 0 in baselines and old rows."""
    bytes_base: str = ""
    """Dtype of a plain number in all of these; empty in old rows, whose base is the dtype that they ran in."""

    seconds_prefill: Seconds
    """Seconds to prefill the full window."""
    seconds_compact: Seconds
    """Seconds that compaction took on top of the prefill."""
    seconds_measure: Seconds = 0.0
    """Seconds that it took to ask the context everything."""

    answer_logprob: FiniteFloat
    """Log-probability of the right answer, summed over its tokens (nats)."""
    answer_tokens: Tokens
    """Tokens of the right answer."""
    distractor_logprob: FiniteFloat
    """Log-probability of the distractor, summed over its tokens (nats)."""
    distractor_tokens: Tokens
    """Tokens of the distractor."""
    text: str
    """The greedy answer."""
    keyword: bool | None
    """True if the greedy answer holds an accepted keyword; null if no answer was asked for."""
    left_out: str = ""
    """The reason why no method is measured: a `none` row of a model that knows the answer without the span."""
    gate_nats: FiniteFloat | None = None
    """By how much, the gate says, the log-probability of the probe's literal fell (nats); null without a gate."""
    gate_lost: bool | None = None
    """True if the gate calls a token of the probe's literal lost."""
    prohibitions_lost: list[str] | None = None
    """The user's prohibitions that the gate lists as lost in the context, word for word; null without a gate."""

    kl: FiniteFloat | None = None
    """Mean KL(full || compact) per token over the session's next turns (nats); null where none follow."""
    top1: Share | None = None
    """Share of those tokens on which both contexts rank the same token first (0 to 1)."""
    next_action_logprob: FiniteFloat | None = None
    """Log-probability of the session's recorded next action, summed over its tokens (nats)."""
    next_action_tokens: Tokens | None = None
    """Tokens of the recorded next action."""
    next_action_text: str | None = None
    """The greedy next action; of a call, what follows its opening. Null if none was asked for, as in what follows."""
    next_action_tool: bool | None = None
    """True if it calls the tool that the full context's greedy action calls; null where the session calls none."""
    next_action_exact: bool | None = None
    """True if its arguments (or words) are also the same."""
    next_action_f1: Share | None = None
    """F1 of the tokens of its arguments (or words); 0 with another tool."""
    later_action_logprob: FiniteFloat | None = None
    """Log-probability of the recorded action behind at least three more turns, which are read word by word."""
    later_action_tokens: Tokens | None = None
    later_action_text: str | None = None
    later_action_tool: bool | None = None
    later_action_exact: bool | None = None
    later_action_f1: Share | None = None

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        expected = {FULL: self.ratio == 1, NONE: self.ratio is None}.get(self.method, self.ratio is not None)
        if not expected:
            raise ValueError("ratio must be 1.0 for `full`, null for `none` and a number for any other method")
        return self


def read_rows(path: str | Path, *, warn: Callable[[str], object] = warnings.warn) -> list[Row]:
    """Reads every row of a file; leaves out a last line that an interrupted run cut short, and calls `warn`."""
    return read_lines(path, Row, "run --out", warn)


def read_lines(path: str | Path, kind: type[Line], command: str, warn: Callable[[str], object]) -> list[Line]:
    """Reads every row of `kind`; `command` is the part of `holdfast eval` that writes them, for the message."""
    rows = json_lines.read_lines(path, kind, warn)
    if not rows:
        raise BadInput(f"{path}: there are no rows; measure some first with `holdfast eval {command} {path}`")
    return rows
