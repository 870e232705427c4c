"""The agent: ask the model, run what it calls, show it the result, until it hands the work in or a limit is reached.

    run = run_agent("Make the tests pass", "project", model, "tiered@4")
    print(run.status, run.text, run.account.money)

Every event is logged before what follows from it happens (`trajectory.py`), and the state of a run is its log, applied
(`state.py`): a killed run goes on from there when it is started again with the same folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.agent.call_syntax import CallSyntax, read_arguments
from holdfast.agent.contexts import Context
from holdfast.agent.control import ContextFull, FormatError, ModelLost, RunEnd, TaskDone, UserStop
from holdfast.agent.hooks import Approve, Inbox, Report
from holdfast.agent.limits import Limits
from holdfast.agent.models import AgentModel, ModelAnswer
from holdfast.agent.profiles import Profile
from holdfast.agent.state import AgentRun, RunState
from holdfast.agent.tools import Observation, run_tool
from holdfast.agent.trajectory import Trajectory
from holdfast.agent.workplace import Workplace
from holdfast.errors import Failed, TooLarge
from holdfast.transcript.turn import Role, ToolCall, Turn
from holdfast.transcript.turn_rows import encode_turn

INTERRUPTED = (
    "Interrupted: the run was stopped while this was being done, and nobody saw the result. It may have taken effect "
    "wholly, in part or not at all. It was not done again; look before you repeat it."
)
EMPTY = "(no answer)"


@dataclass
class Agent:
    """One run: its parts, and its log."""

    model: AgentModel
    profile: Profile
    syntax: CallSyntax
    context: Context
    place: Workplace
    limits: Limits
    trajectory: Trajectory
    approve: Approve | None = None
    report: Report | None = None
    inbox: Inbox | None = None

    @property
    def state(self) -> RunState:
        return self.trajectory.state

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """The tools as the API takes them; none where calls travel as text."""
        return [] if self.syntax.in_text else [tool.definition() for tool in self.profile.tools]

    def run(self) -> AgentRun:
        """Runs to an end. Raises OSError if the log cannot be written; the run can then be resumed."""
        try:
            while True:
                self.step()
        except RunEnd as end:
            state = self.trajectory.record("end", status=end.status, text=end.text)
        except KeyboardInterrupt:
            state = self.trajectory.record("end", status=UserStop.status, text="interrupted; the run can be resumed")
        self.trajectory.save()
        return AgentRun(
            state.status,
            state.text,
            state.account,
            state.steps,
            state.compactions,
            state.turns,
            self.trajectory.folder,
        )

    def step(self) -> None:
        """Runs the next call that waits, or asks the model. Raises RunEnd."""
        if self.state.submission is not None:
            raise TaskDone(self.state.submission)
        if self.state.pending:
            self.act(self.state.pending[0])
        else:
            self.limits.check(self.state.account, self.state.steps, self.state.format_errors)
            for words in self.inbox() if self.inbox else ():
                self.trajectory.record("turn", turn=encode_turn(Turn(Role.USER, words)))
            self.ask()
        self.trajectory.save()

    def ask(self) -> None:
        """Asks the model, and logs its answer with what is wrong with it."""
        self.tell("asks")
        given = self.query()
        turn, problem, done = self.read(given)
        fields = {"problem": problem} if problem else {}
        if done is not None:
            fields["submission"] = done
        money = self.model.prices.money(given.usage) if self.model.prices else 0.0
        self.trajectory.record(
            "answer",
            turn=encode_turn(turn),
            usage=vars(given.usage),
            money=money,
            seconds=given.seconds,
            cut=given.cut,
            **fields,
        )

    def query(self) -> ModelAnswer:
        """Returns the model's answer. A history that it cannot read is compacted once more, then the run stops."""
        for force in (self.state.asks_compaction, True):
            turns = self.syntax.send(self.prepare(force))
            began = time.perf_counter()
            try:
                given = self.model.answer(
                    turns, self.definitions, self.limits.answer_tokens, self.limits.answer_seconds
                )
                return given if given.seconds else replace(given, seconds=time.perf_counter() - began)
            except TooLarge as error:
                reason = str(error)
            except Failed as error:
                raise ModelLost(f"{error}. The run can be resumed") from error
        raise ContextFull(
            f"{reason}; compacting ({self.context.spec}) did not help. Resume with another context or model"
        )

    def prepare(self, force: bool) -> Sequence[Turn]:
        """Returns the history to send; what a compaction changed is logged first."""
        view = self.state.view
        prepared = self.context.prepare(view, force)
        if prepared.failure:
            self.tell(f"could not compact: {prepared.failure}")
        if prepared.compaction:
            places = {id(turn): at for at, turn in enumerate(view)}
            sent = [places[id(turn)] if id(turn) in places else encode_turn(turn) for turn in prepared.turns]
            self.trajectory.record("compaction", view=sent, forced=force, **prepared.compaction.row())
        return prepared.turns

    def read(self, given: ModelAnswer) -> tuple[Turn, str, str | None]:
        """Returns the turn of an answer, what is wrong with it, and the words with which it ends the work."""
        said = replace(given.turn, calls=()) if given.cut else given.turn
        blank = replace(said, text=said.text or EMPTY)
        if given.cut:
            return (
                blank,
                (
                    f"Your answer was cut at {given.usage.output or self.limits.answer_tokens} tokens, before it was "
                    "complete. Nothing of it was run. Say less, and do the work in smaller steps."
                ),
                None,
            )
        try:
            turn = self.syntax.parse(said, self.profile.tools, f"call_{self.state.steps + 1}_")
        except FormatError as error:
            return blank, str(error), None
        if turn.calls:
            return turn, "", None
        if self.profile.answer_ends and said.text.strip():
            return turn, "", said.text.strip()
        return blank, "Your answer holds no call of a tool. Go on with the task, or hand it in as you were told.", None

    def act(self, call: ToolCall) -> None:
        """Runs one call and logs its observation. A call whose result was lost in a crash is not run again."""
        if call.id in self.state.started:
            self.observe(call, Observation(INTERRUPTED, True))
            return
        tool = self.profile.tool(call.name)
        try:
            arguments = read_arguments(call, tool, self.profile.tools)
        except FormatError as error:
            self.observe(call, Observation(str(error), True), malformed=True)
            return
        assert tool is not None
        if self.approve and (words := self.approve(call)):
            self.observe(call, Observation(f"The user did not allow this: {words}", True))
            return
        self.tell(f"runs {call.name}")
        self.trajectory.record("intent", call=call.id)
        self.observe(call, run_tool(tool, arguments, self.place))

    def observe(self, call: ToolCall, seen: Observation, malformed: bool = False) -> None:
        """Logs the result of a call."""
        turn = Turn(Role.TOOL, seen.text, call_id=call.id, is_error=seen.is_error)
        fields = dict(seen.fields) | ({"malformed": True} if malformed else {})
        if seen.submission is not None:
            fields["submission"] = seen.submission
        self.trajectory.record("observation", turn=encode_turn(turn), **fields)

    def tell(self, what: str) -> None:
        """Tells whoever watches what comes next."""
        if self.report:
            self.report(self.state, what)
