"""Invented sessions for the text methods' tests, and stand-ins for the models that two of them ask."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from hypothesis import strategies as st

from holdfast.engine.chat import ChatAnswer
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

LINES = (
    "the quick brown fox jumps over the lazy dog",
    "src/app/main_window.py:120: ValueError: bad port 8080",
    "x = compute(total, 42)",
    "",
    "ERROR: connection to 10.0.0.7 refused",
    "5 passed, 2 failed in 0.31s",
    "naïve Größe 数据 [exit code 1]",
)
CALLS = (
    ("read_file", {"path": "a.py"}),
    ("Read", {"file_path": "a.py", "offset": 3, "limit": 10}),
    ("Bash", {"command": "cat b.py"}),
    ("bash", {"command": "pytest -q 2>&1 | tail -20"}),
    ("Write", {"file_path": "b.py", "content": "x = 1\n"}),
    ("Write", {"file_path": "b.py", "content": 'y = "é"\n' * 60, "mode": 420}),
    ("bash", {"command": "cat > c.py <<'EOF'\n" + "z = 2\n" * 60 + "EOF\npytest"}),
    ("MultiEdit", {"path": "c.py", "edits": [{"old": "z", "new": "w = 3\n" * 60}, {"old": "w", "new": "v"}]}),
    ("apply_patch", "*** Begin Patch\n*** Update File: b.py\n" + "+x\n" * 99),
    ("shell", {"command": ["bash", "-lc", "sed -n '1,20p' a.py"]}),
    ("search", {"query": "port"}),
)

observation = st.lists(st.sampled_from(LINES), min_size=1, max_size=4).flatmap(
    lambda lines: st.sampled_from((1, 3, 40)).map(lambda times: "\n".join(lines * times))
)


@st.composite
def _exchange(draw, number):
    kind = draw(st.sampled_from(("call", "call", "call", "user", "says", "harness")))
    if kind == "user":
        return [Turn(Role.USER, draw(st.sampled_from(("go on", "never touch a.py", "use port 8080"))))]
    if kind == "says":
        return [Turn(Role.ASSISTANT, draw(observation), reasoning="hm")]
    if kind == "harness":
        return [Turn(Role.TOOL, draw(observation))]
    made = draw(st.lists(st.sampled_from(CALLS), min_size=1, max_size=3))
    calls = tuple(
        ToolCall(f"c{number}_{at}", name, args if isinstance(args, str) else json.dumps(args))
        for at, (name, args) in enumerate(made)
    )
    results = [Turn(Role.TOOL, draw(observation), call_id=call.id, is_error=draw(st.booleans())) for call in calls]
    return [Turn(Role.ASSISTANT, "next", calls=calls), *draw(st.permutations(results))]


@st.composite
def sessions(draw):
    head = [Turn(Role.SYSTEM, "Be brief.")] * draw(st.integers(0, 2))
    count = draw(st.integers(0, 8))
    turns = [turn for number in range(count) for turn in draw(_exchange(number))]
    task = [Turn(Role.USER, "Fix the bug in a.py")] if draw(st.booleans()) else []
    last = [Turn(Role.ASSISTANT, calls=(ToolCall("open", "bash", '{"command": "ls"}'),))] if draw(st.booleans()) else []
    return Transcript((*head, *task, *turns, *last), "openai_chat")


def exchange(number: int, name: str, arguments: object, text: str, **more: Any) -> list[Turn]:
    """A call and its result."""
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    call = ToolCall(f"c{number}", name, given)
    return [Turn(Role.ASSISTANT, calls=(call,)), Turn(Role.TOOL, text, call_id=f"c{number}", **more)]


def session(*exchanges: list[Turn]) -> Transcript:
    """A task, then these exchanges."""
    return Transcript((Turn(Role.USER, "Fix it"), *(turn for found in exchanges for turn in found)))


def words_in_common(query: str, texts: list[str]) -> list[float]:
    """A scorer without a model."""
    asked = set(query.lower().split())
    return [float(len(asked & set(text.lower().split()))) for text in texts]


def invented_surprisals(texts: list[str], _model: str, _window: int) -> list[list[tuple[int, int, float]]]:
    """Surprisal without a model: a checksum of each word."""
    found = [[(m.start(), m.end(), m.group()) for m in re.finditer(r"\s*\w+|\s*[^\w\s]", text)] for text in texts]
    return [[(start, end, zlib.crc32(word.encode()) % 997 / 100) for start, end, word in row] for row in found]


class BriefChat:
    """Answers everything with one line of notes."""

    name = "brief"

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        return ChatAnswer("## State and next step\n- The agent read a.py. [2]", 10, 6)
