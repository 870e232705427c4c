"""Whatever shape the official SDKs know, its words are read and the rest of it is counted and named."""

import json
import struct
import typing
from base64 import b64encode
from collections.abc import Iterable
from typing import Any, get_args, get_origin

import pytest
from anthropic.types.beta.beta_content_block_param import BetaContentBlockParam
from anthropic.types.beta.beta_tool_result_block_param import Content
from openai.types.chat import ChatCompletionContentPartParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from typing_extensions import is_typeddict

from holdfast.doctor import find_opaque
from holdfast.transcript.content import read_content, write_content
from holdfast.transcript.content_blocks import KNOWN
from holdfast.transcript.draft import turn_size
from holdfast.transcript.media_cost import ANTHROPIC_IMAGE_TOKENS, count_encrypted_tokens, media_tokens
from holdfast.transcript.read import parse
from holdfast.transcript.token_estimate import estimate_tokens

NO_WORDS = {
    *("id", "tool_use_id", "tool_id", "file_id", "call_id", "container_id", "caller_id", "approval_request_id"),
    *("media_type", "signature", "ttl", "fingerprint", "detail", "tab_id", "download_id", "cited_text", "caller"),
    *("encrypted_content", "encrypted_stdout", "encrypted_index", "citations", "annotations", "cache_control"),
    *("prompt_cache_breakpoint", "url", "image_url", "file_url", "stop_reason", "logprobs", "transformations"),
    *("status", "phase", "result", "data", "file_data", "document_title", "retrieved_at", "execution", "toolset_name"),
    *("created_by", "quality", "size"),
}
"""Fields that name something for a program, say where it is kept, or hold what only the provider can read."""
BESIDE = {
    *("environment", "pending_safety_checks", "acknowledged_safety_checks", "namespace", "error", "logprobs"),
    *("summary", "actions", "annotations"),
}
"""Fields of items that the model is not sent, or that say again what another field says."""


class Shapes:
    """Examples of typed dictionaries, with a word of its own in every text."""

    def __init__(self, beside: set[str] | frozenset[str] = frozenset()) -> None:
        self.beside = beside
        self.words: dict[str, str] = {}

    def make(self, type_: Any, key: str = "", deep: int = 0) -> Any:
        """Returns a value of a type; `deep` ends what contains itself."""
        origin, args = get_origin(type_), get_args(type_)
        if origin is typing.Literal:
            return args[0]
        if is_typeddict(type_):
            hints = typing.get_type_hints(type_)
            names = [name for name in hints if deep < 6 and name not in self.beside]
            return {name: self.make(hints[name], name, deep + 1) for name in names}
        if origin is dict or type_ is dict:
            return {"place": self._word("place")}
        if origin in (list, typing.Sequence, Iterable) or str(origin).startswith("<class 'collections.abc."):
            return [self.make(args[0], key, deep + 1)]
        if args:
            return self.make(next((arg for arg in args if is_typeddict(arg)), args[0]), key, deep)
        if type_ is int:
            return 7
        return type_ is bool or (self._word(key) if type_ in (str, object) else None)

    def _word(self, key: str) -> str:
        word = f"word{len(self.words)}q"
        self.words[word] = key
        return word


def _members(union: Any) -> list[Any]:
    if get_origin(union) is typing.Annotated:
        return _members(get_args(union)[0])
    return [union] if is_typeddict(union) else [one for arg in get_args(union) for one in _members(arg)]


def _missing(shapes: Shapes, text: str) -> set[str]:
    return {key for word, key in shapes.words.items() if word not in text} - NO_WORDS


BLOCKS = [*_members(BetaContentBlockParam), *_members(Content), *_members(ChatCompletionContentPartParam)]


