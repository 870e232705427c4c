"""The words of a summary without the frame in which an agent puts it: what the agent adds itself is no claim of it."""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<summary>(.*?)(?:</summary>|\Z)", re.DOTALL)
_ADDED = re.compile(r"<(system-reminder|analysis)>.*?</\1>\s*", re.DOTALL)
_HEADS = (
    "This session is being continued from a previous conversation",
    "Another language model started to solve this problem",
    "The conversation history before this point was compacted",
)
_HEAD_ENDS = ("Summary:\n", "assist with your own analysis:\n", "<summary>\n")
_TAILS = (
    "If you need specific details from before compaction",
    "Please continue the conversation from where we left",
    "Continue the conversation from where it left off",
)


def strip_frame(text: str) -> str:
    """Returns what a summary says of the session: Claude Code's, Codex's and pi's frame around it is taken off."""
    tagged = _TAGGED.search(text)
    text = _ADDED.sub("", tagged[1] if tagged else text)
    if text.startswith(_HEADS):
        ends = [at + len(end) for end in _HEAD_ENDS if (at := text.find(end)) >= 0]
        text = text[min(ends, default=0) :]
    starts = [at for tail in _TAILS if (at := text.find(f"\n{tail}")) >= 0]
    return text[: min(starts, default=len(text))].strip()
