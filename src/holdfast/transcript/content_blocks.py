"""Reads typed blocks that are no plain text: search results, results of server tools, documents, files, images.

Nothing that the model sees is left out: the words of a block stand in the turn's text, below a line with the block's
type; what has no words (an image, sound, encrypted text) is counted by its published cost and named. A block of a
type that nobody has described yet gives its words all the same, and the rest of it is counted by its size.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from dataclasses import dataclass, field
from typing import Any

from holdfast.transcript.json_fields import text_or_empty, to_json_text
from holdfast.transcript.media_cost import count_encrypted_tokens, media_tokens
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Opaque

KNOWN = frozenset(
    (
        *("image", "document", "search_result", "server_tool_use", "mcp_tool_use", "container_upload", "compaction"),
        *("web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result", "mcp_tool_result"),
        *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
        *("advisor_tool_result", "tool_addition", "tool_removal", "mcp_tool_listing", "fallback", "tool_reference"),
        *(
            "browser_state",
            "directory",
            "resource",
            "resource_link",
            "selection",
            "blob",
            "audio",
            "image_url",
            "input_audio",
            "file",
            "video",
        ),
        *("input_image", "input_file", "computer_screenshot", "file_search_call", "web_search_call", "mcp_call"),
        *("code_interpreter_call", "image_generation_call", "mcp_list_tools", "mcp_approval_request"),
        *("mcp_approval_response", "tool_search_call", "tool_search_output", "additional_tools", "program"),
        *("configuration_update", "compaction_trigger", "item_reference", "custom_tool_call_output", "computer_call"),
        *("inlineData", "fileData", "executableCode", "codeExecutionResult", "videoMetadata"),
    )
)
_HIDDEN = frozenset(
    (
        *("type", "id", "call_id", "tool_use_id", "tool_id", "file_id", "container_id", "approval_request_id", "index"),
        *("caller", "cache_control", "citations", "annotations", "status", "signature", "fingerprint", "logprobs"),
        *("media_type", "mime_type", "mimeType", "mime", "detail", "transformations", "stop_reason", "execution"),
        *("prompt_cache_breakpoint", "created_by", "tab_id", "download_id", "role", "phase", "size", "quality"),
    )
)
"""Fields that no model reads as words."""
_JSON = ("input", "arguments", "action", "actions", "operation", "args")
"""Fields that hold what a tool was called with: shown as one line of JSON."""
_NUMBERS = ("return_code", "exit_code", "approve")
_BLOBS = ("data", "file_data", "blob", "result", "fileData", "b64_json")
_MEDIA = {"image": "image/*", "audio": "audio/*", "input_audio": "audio/*"}
_MEDIA |= dict.fromkeys(("document", "file", "input_file"), "application/pdf")
_MEDIA |= dict.fromkeys(("image_url", "input_image", "computer_screenshot", "image_generation_call"), "image/*")
_OPENAI = ("image_url", "input_image", "computer_screenshot", "image_generation_call", "input_audio", "input_file")
_GEMINI = ("inlineData", "fileData")
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+[^,\s]{0,80},")
_BLOB_CHARACTERS = 64  # shorter texts without blanks are names


@dataclass
class Block:
    """The words of a block, and what it holds beside them."""

    label: str
    wire: str
    detail: str = ""
    """The closeness at which the model was asked to look, where the wire lets one say so."""
    words: list[str] = field(default_factory=list)
    opaque: list[tuple[str, int]] = field(default_factory=list)
    """Names and tokens."""

    @property
    def text(self) -> str:
        return "\n".join((f"[{self.label}]", *self.words))

    @property
    def parts(self) -> tuple[Opaque, ...]:
        return tuple(Opaque(name, tokens, self.text) for name, tokens in self.opaque)


def read_block(type_: str, fields: dict[str, Any]) -> Block:
    """Reads a block of any type but plain text, thinking and calls that a client answers."""
    wire = "openai" if type_ in _OPENAI else "gemini" if type_ in _GEMINI else "anthropic"
    block = Block(type_.removesuffix("_url").removeprefix("input_"), wire)
    _walk(fields, _media_type(fields) or _MEDIA.get(type_, ""), block)
    if type_ not in KNOWN:
        rest = estimate_tokens(to_json_text(fields)) - sum(map(estimate_tokens, block.words))
        block.opaque.append((type_, max(1, rest - sum(tokens for _, tokens in block.opaque))))
    return block


def _media_type(fields: dict[str, Any]) -> str:
    kinds = ("media_type", "mime_type", "mimeType", "mime")
    return next((fields[kind] for kind in kinds if isinstance(fields.get(kind), str)), "")


def _walk(value: Any, media: str, block: Block, key: str = "") -> None:
    """Adds the words and the media of a value; `media` is the type that the fields around it give."""
    if isinstance(value, list):
        for item in value:
            _walk(item, media, block, key)
    elif isinstance(value, str):
        _add_string(key, value, media, block)
    elif isinstance(value, dict):
        _walk_object(value, media, block)


def _walk_object(fields: dict[str, Any], media: str, block: Block) -> None:
    media = _media_type(fields) or _MEDIA.get(text_or_empty(fields.get("type")), media)
    block.detail = text_or_empty(fields.get("detail")) or block.detail
    if media and (fields.get("type") == "url" or _is_elsewhere(fields)):
        _add_media(media, "", block)
        return
    for key, value in fields.items():
        if key in _JSON:
            block.words += [text] if (text := to_json_text(value)) not in ("", "{}") else []
        elif key in _NUMBERS and value not in (0, None):
            block.words.append(f"{key} {to_json_text(value)}")
        elif key == "data" and fields.get("type") == "text":
            _walk(value, "", block)
        elif key not in _HIDDEN:
            _walk(value, _inner_media(fields, media), block, key)


def _is_elsewhere(fields: dict[str, Any]) -> bool:
    """Returns True for a medium of which the session has only the provider's id."""
    return isinstance(fields.get("file_id"), str) and not any(fields.get(key) for key in (*_BLOBS, "image_url", "url"))


