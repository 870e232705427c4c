"""Contexts one after another: the later ones move behind the earlier ones, by positions alone.

What this is not: reading the later session after the earlier one. States keep what they saw when they were computed, so
a later context's slots know nothing of what now stands before them; only its verbatim tokens, which are read again
when the context is opened, do. How much that costs is measured, never assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from holdfast.blocks.block import Kind
from holdfast.context.packing import where
from holdfast.context.segments import CompactContext, Segment, StateSegment, TokenSegment
from holdfast.context.surgery import shift_segment
from holdfast.errors import BadContext, BadInput
from holdfast.model.family import Family
from holdfast.progress import Progress, quiet, track


def compose(
    contexts: Sequence[CompactContext], *, drop_head: bool = False, progress: Progress = quiet
) -> CompactContext:
    """Joins contexts to one. `drop_head` leaves out the system prompt at the start of all but the first.

    The recipe lists the parts in order with their numbers of segments, so that every origin can be followed to its
    session. Raises BadInput for no context at all, and BadContext for contexts of different models.
    """
    if not contexts:
        raise BadInput("there is nothing to compose; give at least one context")
    digests = {c.model_digest for c in contexts} - {""}
    if len(digests) > 1:
        raise BadContext(f"these contexts were made with different models ({', '.join(sorted(digests))}); use one")
    segments: list[Segment] = []
    parts: list[dict[str, Any]] = []
    evidence: list[Any] = []
    end = 0
    for at, context in enumerate(track(contexts, "join", progress)):
        own, first = without_system_prompt(context) if drop_head and at else (list(context.segments), 0)
        segments += [shift_segment(segment, end - first) for segment in own] if end != first else own
        start, end = end, end + context.next_position - first
        if at == 0 and set(context.recipe) == {"parts"}:  # composed before, and nothing else: go on with its list
            parts, evidence = list(context.recipe["parts"]), list(context.evidence.get("parts", ()))
        else:
            parts.append({"segments": len(own), "positions": [start, end], "recipe": dict(context.recipe)})
            evidence.append(dict(context.evidence))
    return CompactContext(tuple(segments), end, {"parts": parts}, {"parts": evidence}, "".join(digests))


def without_system_prompt(context: CompactContext) -> tuple[list[Segment], int]:
    """Returns the segments without the system prompt that they begin with, and the position where the rest begins."""
    rest, first = list(context.segments), 0
    while rest and rest[0].origins and rest[0].origins[0].kind is Kind.SYSTEM:
        segment = rest.pop(0)
        system = list(takewhile(lambda o: o.kind is Kind.SYSTEM, segment.origins))
        if len(system) == len(segment.origins):
            first = int(segment.last_position) + 1
        elif isinstance(segment, TokenSegment):  # the system prompt and what else stays verbatim are one run
            count = sum(last - start for start, last in (o.tokens for o in system))
            first = int(segment.positions[count])
            rest.insert(0, TokenSegment(segment.ids[count:], segment.positions[count:], segment.origins[len(system) :]))
            break
        else:
            rest.insert(0, segment)  # states of system prompt and session together cannot be told apart
            break
    return rest, first


def context_bytes(context: CompactContext, family: Family, itemsize: int) -> int:
    """Returns the KV bytes of an opened context, without opening it, where a plain number takes `itemsize`.

    Sliding layers hold what the next token can still see.
    """
    total = 0
    for index, layer in enumerate(family.layers):
        oldest = float("-inf") if layer.window is None else context.next_position - layer.window
        for segment in context.segments:
            if isinstance(segment, StateSegment):
                slots = segment.layers[index]
                total += (slots if layer.window is None else where(slots, slots.positions > oldest)).nbytes_at(itemsize)
            else:
                seen = int((segment.positions > oldest).sum())
                total += 2 * seen * family.kv_heads * family.head_dim * itemsize
    return total


def count_source_tokens(segments: Sequence[Segment]) -> int:
    """Returns the tokens of the session that `segments` stand for, by their origins."""
    return sum(last - first for s in segments for first, last in (o.tokens for o in s.origins))
