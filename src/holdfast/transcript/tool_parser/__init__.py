"""Raw generated text to text, reasoning and tool calls, piece by piece. Start in `parser.py`.

A syntax in which models write calls is one file here and one row in `registry.py`.
"""

from holdfast.transcript.tool_parser.deltas import Delta
from holdfast.transcript.tool_parser.parser import ToolParser, join_deltas

__all__ = ["Delta", "ToolParser", "join_deltas"]
