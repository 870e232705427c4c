"""Views of a text in which what is not content is blanked. Every view is as long as the text, so spans stay valid.

Escapes are those of JSON, because tool arguments are rendered as JSON: `\\n` becomes a line break, `\\"` the character
`QUOTE`. `C:\\new` is left alone; a relative Windows path with a separator before n, r or t reads as an escape.
"""

from __future__ import annotations

import re

QUOTE = "\x1e\x1e"
"""Stands where an escaped double quote stood, so that it does not pair with the plain one around it."""

_ESCAPE = re.compile(
    r"""\\(?:(?P<keep>(?<=(?<![A-Za-z])[A-Zcd]:\\)(?!\\)[^\s"'<>|*?]{1,260}+  # an absolute Windows path
            |(?<=[\w-]\\)(?![nrt\d"\\]|u[\da-fA-F]{4}|x[\da-fA-F]{2})[\w-]{2,}+(?:\\(?![nrt"\\])[\w.-]++)*+  # relative
            |\\)
        |(?P<line>n)
        |(?P<quote>")
        |(?:u001[bB]|x1[bB]|033|e)\[[\d;?]{0,20}[@-~]
        |u[\da-fA-F]{4}
        |[abdefrstvwBDSWZzA0'/])
       |\x1b(?:\[[\d;:?]{0,40}[ -/]{0,3}[@-~]|\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)|[@-_])?+""",
    re.VERBOSE,
)
_MARK = re.compile(
    r"""<\|[\w ]{1,40}\|>
       |</?(?:start_of_turn|end_of_turn|tool_call|tool_response|tools|think|function|parameter|invoke)(?:=[\w.-]{1,80})?>
       |"name"\s{0,4}:\s{0,4}"[\w.-]{1,80}"(?=\s{0,4},\s{0,4}"(?:arguments|parameters|input)")
       |^@@[ ][^\n]{1,80}[ ]@@
       |^index[ ][\da-f]{7,40}\.\.[\da-f]{7,40}(?:[ ]\d{6})?$""",
    re.VERBOSE | re.MULTILINE,
)


def blank_escapes(text: str) -> str:
    """Returns `text` without terminal escapes and with JSON's escapes undone in place."""
    return _ESCAPE.sub(_plain, text)


def _plain(match: re.Match[str]) -> str:
    found = match[0]
    if match["keep"]:
        return found
    if match["line"]:
        return " \n"
    return QUOTE if match["quote"] else " " * len(found)


def blank_marks(text: str) -> str:
    """Returns `text` without the marks of chat templates, the names of called tools, and the positions in diffs."""
    return _MARK.sub(lambda match: " " * len(match[0]), text)
