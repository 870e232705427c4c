"""Requests by which an agent asks for its own summary of the session (`/compact`), recognised by their words.

What the model answers becomes the agent's lasting memory, so it must read the session itself and no stand-in.
The words are those of the agents' own prompts: in the newest message, or in the system prompt of a call of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.transcript.turn import Role, Turn

_ASKED = re.compile(
    r"""Your\ task\ is\ to\ create\ a\ (?:comprehensive,?\ )?detailed\ summary\ of\ (?:the|this|our)\b   # Claude Code
      | You\ are\ performing\ a\ CONTEXT\ CHECKPOINT\ COMPACTION                                         # Codex
      | Provide\ a\ detailed\ prompt\ for\ continuing\ our\ conversation                                 # opencode
      | (?:Create\ a\ new|Update\ the)\ anchored\ summary\b                                             # opencode
      | The\ messages\ above\ are\ (?:a\ conversation\ to\ summarize|NEW\ conversation\ messages)        # pi
      | Create\ a\ structured\ context\ checkpoint\ summary                                              # pi
      | <explicit_instructions\ type="(?:summarize_task|condense|compact|smol)"                         # Cline
      | generate\ the\ <state_snapshot>                                                                  # Gemini, Qwen
      | You\ are\ maintaining\ a\ (?:hierarchical\ )?context-aware\ state\ summary\b                    # OpenHands
    """,
    re.VERBOSE,
)
_APPOINTED = re.compile(
    r"""You\ are\ a\ helpful\ AI\ assistant\ tasked\ with\ summarizing\ conversations        # Claude Code
      | You\ are\ the\ component\ that\ summarizes\ internal\ chat\ history                 # Gemini CLI, Qwen Code
      | You\ are\ an?\ (?:anchored\ )?context\ summarization\ assistant                     # pi, opencode
      | \*Briefly\*\ summarize\ this\ partial\ conversation\ about\ programming             # Aider
      | You\ are\ a\ helpful\ assistant\ that\ summarizes\ conversations
    """,
    re.VERBOSE,
)


def asks_for_summary(instructions: str, turns: Sequence[Turn]) -> bool:
    """Returns True if a request asks the model to summarise its session."""
    last = turns[-1] if turns else None
    if last is not None and last.role is Role.USER and _ASKED.search(last.text):
        return True
    return _APPOINTED.search(instructions) is not None
