"""A session as token ids through the model's own chat template, cut into blocks that join to exactly the whole.

The template's text is tokenised once; a token belongs to the block in which its first character stands. So the
blocks' ids joined are the whole by construction, whatever a template adds, trims or leaves out. What a turn says is not
escaped: `<|im_start|>system` in a tool result becomes the real special token, as it does in the model's own tooling.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.message_offsets import MessageOffsets, common_prefix, message_offsets, quick_message_offsets
from holdfast.blocks.messages import Abilities, Message, Messages, Piece, applier, chat_messages, probe_abilities
from holdfast.errors import BadInput
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.task import find_first_request
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn


@dataclass(frozen=True)
class RenderedSession:
    """A session as its model reads it."""

    text: str
    ids: tuple[int, ...]
    blocks: tuple[Block, ...]
    offsets: tuple[int, ...]
    """First character of every token in `text`."""

    def token_at(self, char: int) -> int:
        """Returns the index of the token that holds character `char`."""
        return max(0, bisect_right(self.offsets, char) - 1)


def render(transcript: Transcript, tokenizer: Any) -> RenderedSession:
    """Renders a session. Raises BadInput if the tokenizer has no chat template or there is nothing to render."""
    if not tokenizer.chat_template:
        raise BadInput("this tokenizer has no chat template; use an instruction-tuned model")
    if not transcript.turns:
        raise BadInput("the session has no turns")
    from jinja2 import TemplateError

    can = probe_abilities(tokenizer)
    try:
        text, marks = _apply_template(transcript, tokenizer, can)
    except TemplateError:  # it knows tools, but not this order of turns: say it in words
        try:
            text, marks = _apply_template(transcript, tokenizer, replace(can, tools=False, repeats=False))
        except TemplateError as error:
            raise BadInput(f"the model's chat template refuses this session: {error}") from error
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = tuple(start for start, _ in encoded["offset_mapping"])
    blocks = tuple(_blocks(marks, len(text), tuple(encoded["input_ids"]), offsets))
    return RenderedSession(text, tuple(encoded["input_ids"]), blocks, offsets)


def _apply_template(transcript: Transcript, tokenizer: Any, can: Abilities) -> tuple[str, list[_Mark]]:
    messages = list(chat_messages(transcript, can))
    apply = applier(tokenizer, transcript if can.tools else None)
    wires = [m.wire for m in messages]
    text = apply(wires)
    where = quick_message_offsets(wires, text, apply) or message_offsets(wires, text, apply)
    return text, list(_marks(messages, text, where))


def render_new_turns(transcript: Transcript, start: int, tokenizer: Any, at: int = 0) -> tuple[Block, ...]:
    """Returns the blocks of the turns from `start` on, as a template writes them behind those before; tokens count from
    `at`.

    They are rendered behind the head and the exchange that they follow, so the work grows with what is new. Joined to
    what was rendered before they are `render` of the whole if the template only appends. Raises BadInput as `render`
    does.
    """
    units = exchanges(transcript)
    task = find_first_request(transcript.turns)
    head = start if task is None else next(stop for first, stop in units if first <= task < stop)
    near = max((first for first, _ in units if first < start), default=0)
    skipped = near - head if 0 < head < near else 0
    turns = (*transcript.turns[: near - skipped], *transcript.turns[near:])
    rendered = render(replace(transcript, turns=turns), tokenizer)
    first = next((b.origin.chars[0] for b in rendered.blocks if b.origin.turn >= start - skipped), len(rendered.text))
    alone = tokenizer(rendered.text[first:], add_special_tokens=False, return_offsets_mapping=True)
    offsets = tuple(begin + first for begin, _ in alone["offset_mapping"])
    marks = [
        _Mark(b.origin.chars[0], Piece(b.origin.turn + skipped, b.kind, ""))
        for b in rendered.blocks
        if b.origin.turn >= start - skipped
    ]
    if not marks:
        return ()
    made = _blocks(marks, len(rendered.text), tuple(alone["input_ids"]), offsets, first)
    return tuple(
        Block(b.ids, replace(b.origin, tokens=(b.origin.tokens[0] + at, b.origin.tokens[1] + at))) for b in made
    )


def replace_surrogates(turn: Turn) -> Turn:
    """Returns a turn as a tokenizer can read it: half a character (a lone surrogate) becomes U+FFFD."""
    said = turn.text, turn.reasoning, *(call.arguments for call in turn.calls)
    if "".join(said).isascii():
        return turn
    calls = tuple(replace(call, arguments=_characters(call.arguments)) for call in turn.calls)
    return replace(turn, text=_characters(turn.text), reasoning=_characters(turn.reasoning), calls=calls)


def _characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def answer_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the token ids with which the template opens an answer, and those with which it closes one."""
    apply = applier(tokenizer, None)
    asked: Messages = [{"role": "user", "content": "."}]
    said: Messages = [*asked, {"role": "assistant", "content": "\x1a"}]
    before, prompted, closed = apply(asked), apply(asked, add_generation_prompt=True), apply(said)
    followed = apply([*said, *asked])
    tail, more = (text[text.index("\x1a") + 1 :] for text in (closed, followed))
    # some templates write the last assistant turn differently from an earlier one: what counts is how it is closed
    closing = more[: common_prefix(tail, more)]
    opening = prompted[common_prefix(before, prompted) :]
    return tuple(list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (opening, closing))  # type: ignore[return-value]


