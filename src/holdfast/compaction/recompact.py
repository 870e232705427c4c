"""Changes contexts after they were made: one is tightened, or several are joined. No session is read again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.compaction.compact import ROOM
from holdfast.context.budget import Budget, budget_from_ratio
from holdfast.context.compose import compose, context_bytes, count_source_tokens
from holdfast.context.recompact import find_cells, tighten
from holdfast.context.segments import CompactContext, StateSegment, TokenSegment
from holdfast.engine.kv_context import cast_to_model
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadContext, BadInput, BadOption
from holdfast.methods.registry import build
from holdfast.model.load import BASE_DTYPE, BASE_ITEMSIZE, Model, full_bytes
from holdfast.progress import Progress, quiet

STILL_TRUE = (
    *("tokens", "tokens_compacted", "tokens_left_out", "bytes_full", "base_bytes_full"),
    *("seconds_compact", "seconds_total", "session_digest"),
)
"""Evidence that another round leaves as it is. Anything else was measured on slots that may be gone."""


def recompact(
    context: CompactContext,
    engine: LocalEngine,
    *,
    ratio: float | None = None,
    slots: int | None = None,
    allocation: str = "",
    apart: bool = False,
    progress: Progress = quiet,
) -> CompactContext:
    """Returns the same context in fewer slots, chosen by what each was worth when it was kept; nothing is read again.

    Give either `ratio` (tokens per slot of everything compacted) or `slots` (per full-attention head, on average).
    `allocation` is how the method spread its budget unless it is given; `apart` keeps every segment's share of the
    slots instead of letting segments compete.

    Raises BadOption for more slots than are held, BadInput if the slots have no scores, and BadContext for another
    model's context.
    """
    if (ratio is None) == (slots is None):
        raise BadOption("give either a ratio or a number of slots")
    if allocation not in ("", "global", "layer", "head"):
        raise BadOption(
            f"allocation must be one of global, layer, head: what keeps its part of the slots; got {allocation!r}"
        )
    _check_model(context, engine.model)
    began = time.perf_counter()
    held = sum(len(cell.scores) for cell in find_cells(context.segments))
    pairs, asked = _budget_pairs(context, engine.model, ratio, slots, held)
    kind = allocation or _find_allocation(context.recipe)
    segments = tuple(tighten(context.segments, pairs, kind, apart=apart, progress=progress))
    after = replace(context, segments=segments)
    made = {**asked, "allocation": kind, "apart": apart}
    recipe = {**context.recipe, "rounds": [*context.recipe.get("rounds", ()), made]}
    evidence = _after_round(context, after, engine.model, held, pairs, time.perf_counter() - began)
    return replace(after, recipe=recipe, evidence=evidence)


def join(
    contexts: Sequence[CompactContext], engine: LocalEngine, *, drop_head: bool = False, progress: Progress = quiet
) -> CompactContext:
    """Joins contexts for this model, with their sizes. Raises BadInput if the whole is longer than the model reads."""
    made = compose(contexts, drop_head=drop_head, progress=progress)
    _check_model(made, engine.model)
    most = engine.model.max_tokens - ROOM
    if made.next_position > most:
        raise BadInput(
            f"together the contexts end at position {made.next_position}; {engine.model.name} reads {most} and a "
            "question; join fewer, or use a model with a longer context"
        )
    return add_sizes(made, engine.model)


def add_sizes(composed: CompactContext, model: Model) -> CompactContext:
    """Returns a composed context with its own sizes in the evidence, beside those of its parts."""
    seconds = sum(float(part.get("seconds_compact", 0)) for part in composed.evidence["parts"])
    own = {**count_sizes(composed, model), "seconds_compact": round(seconds, 3)}
    return replace(composed, evidence={**own, **composed.evidence})


def count_sizes(context: CompactContext, model: Model) -> dict[str, Any]:
    """Returns the sizes that a compaction reports, counted on the context itself."""
    segments = tuple(cast_to_model(s, model) if isinstance(s, StateSegment) else s for s in context.segments)
    held = replace(context, segments=segments)
    return {
        "tokens": context.next_position,
        "tokens_compacted": count_source_tokens([s for s in context.segments if not isinstance(s, TokenSegment)]),
        "bytes_full": full_bytes(model, context.next_position),
        "bytes": context_bytes(held, model.family, model.dtype.itemsize),
        "bytes_base": BASE_DTYPE,
        "base_bytes_full": full_bytes(model, context.next_position, BASE_ITEMSIZE),
        "base_bytes": context_bytes(held, model.family, BASE_ITEMSIZE),
    }


def _budget_pairs(
    context: CompactContext, model: Model, ratio: float | None, slots: int | None, held: int
) -> tuple[int, dict[str, float]]:
    """Returns the KV pairs of the full-attention layers to keep, and the request in the recipe's words."""
    heads = len(model.family.full) * model.family.kv_heads
    tokens = count_source_tokens([s for s in context.segments if isinstance(s, StateSegment)])
    if ratio is None:
        assert slots is not None
        if slots < 1:
            raise BadOption(f"slots must be at least 1, got {slots}")
        budget = Budget(slots)
    elif not tokens:
        raise BadInput("these slots do not say which tokens they stand for; give a number of slots, not a ratio")
    else:
        budget = budget_from_ratio(tokens, ratio)
    if budget.pairs(heads) > held:
        now = f"{held / heads:.6g} slots" + (f", a ratio of {tokens * heads / held:.6g}" if tokens and held else "")
        raise BadOption(
            f"what was dropped cannot come back: a head holds {now}; asked for {budget.slots} slots; give a higher "
            "ratio (fewer slots), or compact the session again"
        )
    return budget.pairs(heads), {"slots": budget.slots} if ratio is None else {"ratio": ratio}


def _find_allocation(recipe: Mapping[str, Any]) -> str:
    """Returns how the methods that made a context spread their budgets; one threshold if they did not agree."""
    parts = recipe.get("parts")
    if parts is not None:
        kinds = {_find_allocation(part["recipe"]) for part in parts}
        return kinds.pop() if len(kinds) == 1 else "global"
    try:
        method = build(str(recipe.get("latent", "")))
    except BadOption:  # made in Python, or by a method that is no longer there
        return "global"
    return str(getattr(method, "allocation", "global"))


def _after_round(
    before: CompactContext, after: CompactContext, model: Model, held: int, pairs: int, seconds: float
) -> dict[str, Any]:
    known = {name: value for name, value in before.evidence.items() if name in STILL_TRUE}
    known["seconds_compact"] = round(known.get("seconds_compact", 0.0) + seconds, 3)
    outdated = {name: value for name, value in before.evidence.items() if name not in (*STILL_TRUE, "rounds")}
    this = {"pairs": [held, pairs], "before": outdated}
    rounds = [*before.evidence.get("rounds", ()), this]
    return {**count_sizes(after, model), **known, "rounds": rounds}


def _check_model(context: CompactContext, model: Model) -> None:
    if context.model_digest not in ("", model.digest):
        raise BadContext(f"this context was made with another model than {model.name}; load that one")
