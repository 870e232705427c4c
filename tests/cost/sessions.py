"""Sessions that tests make up: any shape that an agent leaves behind."""

from __future__ import annotations

from hypothesis import strategies as st

from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

WORDS = st.integers(1, 400)


def words(count: int, word: str = "word") -> str:
    return " ".join([word] * count)


def exchange(at: int, said: int, found: int, seconds: float | None) -> list[Turn]:
    """A call of the model and what it got back, told apart by its place."""
    extra = {} if seconds is None else {"timestamp": f"{seconds:.3f}", "ts": round(seconds * 1000) + 1_700_000_000_000}
    call = ToolCall(f"c{at}", "run", f'{{"command": "cat f{at}"}}')
    return [
        Turn(Role.ASSISTANT, words(said, f"says{at % 7}"), calls=(call,), extra=extra),
        Turn(Role.TOOL, words(found, f"found{at % 7}"), call_id=f"c{at}"),
    ]


@st.composite
def recorded_sessions(draw: st.DrawFn) -> Transcript:
    """A head, a task, exchanges with pauses from none to more than an hour, now and then a word of the user."""
    turns = [Turn(Role.SYSTEM, words(draw(WORDS)))] if draw(st.booleans()) else []
    turns.append(Turn(Role.USER, words(draw(WORDS), "task")))
    clock: float | None = 0.0 if draw(st.booleans()) else None
    for at in range(draw(st.integers(1, 14))):
        if clock is not None:
            clock += draw(st.sampled_from([0, 5, 30, 290, 301, 3700]))
        turns += exchange(at, draw(st.integers(1, 120)), draw(st.integers(1, 900)), clock)
        if draw(st.integers(0, 5)) == 0:
            turns.append(Turn(Role.USER, words(draw(st.integers(1, 60)), "more")))
    return Transcript(tuple(turns))


def session_of(count: int, found: int = 300, gap: float = 10) -> Transcript:
    """`count` equal exchanges, `gap` seconds apart."""
    turns = [Turn(Role.SYSTEM, words(200)), Turn(Role.USER, words(50, "task"))]
    for at in range(count):
        turns += exchange(at, 20, found, at * gap)
    return Transcript(tuple(turns))
