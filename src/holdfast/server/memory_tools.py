"""A host whose model can search its own past: memory tools are added to requests, and their calls answered here.

It stands between the wires and a host and is itself a host: what a wire sees is one answer, whatever was looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from holdfast.errors import BadOption, Missing
from holdfast.recall.hidden_rounds import HiddenRounds
from holdfast.recall.notes import NoteFile, Notes, note_name
from holdfast.recall.past import CompactionRecord, LostFact, Past
from holdfast.recall.tools import TOOL_NAMES, TOOLS, Indexes, Toolbox
from holdfast.server.protocol import (
    AnswerEnd,
    AnswerStart,
    FinishReason,
    GenerateOutput,
    GenerateRequest,
    Host,
    ToolCallDelta,
)
from holdfast.transcript.turn import Role, ToolCall, Turn

MOST_ROUNDS = 8
"""Rounds of memory calls in one answer; behind them the model goes on without the tools' results."""
FUNCTIONS = tuple(
    {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.schema()}}
    for t in TOOLS
)


def with_memory_tools(host: Host, notes: Path) -> Host:
    """Returns the host with memory tools; `notes` is the folder of notes, which exists.

    Raises BadOption if the model's chat template shows no tools.
    """
    if not host.shows_tools:
        raise BadOption(
            f"--memory-tools: the chat template of {host.model} shows no tools to the model; choose a model that calls "
            "tools, or leave the option out"
        )
    return cast(Host, MemoryHost(host, notes))


class MemoryHost:
    """A host that answers calls of memory tools by itself. All else is the inner host's."""

    def __init__(self, host: Host, notes: Path) -> None:
        self._host, self._notes = host, notes
        self._hidden, self._indexes = HiddenRounds(), Indexes()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def count(self, ask: GenerateRequest) -> int:
        """Counts as `Host.count` says, with the tools."""
        return self._host.count(self._extend(ask))

    def complete(self, ask: GenerateRequest) -> Iterator[GenerateOutput]:
        """Yields as `Host.complete` says; calls of memory tools are answered and not shown.

        The prompt's tokens in the usage are those of the last round, so that a client that watches them sees what fills
        the window; the answer's are those of all rounds.
        """
        if ask.prompt is not None or any(_name(tool) in TOOL_NAMES for tool in ask.tools):
            yield from self._host.complete(ask)
            return
        answer = _Answer(self._extend(ask))
        while True:
            yield from answer.pass_on(self._host.complete(answer.ask))
            if not answer.go_on(self._results(ask, answer)):
                break
        end = answer.visible_end()
        if answer.behind:
            self._hidden.note(ask.key, ask.turns[-1] if ask.turns else None, end.turn, answer.behind)
        yield end

    def _extend(self, ask: GenerateRequest) -> GenerateRequest:
        return replace(ask, turns=self._hidden.reveal(ask.key, ask.turns), tools=(*ask.tools, *FUNCTIONS))

    def _results(self, ask: GenerateRequest, answer: _Answer) -> tuple[Turn, ...]:
        source = HostSource(self._host, ask.key, answer.session, ask.turns, self._notes)
        box = Toolbox(source, self._indexes)
        calls = answer.memory_calls
        return tuple(Turn(Role.TOOL, box.answer(call.name, call.arguments), call_id=call.id) for call in calls)


