"""An item: a session in which three agreements are made early and long work follows, and the task at its end.

The same seed and size give the same item (on one version of Python, whose library is the work). Nothing in the session
says which of the three agreements the task will need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.families import FAMILIES
from holdfast.bench.keep.work import draw_work
from holdfast.errors import BadOption
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

SIZES = {"4k": 4096, "8k": 8192, "16k": 16384}
AGREEMENTS = 3
_EARLY = 0.4  # of the session, in which everything is agreed
_SYSTEM = (
    "You are a coding agent. You work in the user's project with the tools read_file, edit_line and run_command. What "
    "the user agrees with you holds until the end of the session."
)


@dataclass(frozen=True)
class Item:
    """One session and its task."""

    id: str
    seed: int
    tokens: int
    """Tokens that were asked for."""
    transcript: Transcript
    """The session up to the task, which is its last turn."""
    assignment: Assignment
    place: str
    """The place where the facts stand: `user` for the user's words, `file` for a file that the agent read."""
    depth: float
    """The share of the session behind which the agreement stands, 0 to 1."""


def read_size(text: str) -> int:
    """Returns the tokens of `4k`, `8k`, `16k` or a number. Raises BadOption for anything else."""
    if text in SIZES or text.isdecimal():
        return SIZES.get(text) or int(text)
    raise BadOption(f"a size is one of {', '.join(SIZES)} or a number of tokens, got {text!r}")


def make_item(seed: int, tokens: int) -> Item:
    """Returns the item of a seed, of about `tokens` tokens by `estimate_tokens`. Raises BadOption below 2,048."""
    if tokens < 2048:
        raise BadOption(f"a session needs at least 2048 tokens, got {tokens}")
    random = Random(f"holdfast keep {seed} {tokens}")
    family = sorted(FAMILIES)[seed % len(FAMILIES)]  # so that every family has its share of any range of seeds
    others = random.sample(sorted(set(FAMILIES) - {family}), AGREEMENTS - 1)
    agreed = [FAMILIES[name](random) for name in random.sample([family, *others], AGREEMENTS)]
    chosen = next(assignment for assignment in agreed if assignment.family == family)
    places = [random.choice(("user", "user", "file")) for _ in agreed]
    task = Turn(Role.USER, chosen.request)
    turns: list[Turn] = [Turn(Role.SYSTEM, _SYSTEM), Turn(Role.USER, _OPENING)]
    used, depths = sum(map(_size, (*turns, task))), []
    work = draw_work(random)
    for number, assignment in enumerate(agreed):
        while used < tokens * _EARLY * number / AGREEMENTS:
            turns += (more := next(work))
            used += sum(map(_size, more))
        depths.append(used / tokens)
        turns += (more := _agree(assignment, places[number], number))
        used += sum(map(_size, more))
    while used + sum(map(_size, more := next(work))) <= tokens:
        turns += more
        used += sum(map(_size, more))
    if turns[-1].role is Role.USER:
        turns.pop()  # the task is the user's next word
    at = agreed.index(chosen)
    name = f"{chosen.family}-{tokens}-{seed}"
    return Item(name, seed, tokens, Transcript((*turns, task)), chosen, places[at], round(depths[at], 3))


_OPENING = (
    "We review the files under lib/ and build a small service beside them. I tell you now and then what we agree on "
    "for the service; keep it in mind, I ask for it at the end. Begin with the review."
)


def _agree(assignment: Assignment, place: str, number: int) -> tuple[Turn, ...]:
    """Returns the turns in which an agreement is made, by the user's own words or by a file that is read."""
    noted = Turn(Role.ASSISTANT, "Noted, I keep to that. I go on with the review.")
    if place == "file":
        path = f"notes/{assignment.topic.replace(' ', '_')}.md"
        call = ToolCall(f"call_note{number}", "read_file", json.dumps({"path": path}))
        text = f"# Agreed: {assignment.topic}\n\n" + "\n".join(f"- {rule}" for rule in assignment.rules)
        turns: tuple[Turn, ...] = (
            Turn(
                Role.USER, f"What we agree on for {assignment.topic} stands in {path}. Read it, it holds from now on."
            ),
            Turn(Role.ASSISTANT, "I read it.", calls=(call,)),
            Turn(Role.TOOL, text, call_id=call.id),
        )
    else:
        turns = (Turn(Role.USER, f"We agree on {assignment.topic}. " + " ".join(assignment.rules)),)
    return (*turns, *_begin(assignment, number), noted)


def _begin(assignment: Assignment, number: int) -> tuple[Turn, ...]:
    if not assignment.begun:
        return ()
    arguments = {"path": "service/codes.py", "text": assignment.begun}
    call = ToolCall(f"call_begin{number}", "write_file", json.dumps(arguments))
    return (
        Turn(Role.ASSISTANT, "I write the first half.", calls=(call,)),
        Turn(Role.TOOL, f"wrote {len(assignment.begun)} characters to service/codes.py", call_id=call.id),
    )


def _size(turn: Turn) -> int:
    """Returns the tokens of a turn with those of its frame."""
    calls = sum(estimate_tokens(call.arguments) + estimate_tokens(call.name) + 12 for call in turn.calls)
    return estimate_tokens(turn.text) + calls + 5
