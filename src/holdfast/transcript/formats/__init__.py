"""Session file formats: one reader per agent or wire (`<agent>.py`), its writer beside it (`<agent>_write.py` if it is
long).

To add a format, write its file with `sniff`, `read` and `write`, and add its row to `FORMATS`. `base` has the row's
type, `apply_draft` lays a changed session over the entries of its file, `text_calls` makes calls of actions in the
text.
"""

from __future__ import annotations

from holdfast.transcript.formats import (
    aider,
    anthropic,
    anthropic_write,
    atif,
    claude_code,
    claude_code_write,
    cline,
    codex,
    copilot_cli,
    gemini_cli,
    gemini_cli_restated,
    gemini_cli_write,
    mini_swe_agent,
    openai_chat,
    openai_chat_write,
    openai_responses,
    opencode,
    opencode_ids,
    openhands,
    openhands_v1,
    openhands_v1_write,
    openhands_write,
    pi,
    pi_write,
    qwen_code,
    specstory,
    swe_agent,
)
from holdfast.transcript.formats.base import Format
from holdfast.transcript.formats.relink import relink_ids, relink_uuids

FORMATS: tuple[Format, ...] = (
    Format("openai_chat", openai_chat.sniff, openai_chat.read, openai_chat_write.write),
    Format("anthropic", anthropic.sniff, anthropic.read, anthropic_write.write),
    Format("mini_swe_agent", mini_swe_agent.sniff, mini_swe_agent.read, mini_swe_agent.write, dialect=True),
    Format("claude_code", claude_code.sniff, claude_code.read, claude_code_write.write, relink=relink_uuids),
    Format("openhands", openhands.sniff, openhands.read, openhands_write.write),
    Format("openai_responses", openai_responses.sniff, openai_responses.read, openai_responses.write, dialect=True),
    Format("codex", codex.sniff, codex.read, codex.write, dialect=True),
    Format("opencode", opencode.sniff, opencode.read, opencode.write, relink=opencode_ids.relink),
    Format("pi", pi.sniff, pi.read, pi_write.write, relink=relink_ids),
    Format("swe_agent", swe_agent.sniff, swe_agent.read, swe_agent.write),
    Format("cline", cline.sniff, cline.read, cline.write, dialect=True),
    Format(
        "gemini_cli",
        gemini_cli.sniff,
        gemini_cli.read,
        gemini_cli_write.write,
        dialect=True,
        relink=gemini_cli_restated.relink,
    ),
    Format("openhands_v1", openhands_v1.sniff, openhands_v1.read, openhands_v1_write.write),
    Format("qwen_code", qwen_code.sniff, qwen_code.read, qwen_code.write, dialect=True, relink=relink_uuids),
    Format("copilot_cli", copilot_cli.sniff, copilot_cli.read, copilot_cli.write, relink=relink_ids),
    Format("atif", atif.sniff, atif.read, atif.write),
    Format("specstory", specstory.sniff, specstory.read, dialect=True),
    Format("aider", aider.sniff, aider.read, aider.write),
)
