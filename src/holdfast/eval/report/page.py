"""The page as one string of HTML. All that comes from a row is escaped by `text`: sessions are hostile."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from string import Template

from holdfast.eval.differences import PairedScore
from holdfast.eval.report import numbers, probes, summary, tables
from holdfast.eval.report.drawing import Plot
from holdfast.eval.report.foreign import visible
from holdfast.eval.rows import FULL, NONE
from holdfast.eval.score import Bounds, JoinedRow, Score

_CAPTIONS = {
    "quality": "Share of the nats that the context supplies to the right answers. "
    "Bars are 95 % bootstrap intervals over windows, each drawn with all its probes.",
    "bytes": "The same shares, placed at the size held: everything that stays verbatim counts too.",
    "seconds": "Time on top of the prefill, averaged over windows. Times under 1 ms are drawn at 1 ms.",
    "categories": "Each bar is one method on the probes of one category. "
    "Lines are 95 % bootstrap intervals over windows. Methods that were not measured at this ratio are left out.",
    "fidelity": "How well the session goes on: its recorded next action, and its next turns token by token. "
    "Bars are 95 % bootstrap intervals over windows.",
}
_COLUMNS = (
    ("Method", "as given on the command line"),
    ("Ratio", "times fewer slots asked for"),
    ("n", "probes / windows"),
    ("Retained", "answer information kept"),
    ("Forced choice", "answer preferred to distractor"),
    ("Keyword", "greedy answer is right"),
    ("Margin", "nats per token"),
    ("n", "next turns"),
    ("Next action", "information kept"),
    ("KL", "nats per token"),
    ("Top-1", "same first token"),
    ("KV held", "of the full window's bytes"),
    ("Compaction", "seconds, after the prefill"),
)
_FOOTNOTE = (
    "Bytes are stated against {base}, as models are served. Numbers that were computed in float32 take twice as many "
    "while a float32 model holds them."
)


def page(
    joined: Sequence[JoinedRow], scores: Sequence[Score], drawn: Sequence[Plot], found: Sequence[PairedScore] = ()
) -> str:
    """Returns the whole page; equal rows give equal bytes."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    facts = summary.facts([j.row for j in joined], scores)
    return Template(template).substitute(
        headline=text(summary.headline(scores)),
        cost=text(summary.cost(scores)),
        alarm=_alarm(joined),
        facts="\n".join(f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in facts),
        plots="\n".join(figure(plot, _CAPTIONS[plot.name]) for plot in drawn),
        table=_table(scores),
        actions=tables.actions(scores, text),
        differences=tables.comparisons(found, text),
        bytes_note=text(_FOOTNOTE.format(base=numbers.byte_base(scores))),
        probes=probes.matrix(joined, text),
    )


def text(value: str) -> str:
    """Escapes a string for content and quoted attributes alike, and makes control characters visible."""
    return html.escape(visible(value), quote=True)


def _alarm(joined: Sequence[JoinedRow]) -> str:
    """Returns the prohibitions of the user that were lost, in red, because no share makes up for them."""
    rows = [j.row for j in joined]
    lost = dict.fromkeys(
        (row.method, row.ratio, row.transcript, words) for row in rows for words in row.prohibitions_lost or ()
    )
    if not lost:
        return ""
    items = "".join(
        f"<li>{text(method)} {numbers.times(ratio)}, <bdi>{text(transcript)}</bdi>: <code>{text(words)}</code></li>"
        for method, ratio, transcript, words in lost
    )
    return f'<div class="alarm"><p>These contexts lost prohibitions of the user:</p><ul>{items}</ul></div>'


def figure(plot: Plot, caption: str) -> str:
    return f'<figure class="{plot.name}">{plot.svg}<figcaption>{caption}</figcaption></figure>'


def _table(scores: Sequence[Score]) -> str:
    head = "".join(f"<th scope=col>{name}<small>{meaning}</small></th>" for name, meaning in _COLUMNS)
    groups = [list(group) for _, group in groupby(scores, key=lambda score: score.method)]
    body = "\n".join(_line(score, _lines(group) if score is group[0] else 0) for group in groups for score in group)
    return f"<table class=scores><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _line(score: Score, rows: int) -> str:
    """Returns one score and its note; the first score of a method names it for all its `rows`."""
    name = f'<th scope=rowgroup rowspan="{rows}">{probes.breakable(text(score.method))}</th>' if rows else ""
    note = f'<tr class=note><td colspan="{len(_COLUMNS) - 1}">{text(score.note)}</td></tr>' if score.note else ""
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in _cells(score))}</tr>{note}"


def _lines(group: Sequence[Score]) -> int:
    """Returns the number of table rows of the scores: a note has one of its own."""
    return len(group) + sum(bool(score.note) for score in group)


def _cells(score: Score) -> tuple[str, ...]:
    return (
        numbers.times(score.ratio),
        f"{score.n} / {_count(score.n_windows)}",
        _share(score, "retained"),
        _share(score, "forced_choice"),
        _share(score, "keyword"),
        _nats(score, "margin", 2),
        _count(score.n_next or score.n_windows),
        _share(score, "next_action"),
        _nats(score, "kl", 3),
        _share(score, "top1"),
        _with(
            numbers.size(score.bytes),
            f"{numbers.times(numbers.byte_ratio(score))} fewer<br>span {numbers.times(numbers.span_ratio(score))}",
        ),
        numbers.seconds(score.seconds_compact),
    )


_FIXED = {
    FULL: ("retained", "next_action", "kl", "top1"),
    NONE: ("retained", "next_action", "forced_choice", "margin"),
}
"""What a baseline is by definition, so that its interval would say nothing."""


def _share(score: Score, name: str) -> str:
    return _with(numbers.percent(getattr(score, name)), numbers.percent_interval(_bounds(score, name)))


def _nats(score: Score, name: str, digits: int) -> str:
    return _with(numbers.number(getattr(score, name), digits), numbers.interval(_bounds(score, name), digits))


def _bounds(score: Score, name: str) -> Bounds:
    found: Bounds = getattr(score, f"{name}_ci")
    return (None, None) if name in _FIXED.get(score.method, ()) else found


def _count(windows: int) -> str:
    few = '<abbr class=few title="so few windows that the interval is rough">few</abbr>'
    return f"{windows}{few if windows < numbers.FEW else ''}"


def _with(value: str, below: str) -> str:
    return f"{value}<small>{below}</small>" if below and value != numbers.UNKNOWN else value
