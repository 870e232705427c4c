"""A number that comes back says what it counts, where there is room, and no fact stays away for it."""

from __future__ import annotations

from holdfast.gate.text.gate import WORDS_SHARE
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.speaker import SECTION_TITLE
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

PORT = "The billing service listens on port 48213 since May."
FILLER = "\n".join("request took long again because queue was full" for _ in range(60))
TASK = Turn(Role.USER, "Find the port.")


def step(at: int, output: str) -> tuple[Turn, Turn]:
    call = ToolCall(f"c{at}", "bash", f'{{"command": "cat log-{at}"}}')
    return Turn(Role.ASSISTANT, "", calls=(call,)), Turn(Role.TOOL, output, call_id=f"c{at}")


def session(*outputs: str) -> Transcript:
    return Transcript((TASK, *(turn for at, output in enumerate(outputs) for turn in step(at, output))))


def section_of(turns: tuple[Turn, ...]) -> str:
    return next(turn.text for turn in turns if turn.text.startswith(SECTION_TITLE))


def test_a_number_has_the_words_around_it_and_keeps_them_when_it_is_compacted_again():
    whole = session(f"{FILLER}\n{PORT}\n{FILLER}", *[FILLER] * 6)
    made = rewrite(whole, TextPlan(budget=2000, least_recent=1)).draft.turns
    words = "- data: numbers: The billing service listens on port 48213 since May."
    assert words in section_of(made)
    later = Transcript((*made, *session(*[FILLER] * 4).turns[1:]))
    assert words in section_of(rewrite(later, TextPlan(budget=1900, least_recent=1)).draft.turns)


def test_many_numbers_take_no_more_than_a_share_and_none_is_lost_for_it():
    counts = "\n".join(f"the shard of that name holds {70001 + 7 * at} sheep" for at in range(150))
    made = rewrite(session(counts, *[FILLER] * 6), plan := TextPlan(budget=3000, least_recent=1))
    section = section_of(made.draft.turns)
    assert made.tokens <= plan.budget
    wordy = section.count("holds 70")
    assert 0 < wordy * estimate_tokens("the shard of that name holds") <= 1.5 * WORDS_SHARE * plan.budget
    assert len(made.report.restored) > 2 * wordy
    assert not made.report.lost
