"""The page as one string of HTML. All that comes from a row is escaped by `text`: sessions are hostile."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from string import Template

from holdfast.eval.report import numbers, probes, summary
from holdfast.eval.report.drawing import Drawn
from holdfast.eval.rows import FULL, NONE
from holdfast.eval.score import Bounds, Joined, Score

_CAPTIONS = {
    "quality": "Share of the nats that the context supplies to the right answers. "
    "Bars are 95 % bootstrap intervals over probes.",
    "bytes": "The same shares, placed at the size really held: everything that stays verbatim counts too.",
    "seconds": "Time on top of the prefill, averaged over windows. Times under 1 ms are drawn at 1 ms.",
    "categories": "Each bar is one method on the probes of one category. "
    "Methods that were not measured at this ratio are left out.",
    "fidelity": "How well the session goes on: its recorded next action, and its next turns token by token. "
    "Bars are 95 % bootstrap intervals over windows.",
}
_COLUMNS = (
    ("Method", "as given on the command line"),
    ("Ratio", "times fewer slots asked for"),
    ("n", "probes"),
    ("Retained", "answer information kept"),
    ("Forced choice", "answer preferred to distractor"),
    ("Keyword", "greedy answer is right"),
    ("Margin", "nats per token"),
    ("n", "windows"),
    ("Next action", "information kept"),
    ("KL", "nats per token"),
    ("Top-1", "same first token"),
    ("KV held", "of the full window's bytes"),
    ("Compaction", "seconds, after the prefill"),
)


def page(joined: Sequence[Joined], scores: Sequence[Score], drawn: Sequence[Drawn]) -> str:
    """The whole page; the same rows give the same bytes."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    facts = summary.facts([j.row for j in joined], scores)
    return Template(template).substitute(
        headline=text(summary.headline(scores)),
        cost=text(summary.cost(scores)),
        facts="\n".join(f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in facts),
        plots="\n".join(_figure(plot) for plot in drawn),
        table=_table(scores),
        probes=probes.matrix(joined, text),
    )


def text(value: str) -> str:
    """Escaped for content and quoted attributes alike; control and direction characters made visible."""
    return html.escape(_INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", value), quote=True)


_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, overrides of the reading direction, and lone surrogates (which no file can hold)."""


def _figure(plot: Drawn) -> str:
    return f'<figure class="{plot.name}">{plot.svg}<figcaption>{_CAPTIONS[plot.name]}</figcaption></figure>'


def _table(scores: Sequence[Score]) -> str:
    head = "".join(f"<th scope=col>{name}<small>{meaning}</small></th>" for name, meaning in _COLUMNS)
    groups = [list(group) for _, group in groupby(scores, key=lambda score: score.method)]
    body = "\n".join(_line(score, len(group) if score is group[0] else 0) for group in groups for score in group)
    return f"<table class=scores><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _line(score: Score, rows: int) -> str:
    """One score; the first of its method names it for all `rows` of them."""
    name = f'<th scope=rowgroup rowspan="{rows}">{probes.breakable(text(score.method))}</th>' if rows else ""
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in _cells(score))}</tr>"


def _cells(score: Score) -> tuple[str, ...]:
    percent = numbers.percent
    is_baseline = score.method in (FULL, NONE)  # fixed by definition, so an interval says nothing
    bounds = _no_interval if is_baseline else numbers.percent_interval
    return (
        numbers.times(score.ratio),
        _count(score.n),
        _with(percent(score.retained), bounds(score.retained_ci)),
        _with(percent(score.forced_choice), bounds(score.forced_choice_ci)),
        _with(percent(score.keyword), numbers.percent_interval(score.keyword_ci)),
        numbers.number(score.margin, 2),
        _count(score.n_next or score.n_windows),
        _with(percent(score.next_action), bounds(score.next_action_ci)),
        _with(numbers.number(score.kl), "" if score.method == FULL else numbers.interval(score.kl_ci)),
        percent(score.top1),
        _with(
            numbers.size(score.bytes),
            f"{numbers.times(numbers.byte_ratio(score))} fewer; span {numbers.times(numbers.span_ratio(score))}",
        ),
        numbers.seconds(score.seconds_compact),
    )


def _no_interval(_: Bounds) -> str:
    return ""


def _count(n: int) -> str:
    few = '<abbr class=few title="so few that the interval is rough">few</abbr>' if n < numbers.FEW else ""
    return f"{n}{few}"


def _with(value: str, below: str) -> str:
    return f"{value}<small>{below}</small>" if below and value != numbers.UNKNOWN else value
