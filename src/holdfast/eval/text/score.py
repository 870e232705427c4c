"""From rows to one line per method and ratio: scores by category beside the full context's, and whether it passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from holdfast.errors import BadInput
from holdfast.eval.rows import FULL
from holdfast.eval.text.probes import CATEGORIES
from holdfast.eval.text.rows import TextRow

WITHIN = 0.3
"""A method passes where no category's mean score is further below the full context's."""


class TextScore(BaseModel):
    """The score of one method at one ratio, on the probes that the full context was asked too."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    method: str
    ratio: float
    n: int
    sessions: int
    reached: float
    """Tokens before over tokens after, over all sessions."""
    scores: Mapping[str, float | None]
    """Mean score by category, 0 to 5; null where no probe is of it."""
    full: Mapping[str, float | None]
    """The full context's on the same probes."""
    hit: float
    """Share of right answers, by keyword."""
    fooled: float
    exact: float | None
    f1: float | None
    agreement: float | None
    """Share of answers to which two passes of the judge give the same score; null without a judge."""
    passes: bool | None
    """Null where a category has no probe."""
    seconds_compact: float
    """Mean over sessions."""
    compactor_tokens: int
    """Read and written by the compactor over all sessions."""


def score_rows(rows: Iterable[TextRow]) -> list[TextScore]:
    """Returns scores: the full context first, then by method and ratio. Raises BadInput if rows have
    no full context.
    """
    latest = {row.key: row for row in rows}
    configs = {str(sorted(row.config.items())) for row in latest.values()}
    if len(configs) > 1:
        raise BadInput(f"the rows were measured in {len(configs)} ways that cannot be compared; score each on its own")
    full = {row.key[:2]: row for row in latest.values() if row.method == FULL}
    groups: dict[tuple[str, float], list[TextRow]] = defaultdict(list)
    for row in latest.values():
        if row.key[:2] in full:
            groups[row.method, row.ratio].append(row)
    if not groups:
        raise BadInput("no row has a row of the full context to be compared with; run `holdfast eval text` again")
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != FULL, item[0]))
    return [_score(group, [full[row.key[:2]] for row in group]) for _, group in ordered]


def _score(rows: Sequence[TextRow], full: Sequence[TextRow]) -> TextScore:
    own, reference = _by_category(rows), _by_category(full)
    gaps = [reference[name] - own[name] for name in CATEGORIES if own[name] is not None]  # type: ignore[operator]
    sessions = list({row.transcript_digest: row for row in rows}.values())
    twice = [row.judged for row in rows if len(row.judged) > 1]
    return TextScore(
        method=rows[0].method,
        ratio=rows[0].ratio,
        n=len(rows),
        sessions=len(sessions),
        reached=sum(row.tokens_full for row in sessions) / max(1, sum(row.tokens for row in sessions)),
        scores=own,
        full=reference,
        hit=fmean(row.hit for row in rows),
        fooled=fmean(row.fooled for row in rows),
        exact=_mean([row.exact for row in rows if row.exact is not None]),
        f1=_mean([row.f1 for row in rows if row.f1 is not None]),
        agreement=_mean([len(set(scores)) == 1 for scores in twice]),
        passes=all(gap <= WITHIN + 1e-9 for gap in gaps) if len(gaps) == len(CATEGORIES) else None,
        seconds_compact=fmean(row.seconds_compact for row in sessions),
        compactor_tokens=sum(row.compactor_tokens_in + row.compactor_tokens_out for row in sessions),
    )


def _by_category(rows: Sequence[TextRow]) -> dict[str, float | None]:
    return {name: _mean([row.score for row in rows if row.category == name]) for name in CATEGORIES}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