@pytest.mark.parametrize("type_", BLOCKS, ids=lambda type_: type_.__name__)
def test_every_word_of_every_block_is_read_and_the_rest_is_counted(type_: Any) -> None:
    shapes = Shapes()
    block = shapes.make(type_)
    content = read_content([block])
    calls = [f"{call.name} {call.arguments}" for call in content.calls]
    text = "\n".join((content.text, content.reasoning, *calls))
    if block["type"] != "tool_result":  # a turn of its own
        assert not _missing(shapes, text)
        assert block["type"] not in {part.name for part in content.opaque} - {"image", "redacted_thinking"}, "unknown"
    held = {part.name for part in content.opaque}
    source = json.dumps(block.get("source", ""))
    assert held >= {kind for kind in ("image", "pdf") if kind in source}, "a medium is counted"


@pytest.mark.parametrize("type_", _members(ResponseInputItemParam), ids=lambda type_: type_.__name__)
def test_every_word_of_every_item_is_read(type_: Any) -> None:
    shapes = Shapes(BESIDE)
    item = shapes.make(type_)
    call = {"type": "function_call", "name": "run", "arguments": "{}", "call_id": item.get("call_id") or "c"}
    if item["type"] == "local_shell_call_output":
        call["call_id"] = item["id"]
    answers = "output" in item["type"] and item["type"] != "message"
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go"}]}
    turns = parse(json.dumps([asked, *([call] if answers else []), item])).turns
    said = [t.text + t.reasoning + "".join(f"{c.name} {c.arguments}" for c in t.calls) for t in turns]
    told = {"name"} if answers else set()  # by the call
    assert not _missing(shapes, "\n".join(said)) - told


def test_every_known_type_is_one_that_an_sdk_or_an_agent_names() -> None:
    assert not read_content([{"type": sorted(KNOWN)[0]}]).opaque
    assert read_content([{"type": "hologram", "beam": "x" * 400, "text": "seen"}]).opaque[0].name == "hologram"


def _png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return b64encode(head + bytes(300)).decode()


@pytest.mark.parametrize(
    ("media", "data", "wire", "tokens"),
    [
        ("image/png", _png(200, 200), "anthropic", 54),
        ("image/png", _png(1000, 1000), "anthropic", 1334),
        ("image/png", _png(9000, 9000), "anthropic", ANTHROPIC_IMAGE_TOKENS),
        ("image/png", _png(1024, 1024), "openai", 765),
        ("image/png", _png(2048, 4096), "openai", 1105),
        ("image/png", _png(300, 300), "gemini", 258),
        ("application/pdf", b64encode(b"/Type /Page /Type /Pages /Type/Page").decode(), "gemini", 516),
        ("audio/mp3", b64encode(bytes(160_000)).decode(), "gemini", 320),
    ],
)
def test_a_medium_costs_what_its_provider_publishes(media: str, data: str, wire: str, tokens: int) -> None:
    assert media_tokens(media, data, wire) == tokens


def test_an_opaque_part_goes_with_the_line_that_stands_for_it() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _png(1000, 1000)}}
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image, {"type": "text", "text": "a gate"}]}
    messages = [{"role": "user", "content": "Look"}, call, {"role": "user", "content": [result]}]
    turn = parse(json.dumps(messages)).turns[2]
    assert turn_size(turn, estimate_tokens) > 1334
    assert find_opaque([turn])["image"].tokens == 1334
    masked = type(turn)(turn.role, "a gate", call_id="t", opaque=turn.opaque)
    assert turn_size(masked, estimate_tokens) < 20
    assert write_content(result["content"], "a gate") == [{"type": "text", "text": "a gate"}]


def test_a_call_of_the_providers_own_tool_never_stays_without_its_result() -> None:
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "gates"}}
    hit = {"type": "web_search_result", "url": "u", "title": "Gate 4", "encrypted_content": "E" * 4000}
    answer = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [hit]}
    content = [use, answer, {"type": "text", "text": "Gate 4 it is."}]
    read = read_content(content)
    assert [(part.name, part.tokens) for part in read.opaque] == [
        ("encrypted content", count_encrypted_tokens("E" * 4000))
    ]
    assert write_content(content, read.text) == content
    short = write_content(content, read.text.replace("Gate 4\n", "a gate\n"))
    assert {part["type"] for part in short} == {"text"}
    assert "gates" in short[0]["text"]