@dataclass
class _Answer:
    """One answer over its rounds."""

    ask: GenerateRequest
    """The request of the round."""
    behind: list[Turn] = field(default_factory=list)
    """The turns of the rounds so far, which the client does not see; the last answer among them at the end."""
    session: str = ""
    _ends: list[AnswerEnd] = field(default_factory=list)

    @property
    def memory_calls(self) -> tuple[ToolCall, ...]:
        """The calls of memory tools in the last round."""
        return tuple(call for call in self._ends[-1].turn.calls if call.name in TOOL_NAMES)

    def pass_on(self, events: Iterator[GenerateOutput]) -> Iterator[GenerateOutput]:
        """Yields the events of a round that the client sees."""
        for event in events:
            if isinstance(event, AnswerEnd):
                self._ends.append(event)
            elif isinstance(event, AnswerStart):
                self.session = event.session
                if not self._ends:
                    yield event
            elif not (isinstance(event, ToolCallDelta) and event.call.name in TOOL_NAMES):
                yield event

    def go_on(self, results: Sequence[Turn]) -> bool:
        """Takes up the results of the last round; returns True if there is another round."""
        end = self._ends[-1]
        if not results:
            self.behind += [end.turn] if self.behind else []
            return False
        self.behind += (end.turn, *results)
        if len(results) < len(end.turn.calls) or len(self._ends) > MOST_ROUNDS:
            return False  # the client's own calls come first; it sends their results, and finds ours beside them
        left = None if self.ask.max_tokens is None else max(1, self.ask.max_tokens - end.completion_tokens)
        self.ask = replace(self.ask, turns=(*self.ask.turns, end.turn, *results), max_tokens=left)
        return True

    def visible_end(self) -> AnswerEnd:
        """Returns the end of the answer as the client sees it."""
        last = self._ends[-1]
        turns = [end.turn for end in self._ends]
        calls = tuple(call for call in last.turn.calls if call.name not in TOOL_NAMES)
        turn = replace(
            last.turn,
            text="".join(turn.text for turn in turns),
            reasoning="".join(turn.reasoning for turn in turns),
            calls=calls,
        )
        reason: FinishReason = "stop" if last.reason == "tool_calls" and not calls else last.reason
        tokens = sum(end.completion_tokens for end in self._ends)
        looked_up = sum(call.name in TOOL_NAMES for turn in turns for call in turn.calls)
        extension = {**last.extension, "memory_calls": looked_up} if looked_up else last.extension
        return replace(last, turn=turn, reason=reason, completion_tokens=tokens, extension=extension)


@dataclass(frozen=True)
class HostSource:
    """The session of a request, and the others of its key."""

    host: Host
    key: str
    session: str
    turns: tuple[Turn, ...]
    """The history as the client sent it."""
    folder: Path
    """Of notes."""

    def sessions(self) -> Sequence[str]:
        others = [row["id"] for row in self.host.sessions(self.key) if row["id"] != self.session]
        return [self.session, *others]

    def past(self, session: str) -> Past:
        self._check(session)
        detail = self.host.session(session, self.key)
        turns = self.turns if session == self.session else self._read_turns(session, detail["turns"])
        facts = (fact for fact in detail.get("facts", ()) if fact["fate"] == "lost")
        lost = tuple(LostFact(fact["kind"], fact["text"], fact["turn"]) for fact in facts)
        record = CompactionRecord("the server", detail["tokens"], detail["slots"], lost, unit="slots")
        return Past(session, turns, None, (record,) * detail["compactions"])

    def notes(self, session: str) -> Notes:
        self._check(session)
        return NoteFile(self.folder / f"{note_name(self.key, self.past(session).turns)}.notes")

    def compact(self, session: str, tokens: int | None) -> str:
        self._check(session)
        row = self.host.compact(session, self.key, {"slots": tokens} if tokens else {})
        return f"compacted: {row['tokens']:,} tokens of history are held in {row['slots']:,} slots now"

    def _check(self, session: str) -> None:
        if session not in self.sessions():
            raise Missing(
                f"there is no session {session[:80]!r} of this key; context_status names those that there are"
            )

    def _read_turns(self, session: str, count: int) -> tuple[Turn, ...]:
        rows = [self.host.expand(session, self.key, number) for number in range(1, count + 1)]
        return tuple(
            Turn(
                Role(row["role"]),
                row["text"],
                row["reasoning"],
                tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in row["calls"]),
                row["call_id"],
                row["is_error"],
            )
            for row in rows
        )


def _name(tool: Any) -> str:
    return str(tool.get("function", {}).get("name", ""))
