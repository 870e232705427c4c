"""Mementos without training: at a boundary between exchanges a model is asked for one, and the block goes in place.

The memento is read behind all turns, over everything that it stands for, and only then the block leaves the memory: its
states keep what its words do not say. It is no turn: the client's history stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.config import describe_config_places
from holdfast.engine.routing import Task, chat_for_task
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.facts.session_facts import collect_facts
from holdfast.mementos.compress import (
    SMALLEST,
    CodeCompressor,
    Compressor,
    ModelCompressor,
    TraceBlock,
    check_share,
    describe_block,
)
from holdfast.mementos.traces import write_turn
from holdfast.session.events import MementoAdded
from holdfast.session.eviction import evict_blocks
from holdfast.session.session import Session
from holdfast.transcript.turn import Role, Transcript, Turn

SHARE = 0.2
"""Tokens of a memento for each token of its block."""
TITLE = "[memento of turns {first} to {last}, which are no longer here]"
_ASK = (
    "Before you go on: write down what later work needs of turns {first} to {last}, in at most {room} tokens. Only "
    "what stands there, literally: values, names, paths, commands with results, decisions, what is open. No prose."
)


class Writer(Protocol):
    """Writes the memento of a block of a live session."""

    @property
    def name(self) -> str: ...

    def write(self, session: Session, block: TraceBlock, turns: tuple[int, int], room: int) -> str:
        """Returns the memento in about `room` tokens; `turns` are the first and the last, counted from 1."""


@dataclass(frozen=True)
class OwnWriter:
    """The session's own model, asked on a fork: it still has the block in its memory, and reads nothing again."""

    name: str = "own"

    def write(self, session: Session, block: TraceBlock, turns: tuple[int, int], room: int) -> str:
        """Raises Failed for an empty answer, TooLarge where the model has no room for one."""
        ask = _ASK.format(first=turns[0], last=turns[1], room=room)
        text = "".join(session.ask(ask, limit=room + room // 2)).strip()
        if not text:
            raise Failed(f"{session.engine.model.name} wrote an empty memento; take the ledger, or another model")
        return text


@dataclass(frozen=True)
class OtherWriter:
    """Code alone, or another model with its judge."""

    compressor: Compressor

    @property
    def name(self) -> str:
        return self.compressor.name

    def write(self, session: Session, block: TraceBlock, turns: tuple[int, int], room: int) -> str:
        """Raises Failed where the model gives none."""
        return self.compressor.write(block)[0]


@dataclass(frozen=True)
class MementoStrategy:
    """The writer of mementos, and how long and how late they are."""

    writer: Writer
    share: float = SHARE
    """Tokens of a memento, as a share of its block's."""
    least: int = 200
    """Tokens of a block at least."""
    restart: bool = False
    """Read the memento and what stands behind the block again, once it is gone."""

    def __post_init__(self) -> None:
        check_share(self.share)


def open_strategy(writer: str, share: float = SHARE) -> MementoStrategy:
    """Returns the strategy with the writer `own`, `ledger`, or `compactor`: the route of holdfast.toml, judged by code.

    Raises BadOption if there is no such route.
    """
    if writer == "own":
        return MementoStrategy(OwnWriter(), share)
    if writer == "ledger":
        return MementoStrategy(OtherWriter(CodeCompressor(share)), share)
    chat = chat_for_task(Task.COMPACTOR)
    if chat is None:
        raise BadOption(f"no model writes mementos: add [routes.compactor] to {describe_config_places()}")
    return MementoStrategy(OtherWriter(ModelCompressor(chat, share=share)), share)


def write_memento(
    session: Session, how: MementoStrategy, why: str = "asked", recent: int | None = None
) -> Mapping[str, Any]:
    """Has the old exchanges noted and drops them; returns the event with sizes and the facts that were lost.

    Turns from `recent` on stay, by default those that the plan keeps; so does what the policy pins, and every memento.
    Raises BadInput if less than a block may go, and what the writer raises: the session is then as it was.
    """
    stop = session.recent if recent is None else recent
    cache = session.cache
    gone = [at for at in range(cache.tail, len(cache.blocks)) if _may_go(session, cache.blocks[at], stop)]
    tokens = sum(len(cache.blocks[at]) for at in gone)
    if tokens < how.least:
        raise BadInput(f"only {tokens} tokens may go, and a block has at least {how.least}; wait for more turns")
    turns = sorted({cache.blocks[at].origin.turn for at in gone})
    block = _describe(session, turns)
    room = max(SMALLEST, int(how.share * tokens))
    text = how.writer.write(session, block, (turns[0] + 1, turns[-1] + 1), room)
    memento = render_memento(session, text, turns)
    lost = [{"kind": fact.kind.value, "text": fact.text, "turn": fact.turn + 1} for fact in block.find_losses(text)]
    session.check_room(len(memento))
    session.record(MementoAdded.of(memento), cache.read((memento,)), {"text": text, "writer": how.writer.name})
    before = {"slots": round(session.cache.slots, 1), "bytes": session.cache.nbytes}
    told = {
        "before": before,
        "dropped": [list(cache.blocks[at].origin.tokens) for at in gone],
        "restart": how.restart,
        "memento": len(memento),
        "compacted": tokens,
        "facts": {"live": len(block.facts), "lost": lost},
    }
    return session.replace_memory(evict_blocks(session.cache, gone, restart=how.restart), told, why)


def render_memento(session: Session, text: str, turns: list[int]) -> Block:
    """Returns a memento as the template writes a message behind all turns, as a block of the newest one."""
    title = TITLE.format(first=turns[0] + 1, last=turns[-1] + 1)
    blocks = session.render_turns((Turn(Role.USER, f"{title}\n{text}"),))
    ids = tuple(token for block in blocks for token in block.ids)
    at = session.cache.tokens
    return Block(ids, Origin(len(session.turns) - 1, Kind.MEMENTO, (0, 0), (at, at + len(ids))))


def _may_go(session: Session, block: Block, stop: int) -> bool:
    return block.origin.turn < stop and block.kind is not Kind.MEMENTO and not session.stays(block)


def _describe(session: Session, turns: list[int]) -> TraceBlock:
    transcript = Transcript(session.turns)
    kept = set(range(len(session.turns))) - set(turns)
    text = "".join(write_turn(session.turns[at]) for at in turns)
    return describe_block(transcript, collect_facts(transcript), text, set(turns), kept)
