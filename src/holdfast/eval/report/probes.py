"""The section that shows what was lost: one row per probe, one shaded cell per method and ratio."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from holdfast.eval.report import numbers
from holdfast.eval.rows import FULL, NONE, Row
from holdfast.eval.score import JoinedRow, method_order

Escape = Callable[[str], str]
Setting = tuple[str, float | None]
"""A method at a ratio: one column."""
_LONGEST = 400
"""Characters of a greedy answer that are shown."""


def matrix(joined: Sequence[JoinedRow], escape: Escape) -> str:
    """Returns the table of all probes by transcript; `escape` is applied to every string from a row."""
    settings = sorted(
        {(j.row.method, j.row.ratio) for j in joined if j.row.method != NONE}, key=lambda s: method_order(*s)
    )
    parts = [
        f"<tbody>{_section(name, len(settings) + 1, escape)}{_rows(list(group), settings, escape)}</tbody>"
        for name, group in groupby(joined, key=lambda j: j.row.transcript)
    ]
    return f"<table class=probes>{_head(settings, escape)}{''.join(parts)}</table>"


def breakable(escaped: str) -> str:
    """Lets a long method name break after its punctuation (of which escaping makes none)."""
    return re.sub("[:,=_]", lambda mark: f"{mark.group()}<wbr>", escaped)


def _head(settings: Sequence[Setting], escape: Escape) -> str:
    groups = [(method, len(list(group))) for method, group in groupby(settings, key=lambda s: s[0])]
    names = "".join(f'<th scope=colgroup colspan="{n}">{breakable(escape(method))}</th>' for method, n in groups)
    ratios = "".join(
        f"<th scope=col>{'supplied' if method == FULL else numbers.times(ratio)}</th>" for method, ratio in settings
    )
    return f"<thead><tr><th rowspan=2>Probe</th>{names}</tr><tr>{ratios}</tr></thead>"


def _section(name: str, columns: int, escape: Escape) -> str:
    return f'<tr class=section><th scope=rowgroup colspan="{columns}">{escape(name)}</th></tr>'


def _rows(group: Sequence[JoinedRow], settings: Sequence[Setting], escape: Escape) -> str:
    by_probe = groupby(group, key=lambda j: (j.row.window, j.row.probe))
    return "\n".join(_probe(list(answers), settings, escape) for _, answers in by_probe)


def _probe(answers: Sequence[JoinedRow], settings: Sequence[Setting], escape: Escape) -> str:
    of = {(j.row.method, j.row.ratio): j for j in answers}
    cells = "".join(_cell(of.get(setting), escape) for setting in settings)
    return f"<tr><th scope=row>{_question(answers, escape)}</th>{cells}</tr>"


def _question(answers: Sequence[JoinedRow], escape: Escape) -> str:
    row = answers[0].row
    return (
        f"<p class=question><bdi>{escape(row.question or row.probe)}</bdi></p>"
        f"<p class=key><span class=right><bdi>{escape(row.answer)}</bdi></span> "
        f"<span class=wrong>not <bdi>{escape(row.distractor)}</bdi></span></p>"
        f"<details><summary>{escape(row.probe)} · {escape(row.category)} · answers</summary>"
        f"<dl>{''.join(_answer(j.row, escape) for j in answers)}</dl></details>"
    )


def _answer(row: Row, escape: Escape) -> str:
    mark = {True: "<b class=hit>✓</b> ", False: "<b class=miss>✗</b> ", None: ""}[row.keyword]
    ratio = "" if row.method in (FULL, NONE) else f" {numbers.times(row.ratio)}"
    return f"<dt>{escape(row.method)}{ratio}</dt><dd>{mark}<bdi>{escape(_short(row.text))}</bdi></dd>"


def _cell(joined: JoinedRow | None, escape: Escape) -> str:
    if joined is None:
        return f"<td class=absent>{numbers.UNKNOWN}</td>"
    kept = joined.row.answer_logprob - joined.none.answer_logprob
    mark = "✓" if joined.row.keyword else ""
    tip = escape(_tip(joined, kept))
    return f'<td{_shade(joined, kept)} title="{tip}">{_with_sign(kept)}<i>{mark}</i></td>'


def _tip(joined: JoinedRow, kept: float) -> str:
    supplied = joined.full.answer_logprob - joined.none.answer_logprob
    return f"{kept:+.2f} of {supplied:+.2f} nats. Greedy answer: {_short(joined.row.text)}"


def _shade(joined: JoinedRow, kept: float) -> str:
    """Returns the tint of a cell by the share of the probe's information that is left; none if there was none."""
    supplied = joined.full.answer_logprob - joined.none.answer_logprob
    if joined.row.method == FULL or supplied <= 0:
        return " class=plain"
    share = min(max(kept / supplied, 0.0), 1.0)
    tint = "kept" if share >= 0.5 else "lost"
    return f' style="--tint:var(--{tint}-tint);--by:{100 * abs(2 * share - 1):.0f}%"'


def _with_sign(nats: float) -> str:
    return f"{nats:+.1f}".replace("-", "\N{MINUS SIGN}")


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]} …"
