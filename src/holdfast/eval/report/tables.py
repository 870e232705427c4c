"""Tables of the page beside the one of scores: actions, differences to a baseline, and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from holdfast.eval.differences import PairedScore
from holdfast.eval.models import ModelRun
from holdfast.eval.report import numbers
from holdfast.eval.report.difference_table import cells, differences
from holdfast.eval.rows import FULL, NONE
from holdfast.eval.score import Score

Escape = Callable[[str], str]
_ACTIONS = (
    ("Next action", "information kept", "next_action"),
    ("Same tool", "as the full context calls", "action_tool"),
    ("Same call", "arguments too", "action_exact"),
    ("F1", "of its tokens", "action_f1"),
)
_LATER = (
    ("Later action", "information kept", "later_action"),
    ("Same tool", "", "later_tool"),
    ("Same call", "", "later_exact"),
    ("F1", "", "later_f1"),
)
_MODELS = (
    ("Retained", "answer information kept", "retained"),
    ("Keyword", "of what full answers right", "keyword_kept"),
    *_ACTIONS,
    *_LATER,
)


def actions(scores: Sequence[Score], escape: Escape) -> str:
    """Returns a section with the greedy actions beside those of the full context; empty where none were asked for."""
    if all(score.action_exact is None for score in scores):
        return ""
    head = (("Method", ""), ("n", "windows"), *(c[:2] for c in _ACTIONS), ("n", "windows"), *(c[:2] for c in _LATER))
    lines = [
        (
            _setting(score, escape),
            str(score.n_next),
            *(_share(score, name) for *_, name in _ACTIONS),
            str(score.n_later),
            *(_share(score, name) for *_, name in _LATER),
        )
        for score in scores
    ]
    lead = (
        "The greedy next action of each context beside the full context's greedy action; the later one stands behind "
        "three more turns, which are read word by word behind the compact context. Where the session calls a tool, "
        "the model is made to call one."
    )
    return _section("What the agent does next", lead, head, lines)


def comparisons(found: Sequence[PairedScore], escape: Escape) -> str:
    """Returns a section with every paired difference; empty without any."""
    if not found:
        return ""
    head = [("Method", ""), ("Measure", ""), ("Points", "ahead of the baseline"), ("95 % interval", "over windows")]
    head += [("Better", "windows"), ("Worse", "windows"), ("Windows", ""), ("n", "probes or windows")]
    lines = []
    for score in found:
        name = f"{escape(score.method)} {numbers.times(score.ratio)}"
        for label, difference in differences(score):
            lines.append((name, escape(label), *cells(difference)))
    lead = f"Each method less {escape(found[0].against)} at the same ratio, on the same probes and windows."
    return _section("Method against method", lead, head, lines)


def models(scores: Mapping[ModelRun, Sequence[Score]], escape: Escape) -> str:
    """Returns a section with a line for each model, method and ratio."""
    head = [("Model", ""), ("Numbers in", ""), ("Method", ""), ("n", "probes / windows / actions")]
    head += [column[:2] for column in _MODELS]
    head += [("Bytes", "times fewer, of the span"), ("Compaction", "in prefills")]
    lines = [
        (
            escape(run.model),
            escape(run.dtype),
            _setting(score, escape),
            f"{score.n} / {score.n_windows} / {score.n_next}",
            *(_share(score, name) for *_, name in _MODELS),
            numbers.times(numbers.span_ratio(score)) if score.ratio else numbers.UNKNOWN,
            numbers.number(score.seconds_compact / score.seconds_prefill if score.seconds_prefill else None, 2),
        )
        for run, found in scores.items()
        for score in found
    ]
    base = numbers.byte_base([score for found in scores.values() for score in found])
    lead = (
        f"Beneath each share stands its 95 % bootstrap interval over windows. Bytes are stated against {escape(base)}."
    )
    return _section("Every model, method and ratio", lead, head, lines)


def _setting(score: Score, escape: Escape) -> str:
    ratio = "" if score.method in (FULL, NONE) else f" {numbers.times(score.ratio)}"
    return f"{escape(score.method)}{ratio}"


def _share(score: Score, name: str) -> str:
    value, bounds = numbers.percent(getattr(score, name)), numbers.percent_interval(getattr(score, f"{name}_ci"))
    baseline = score.method == FULL or value == numbers.UNKNOWN or not bounds
    return value if baseline else f"{value}<small>{bounds}</small>"


def _section(title: str, lead: str, head: Sequence[tuple[str, str]], lines: Sequence[Sequence[str]]) -> str:
    """Returns a section whose cells are HTML already."""
    columns = "".join(f"<th scope=col>{name}<small>{meaning}</small></th>" for name, meaning in head)
    body = "\n".join(_line(line, previous) for previous, line in zip([("",), *lines], lines, strict=False))
    table = f"<table class=scores><thead><tr>{columns}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<section>\n<h2>{title}</h2>\n<p class="lead">{lead}</p>\n<div class="scroll">\n{table}\n</div>\n</section>'


def _line(line: Sequence[str], previous: Sequence[str]) -> str:
    """Returns a row of the table; a name that stands above already is left out."""
    name = "" if line[0] == previous[0] else line[0]
    return f"<tr><th scope=row>{name}</th>{''.join(f'<td>{cell}</td>' for cell in line[1:])}</tr>"
