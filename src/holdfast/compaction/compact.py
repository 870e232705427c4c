"""Compacts a whole session inside the model: a transcript in, a compact context out, questions answered over it.

`plan.py` says what may be compacted and how, `partition.py` cuts a session into parts, `walk.py` compacts them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from holdfast.blocks.render import RenderedSession, question_ids, render
from holdfast.compaction.partition import parts
from holdfast.compaction.plan import Plan
from holdfast.compaction.walk import compact_parts
from holdfast.context import holdfast_file
from holdfast.context.segments import CompactContext
from holdfast.engine.local import LocalEngine, stream_text
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, BadOption
from holdfast.methods.base import prefill_progress
from holdfast.model.bundled_models import DEFAULT
from holdfast.model.load import load as load_model
from holdfast.progress import Progress, quiet
from holdfast.transcript.turn import Transcript

ROOM = 256  # tokens kept free behind a session for a question and its answer


def load(name: str = DEFAULT, *, dtype: str = "auto", device: str = "cpu", progress: Progress = quiet) -> LocalEngine:
    """Returns an engine for a bundled model, a local folder, a GGUF file or a Hugging Face id."""
    return LocalEngine(load_model(name, dtype=dtype, device=device, progress=progress))


def save(context: CompactContext, path: str | Path, engine: LocalEngine, progress: Progress = quiet) -> Path | str:
    """Writes a context to one file, or to any URL of fsspec."""
    return holdfast_file.save(context, path, engine.model, progress)


def restore(path: str | Path, engine: LocalEngine, progress: Progress = quiet) -> CompactContext:
    """Reads a context that was made with the same model. Raises BadContext for any other file."""
    return holdfast_file.load(path, engine.model, progress)


def compact(
    transcript: Transcript, engine: LocalEngine, plan: Plan | None = None, progress: Progress = quiet
) -> CompactContext:
    """Compacts a session for the engine's model.

    Raises BadInput for a session that cannot be rendered or is too long for the model, and BadOption for a plan that
    makes no sense.
    """
    plan = plan or Plan()
    rendered = render(transcript, engine.model.tokenizer)
    cut = parts(transcript, rendered, plan.policy)
    length, most = sum(map(len, cut)), engine.model.max_tokens - ROOM
    if length > most:
        raise BadInput(
            f"the session has {length} tokens; {engine.model.name} reads {most} and a question; use --window {most} "
            "(Policy.window), a model with a longer context, or --text tiered for the whole session"
        )
    made = compact_parts(cut, engine, plan, progress)
    told = {"tokens_left_out": len(rendered.ids) - length, "session_digest": session_digest(rendered)}
    return replace(made, evidence={**made.evidence, **told})


def session_digest(rendered: RenderedSession) -> str:
    """Returns a digest that tells whether a session is the one that a context was made from."""
    return hashlib.sha256(",".join(map(str, rendered.ids)).encode()).hexdigest()[:16]


def ask(
    context: CompactContext,
    engine: LocalEngine,
    question: str,
    limit: int = 128,
    sampling: Sampling | None = None,
    progress: Progress = quiet,
) -> Iterator[str]:
    """Answers a question over a context, piece by piece; the context is not changed.

    `progress` is told of the tokens that are read before the first piece, and of those of the answer.
    Raises BadInput if question and answer would go beyond what the model reads, BadOption for an answer of no token.
    """
    if limit < 1:
        raise BadOption(f"an answer needs a limit of at least 1 token, got {limit}")
    prompt = question_ids(engine.model.tokenizer, question)
    needed, most = context.next_position + len(prompt) + limit, engine.model.max_tokens
    if needed > most:
        raise BadInput(
            f"{context.next_position} positions, a question of {len(prompt)} tokens and an answer of up to {limit} "
            f"do not fit the {most} that {engine.model.name} reads"
        )
    live = engine.open(context, prefill_progress(progress))
    tokens = engine.generate(live, prompt, limit, sampling)
    yield from stream_text(_count_tokens(tokens, limit, progress), engine.model.tokenizer)


def _count_tokens(tokens: Iterable[int], limit: int, progress: Progress) -> Iterator[int]:
    progress("answer", 0, limit, "")
    for done, token in enumerate(tokens, 1):
        progress("answer", done, limit, "")
        yield token
