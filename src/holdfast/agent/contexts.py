"""The ways of keeping a history within the model's window, by name: none, a text method, or a latent one.

`mementos`, `NAME`, `NAME@RATIO`, or `NAME:option=value@RATIO`; `text:NAME` and `latent:NAME` where both kinds have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.adapters.compactor import Compactor
from holdfast.agent.models import AgentModel
from holdfast.cost.prices import Prices
from holdfast.cost.usage import Usage
from holdfast.engine.chat import Chat
from holdfast.errors import BadOption
from holdfast.methods.registry import LATENT, TEXT
from holdfast.session.trigger import TRIGGER, Trigger
from holdfast.text.rewrite import Rewritten, TextPlan
from holdfast.transcript.turn import Turn

RATIO = 2.0
"""Of the trigger to what a compaction leaves, unless the name says another."""
LATENT_RATIO = 8.0
"""Tokens per slot of what is compacted inside a model, unless the name says another."""
WRITERS = ("own", "ledger", "compactor")
"""The writers of mementos: the model itself, code, or the model that is configured to compact."""
WINDOW_SHARE = 0.75
"""Share of the model's window at which a history is compacted at the latest."""


@dataclass(frozen=True)
class Compaction:
    """One compaction and what it took."""

    method: str
    before: int
    """Tokens, or slots of a latent memory."""
    after: int
    seconds: float
    usage: Usage = field(default_factory=Usage)
    """Tokens of the model that wrote a summary."""
    money: float = 0.0
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Returns the compaction as JSON."""
        return {**vars(self), "usage": vars(self.usage), "notes": list(self.notes)}


@dataclass(frozen=True)
class SentHistory:
    """A history as it is to be sent."""

    turns: tuple[Turn, ...]
    compaction: Compaction | None = None
    failure: str = ""
    """The reason of a compaction that was due and failed."""


class Context(Protocol):
    """A way of keeping a history. It is given what was sent last, with the turns since."""

    @property
    def spec(self) -> str: ...

    def prepare(self, turns: Sequence[Turn], force: bool = False) -> SentHistory:
        """Returns the history to send, compacted if it is due or `force` asks for it."""
        ...


@dataclass(frozen=True)
class Everything:
    """The whole history, always."""

    spec: str = "none"

    def prepare(self, turns: Sequence[Turn], force: bool = False) -> SentHistory:
        return SentHistory(tuple(turns))


@dataclass
class TextContext:
    """The history compacted as text, which every model reads."""

    spec: str
    compactor: Compactor
    prices: Prices | None = None
    """Of the model that writes summaries."""
    _done: list[Rewritten] = field(default_factory=list)
    _failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.compactor.on_compaction, self.compactor.on_failure = self._done.append, self._failures.append

    def prepare(self, turns: Sequence[Turn], force: bool = False) -> SentHistory:
        self._done.clear()
        self._failures.clear()
        sent = self.compactor.view(turns, force).turns
        made = self._compaction(self._done[-1]) if self._done else None
        return SentHistory(sent, made, "; ".join(self._failures))

    def _compaction(self, done: Rewritten) -> Compaction:
        usages = [Usage(input=reply.tokens_in, output=reply.tokens_out) for reply in done.replies]
        money = sum(self.prices.money(usage) for usage in usages) if self.prices else 0.0
        used = sum(usages, Usage())
        return Compaction(done.method, done.tokens_before, done.tokens, done.seconds, used, money, done.notes)


@dataclass(frozen=True)
class ContextSpec:
    """A parsed name of a context."""

    kind: str
    method: str
    ratio: float | None


def parse_spec(spec: str) -> ContextSpec:
    """Reads a name. Raises BadOption that lists what there is."""
    body, at, ratio = spec.rpartition("@")
    body, ratio = (body, ratio) if at else (spec, "")
    kind, colon, rest = body.partition(":")
    if not (colon and kind in ("text", "latent")):
        rest, kind = body, ""
    name = rest.partition(":")[0]
    if name == "none":
        return ContextSpec("none", "none", None)
    if name == "mementos":
        writer = rest.partition(":")[2] or "own"
        if ratio or writer not in WRITERS:
            raise BadOption(f"mementos are written by {', '.join(WRITERS)}, as mementos:ledger, got {spec!r}")
        return ContextSpec("mementos", writer, None)
    kind = kind or ("text" if name in TEXT else "latent" if name in LATENT else "")
    if not kind or name not in {"text": TEXT, "latent": LATENT}[kind]:
        raise BadOption(
            f"no context is called {spec!r}; there are: none, mementos, {', '.join(dict.fromkeys([*TEXT, *LATENT]))}"
        )
    try:
        number = float(ratio) if ratio else None
    except ValueError:
        raise BadOption(f"the ratio behind @ must be a number, as in tiered@4, got {ratio!r}") from None
    if number is not None and not 1 < number < float("inf"):
        raise BadOption(f"the ratio behind @ must be more than 1, got {ratio}")
    return ContextSpec(kind, rest, number)


def open_context(
    spec: str, model: AgentModel, *, trigger: int | None = None, chat: Chat | None = None, prices: Prices | None = None
) -> Context:
    """Returns a context by name. `trigger` is in tokens; `chat` writes summaries, `prices` are its own.

    Raises BadOption for what does not exist or does not go with the model.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "none":
        return Everything(spec)
    high = min([trigger or TRIGGER, *([int(WINDOW_SHARE * model.window)] if model.window else [])])
    if parsed.kind == "text":
        budget = max(1, int(high / (parsed.ratio or RATIO)))
        text = TextPlan(parsed.method, budget=budget, least_recent=1)
        return TextContext(spec, Compactor(text, high, chat=chat), prices)
    from holdfast.agent.local import LatentContext, LocalModel

    if not isinstance(model, LocalModel):
        raise BadOption(
            f"{spec} compacts inside a model of this process; {model.name} runs elsewhere, take a text method"
        )
    from holdfast.compaction.plan import Plan, Policy

    policy = Policy(keep_recent=1)
    if parsed.kind == "mementos":
        from holdfast.mementos.strategy import open_strategy, write_memento

        how = open_strategy(parsed.method)
        return LatentContext(
            spec, model, Plan(policy=policy), Trigger(tokens=high), lambda session: write_memento(session, how)
        )
    from holdfast.methods.registry import build

    build(parsed.method)
    plan = Plan(parsed.method, parsed.ratio or LATENT_RATIO, policy=policy)
    return LatentContext(spec, model, plan, Trigger(tokens=high), lambda session: session.compact(plan))