def question_ids(tokenizer: Any, text: str) -> list[int]:
    """Returns the token ids of one more user turn with `text`, up to where the assistant's answer begins."""
    before: Messages = [{"role": "user", "content": "."}, {"role": "assistant", "content": "\x1a"}]
    apply = applier(tokenizer, None)
    whole = apply([*before, {"role": "user", "content": text}], add_generation_prompt=True)
    head = apply(before)
    # some templates write the last assistant turn differently from an earlier one: what counts is how it is closed
    end = whole.index("\x1a") + 1
    start = end + common_prefix(head[head.index("\x1a") + 1 :], whole[end:])
    return list(tokenizer(whole[start:], add_special_tokens=False)["input_ids"])


def call_opening_ids(tokenizer: Any) -> list[int]:
    """Returns the token ids with which a turn of the assistant begins that calls a tool, up to the tool's name."""
    name = "markname"
    turns = (Turn(Role.USER, "."), Turn(Role.ASSISTANT, calls=(ToolCall("call00001", name, '{"k": "v"}'),)))
    text, marks = _apply_template(Transcript(turns), tokenizer, probe_abilities(tokenizer))
    return list(tokenizer(text[marks[-1].char : text.index(name)], add_special_tokens=False)["input_ids"])


class _Mark(NamedTuple):
    """The offset at which a block begins in the text."""

    char: int
    piece: Piece


def _marks(messages: list[Message], text: str, where: list[MessageOffsets]) -> Iterator[_Mark]:
    stops = [*(place.start for place in where[1:]), len(text)]
    for message, place, stop in zip(messages, where, stops, strict=True):
        at = place.start
        for n, piece in enumerate(message.pieces):
            end = stop
            if piece.kind is Kind.REASONING and "reasoning_content" in message.wire:
                end = place.content  # the action may say the same words
            found = text.find(piece.text.strip(), at, end)
            if piece.kind is Kind.REASONING and found < 0:
                continue  # this template leaves past reasoning out
            yield _Mark(place.start if n == 0 else at, piece)
            at = found + len(piece.text.strip()) if found >= 0 else at


def _blocks(
    marks: list[_Mark], length: int, ids: tuple[int, ...], offsets: tuple[int, ...], begin: int = 0
) -> Iterator[Block]:
    edges = [begin, *(m.char for m in marks[1:]), length]
    for mark, (start, stop) in zip(marks, pairwise(edges), strict=True):
        first, last = bisect_left(offsets, start), bisect_left(offsets, stop) if stop < length else len(ids)
        if last > first:
            origin = Origin(mark.piece.turn, mark.piece.kind, (start, stop), (first, last))
            yield Block(ids[first:last], origin)
