"""`holdfast compact --text`: a session rewritten as text, in the format that it came from. Loads no model library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli import console, outputs
from holdfast.errors import BadOption, Failed
from holdfast.facts.notes import NOTES_WRITER as SUMMARY
from holdfast.facts.session_facts import Fact
from holdfast.gate.text.gate import TextReport
from holdfast.methods.registry import build_text
from holdfast.text.file_log import compact_file
from holdfast.text.rewrite import Rewritten, TextPlan

if TYPE_CHECKING:
    from holdfast.engine.routing import RoutedChat

SHOWN = 8  # facts or sentences that are told without being asked for
DEFAULT_KEEP_RECENT = 3


@dataclass(frozen=True)
class Job:
    """One call of the command."""

    file: Path
    output: Path
    plan: TextPlan
    lenient: bool = False
    as_json: bool = False
    config: Path | None = None
    """Where the models stand; None for the user's own file."""
    force: bool = False


def plan_of(
    method: str, budget: int | None, ratio: float | None, keep_recent: int | None, gate: tuple[bool, bool, float]
) -> TextPlan:
    """The plan of the command's options; `gate` is whether it is on, strict, and how far it may go over."""
    if budget is None and ratio is None:
        raise BadOption("--text needs --budget in tokens or --ratio, e.g. --ratio 5")
    recent = DEFAULT_KEEP_RECENT if keep_recent is None else keep_recent
    return TextPlan(method, budget, ratio, recent, *gate)


def compact_text(job: Job) -> None:
    """Rewrite a session file, into another or in place, and say what became of its facts. `undo` takes it back."""
    build_text(job.plan.method)
    same = job.output.resolve() == job.file.resolve()  # another name of the file would not be written
    if not same:
        outputs.check_output(job.output, job.file, force=job.force)
    chat = chat_of(job.plan.method, job.config)
    output = None if same else job.output
    made = compact_file(job.file, job.plan, output, chat, lenient=job.lenient, force=job.force)
    done = made.rewritten
    if job.as_json:
        console.emit({"output": str(job.output), **evidence(done), "usd_of_compactor": _money(chat, done)})
    else:
        _print(done)
        unchanged = same and made.event is None
        console.line(f"{job.output} {'stays as it is' if unchanged else 'written'}")


def _money(chat: RoutedChat | None, done: Rewritten) -> float | None:
    """USD of what the compactor was asked; None where its prices are not known."""
    if not chat or not done.replies:
        return 0.0
    from holdfast.cost.prices import route_prices
    from holdfast.cost.usage import Usage

    try:
        prices = route_prices(chat.route)
    except (BadOption, Failed):  # an own endpoint's model, or no price library: the tokens are told all the same
        return None
    return sum(prices.money(Usage(input=reply.tokens_in, output=reply.tokens_out)) for reply in done.replies)


def chat_of(method: str, config: Path | None) -> RoutedChat | None:
    """The model of holdfast.toml, where the method asks one."""
    if method.partition(":")[0] != SUMMARY:
        return None
    from holdfast.engine.routing import Task, chat_for

    return chat_for(Task.COMPACTOR, config)


def evidence(done: Rewritten) -> dict[str, Any]:
    """What a rewrite did, for scripts."""
    return {
        "method": done.method,
        "tokens_before": done.tokens_before,
        "tokens": done.tokens,
        "budget": done.budget,
        "seconds": round(done.seconds, 3),
        "turns_before": len(done.draft.raw.turns),
        "turns": len(done.draft.pieces),
        "tokens_of_compactor": sum(reply.tokens_in + reply.tokens_out for reply in done.replies),
        "notes": list(done.notes),
        **({"gate": done.report.as_evidence()} if done.report else {}),
    }


def _print(done: Rewritten) -> None:
    console.line(
        f"  {done.tokens_before:,} tokens -> {done.tokens:,} of {done.budget:,} "
        f"({done.tokens_before / max(done.tokens, 1):.1f}x smaller, {len(done.draft.raw.turns)} turns -> "
        f"{len(done.draft.pieces)}); {done.method or 'left as it is'}, {done.seconds:.1f} s"
    )
    if done.report:
        _print_report(done.report)
    for note in done.notes:
        console.line(f"  note      {note}")


def _print_report(report: TextReport) -> None:
    told = {what: report.total(what) for what in ("live", "kept", "restored", "lost", "superseded")}
    console.line(
        f"  gate      {told['live']} facts in what was compacted: {told['kept']} kept, {told['restored']} put back "
        f"({report.section:,} tokens), {told['lost']} lost; {told['superseded']} superseded; "
        f"{len(report.struck)} sentences struck"
    )
    for struck in report.struck[:SHOWN]:
        console.line(f"    struck  {_short(struck.sentence)!r}: {struck.reason}")
    for fact in report.lost[:SHOWN]:
        console.line(f"    lost    {_fact(fact)}")
    if len(report.lost) > SHOWN:
        console.line(f"    … and {len(report.lost) - SHOWN} more: --json lists them")


def _fact(fact: Fact) -> str:
    return f"{fact.kind.value:<11} {_short(fact.text)!r} of turn {fact.turn + 1} ({fact.speaker.value})"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
