"""What a summary says is told from what the agent says around it."""

import pytest

from holdfast.transcript.summary_frame import strip_frame

SAID = "The port is 4701.\n\nNext: the tests."
CLAUDE = (
    "This session is being continued from a previous conversation that ran out of context. The summary below covers "
    "the earlier portion of the conversation.\n\n<system-reminder>\n<tools-used-before-summary>Bash</tools-used-before-"
    f"summary>\n</system-reminder>\nSummary:\n{SAID}\n\nIf you need specific details from before compaction (like "
    "code), read the full transcript at: /r/s.jsonl\nContinue the conversation from where it left off."
)
CODEX = (
    "Another language model started to solve this problem and produced a summary. Here is the summary produced by the "
    f"other language model, use it to assist with your own analysis:\n{SAID}"
)
PI = f"The conversation history before this point was compacted into this summary:\n\n<summary>\n{SAID}\n</summary>"


@pytest.mark.parametrize(
    "text", [SAID, CLAUDE, CODEX, PI, f"<analysis>\nI think.\n</analysis>\n<summary>{SAID}</summary>"]
)
def test_only_what_the_summary_says_of_the_session_is_left(text: str) -> None:
    assert strip_frame(text) == SAID


@pytest.mark.parametrize("text", ["", "<summary>", "Summary:\nNothing."])
def test_a_text_without_a_frame_stays(text: str) -> None:
    assert strip_frame(text) == text.removeprefix("<summary>")