def _inner_media(fields: dict[str, Any], media: str) -> str:
    """Returns the medium of the fields inside; a file that says its name may be told by it."""
    name = next((fields[key] for key in ("filename", "file_name", "name") if isinstance(fields.get(key), str)), "")
    if fields.get("format") in ("wav", "mp3"):
        return "audio/*"
    return media or ("application/pdf" if name.lower().endswith(".pdf") else "")


def _add_string(key: str, text: str, media: str, block: Block) -> None:
    if not text.strip():
        return
    if _DATA_URL.match(text):
        _add_data_url(text, block)
    elif key.startswith("encrypted"):
        block.opaque.append((key.replace("_", " "), count_encrypted_tokens(text)))
    elif key in _BLOBS and (media or _is_blob(text)):
        _add_media(media, text, block)
    elif key in ("image_url", "image_urls", "url") and media.startswith(("image", "audio", "video")):
        # Where it is kept is no word of it.
        _add_media(media, "", block)
    else:
        block.words.append(text)


def _is_blob(text: str) -> bool:
    return len(text) > _BLOB_CHARACTERS and not any(character.isspace() for character in text[:_BLOB_CHARACTERS])


def _add_data_url(url: str, block: Block) -> None:
    head, _, data = url.removeprefix("data:").partition(",")
    kind = head.partition(";")[0] or "text/plain"
    if not kind.startswith("text/"):
        _add_media(kind, data, block)
        return
    try:
        block.words.append(b64decode(data).decode() if head.endswith("base64") else data)
    except (Error, ValueError):
        _add_media(kind, data, block)


def _add_media(media: str, data: str, block: Block) -> None:
    kind, _, form = media.partition("/")
    name = "pdf" if form == "pdf" else kind if kind in ("image", "audio", "video") else "file"
    block.opaque.append((name, media_tokens(media, data, block.wire, block.detail)))
