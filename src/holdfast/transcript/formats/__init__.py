"""Every wire format that can be read. To add one: its file, and its row here."""

from __future__ import annotations

from holdfast.transcript.formats import (
    aider,
    anthropic,
    claude_code,
    cline,
    codex,
    gemini_cli,
    mini_swe_agent,
    openai_chat,
    openai_responses,
    opencode,
    openhands,
    pi,
    swe_agent,
)
from holdfast.transcript.formats.base import Format

FORMATS: tuple[Format, ...] = (
    Format("openai_chat", openai_chat.sniff, openai_chat.read),
    Format("anthropic", anthropic.sniff, anthropic.read),
    Format("mini_swe_agent", mini_swe_agent.sniff, mini_swe_agent.read, dialect=True),
    Format("claude_code", claude_code.sniff, claude_code.read),
    Format("openhands", openhands.sniff, openhands.read),
    Format("openai_responses", openai_responses.sniff, openai_responses.read, dialect=True),
    Format("codex", codex.sniff, codex.read, dialect=True),
    Format("opencode", opencode.sniff, opencode.read),
    Format("pi", pi.sniff, pi.read),
    Format("swe_agent", swe_agent.sniff, swe_agent.read),
    Format("cline", cline.sniff, cline.read, dialect=True),
    Format("gemini_cli", gemini_cli.sniff, gemini_cli.read, dialect=True),
    Format("aider", aider.sniff, aider.read),
)
