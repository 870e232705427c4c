"""The syntaxes of tool calls that are read, tried in this order."""

from __future__ import annotations

from holdfast.transcript.tool_parser.base import ToolSyntax
from holdfast.transcript.tool_parser.hermes import HERMES
from holdfast.transcript.tool_parser.qwen_coder import QWEN_CODER

SYNTAXES: tuple[ToolSyntax, ...] = (HERMES, QWEN_CODER)
