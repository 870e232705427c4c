"""A session as one HTML page, coloured by what became of every token: verbatim, surviving, repaired, lost, left out.

All that comes from the session or the context is escaped by `text`: both are hostile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

from holdfast.blocks.render import RenderedSession
from holdfast.eval.report.page import text
from holdfast.facts.fact import FactKind


class Fate(StrEnum):
    """The fate of a token."""

    VERBATIM = "verbatim"
    COMPACTED = "compacted"
    REPAIRED = "repaired"
    LOST = "lost"
    LEFT_OUT = "left-out"


_SAID = {
    Fate.VERBATIM: "kept word by word",
    Fate.COMPACTED: "compacted, can still be read",
    Fate.REPAIRED: "was lost, repaired",
    Fate.LOST: "lost",
    Fate.LEFT_OUT: "left out: older than the window, or dropped",
}


def fates(segments: Sequence[Any], evidence: Mapping[str, Any], count: int) -> list[Fate]:
    """Returns the fate of each of a session's `count` tokens, from the segments and the evidence of a manifest."""
    out = [Fate.LEFT_OUT] * count
    for segment in segments:
        fate = Fate.VERBATIM if segment.kind == "tokens" else Fate.COMPACTED
        _paint(out, ((origin[4], origin[5]) for origin in segment.origins), fate)
    gate = evidence.get("gate", {})
    _paint(out, gate.get("spans_repaired", ()), Fate.REPAIRED)
    _paint(out, gate.get("spans_lost", ()), Fate.LOST)
    return out


def session_page(title: str, rendered: RenderedSession, fate: Sequence[Fate], evidence: Mapping[str, Any]) -> str:
    """Returns the page; equal sessions and contexts give equal bytes."""
    template = files(__package__).joinpath("session.html").read_text(encoding="utf-8")
    counted = {f: sum(x is f for x in fate) for f in Fate}
    legend = "".join(f'<li class="{f}"><b>{n:,}</b> tokens {_SAID[f]}</li>' for f, n in counted.items() if n)
    return Template(template).substitute(
        title=text(title),
        legend=legend,
        alarm=_alarm(evidence),
        jump=_jump(fate),
        facts=_facts(evidence),
        turns="\n".join(_turns(rendered, fate)),
    )


def _alarm(evidence: Mapping[str, Any]) -> str:
    """Returns the prohibitions that were lost, in red, because nothing else that was kept makes up for them."""
    lost = [x for x in evidence.get("gate", {}).get("lost", ()) if x["kind"] == FactKind.PROHIBITION]
    if not lost:
        return ""
    items = "".join(f"<li>{_link(x)} <code>{text(x['text'])}</code></li>" for x in lost)
    what = "a prohibition" if len(lost) == 1 else f"{len(lost)} prohibitions"
    return f'<div class="alarm"><p>This context lost {what} of the user:</p><ul>{items}</ul></div>'


def _jump(fate: Sequence[Fate]) -> str:
    """Returns a link to the first loss, which leads to the next one."""
    if Fate.LOST not in fate:
        return ""
    return '<p><a href="#loss-1">Jump to the first loss</a>; each loss is a link to the next.</p>'


def _link(loss: Mapping[str, Any]) -> str:
    turn = int(loss["turn"]) + 1  # stored from 0
    return f'<a href="#turn-{turn}">turn {turn}</a>'


def _turns(rendered: RenderedSession, fate: Sequence[Fate]) -> Iterable[str]:
    ends = (*rendered.offsets, len(rendered.text))
    losses, named = 0, set[int]()
    for (turn, kind), blocks in groupby(rendered.blocks, key=lambda b: (b.origin.turn, b.kind)):
        spans = [b.origin.tokens for b in blocks]
        first, last = spans[0][0], spans[-1][1]
        parts = []
        for f, group in groupby(range(first, last), key=lambda i: fate[i]):
            run = list(group)
            words = text(rendered.text[ends[run[0]] : ends[run[-1] + 1]])
            if f is Fate.LOST:
                losses += 1
                parts.append(f'<a class="{f}" id="loss-{losses}" href="#loss-{losses + 1}">{words}</a>')
            else:
                parts.append(f'<span class="{f}">{words}</span>')
        anchor = "" if turn in named else f' id="turn-{turn + 1}"'
        named.add(turn)
        head = f"<section{anchor}><h2>turn {turn + 1} · {text(kind.value)}</h2>"
        yield f"{head}<pre>{''.join(parts)}</pre></section>"


def _facts(evidence: Mapping[str, Any]) -> str:
    """Returns the table of facts, and every loss with a link to its turn."""
    gate = evidence.get("gate")
    if not gate:
        return "<p>What this context lost was not measured: it was made without the gate, or tightened since.</p>"
    head = "<tr><th>kind</th><th>found</th><th>kept</th><th>repaired</th><th>lost</th></tr>"
    rows = "".join(
        f"<tr><td>{text(kind)}</td>"
        + "".join(f"<td>{text(str(n[c]))}</td>" for c in ("found", "kept", "repaired", "lost"))
        + "</tr>"
        for kind, n in sorted(gate["atoms"].items())
    )
    losses = "".join(
        f"<li>{_link(x)} {text(x['kind'])} <code>{text(x['text'])}</code> ({x['nats']:.1f} nats)</li>"
        for x in sorted(gate["lost"], key=lambda x: -x["nats"])
    )
    skills = gate.get("skills") or {}
    control = (
        f"<p>Unrelated control: {skills['full']:.2f} nats a token over the full memory, {skills['compact']:.2f} over "
        "the compact one.</p>"
        if skills
        else ""
    )
    return f"<table>{head}{rows}</table>{control}<details><summary>What was lost</summary><ul>{losses}</ul></details>"


def _paint(out: list[Fate], spans: Iterable[Sequence[int]], fate: Fate) -> None:
    for first, last in spans:
        start, stop = max(first, 0), min(last, len(out))
        out[start:stop] = [fate] * max(0, stop - start)
