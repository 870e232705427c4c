"""An upstream that speaks each wire, streamed or whole, and says what a script says: text, thoughts and calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxied import Reply, Seen


@dataclass(frozen=True)
class Says:
    """One answer of the model."""

    text: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    """Id, name and arguments."""
    prompt: int = 100
    answer: int = 10


def reply(seen: Seen, says: Says) -> Reply:
    """Returns the answer on the wire of the request."""
    body = json.loads(seen.body)
    name = seen.path.rpartition("/")[2]
    stream, whole = _WIRES[name]
    if body.get("stream"):
        return Reply(headers=(("content-type", "text/event-stream"),), pieces=list(stream(says)))
    data = json.dumps(whole(says)).encode()
    return Reply(headers=(("content-type", "application/json"),), pieces=data)


def _event(data: Any, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _chat_calls(says: Says) -> list[dict[str, Any]]:
    return [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in says.calls
    ]


def _chat_usage(says: Says) -> dict[str, int]:
    return {
        "prompt_tokens": says.prompt,
        "completion_tokens": says.answer,
        "total_tokens": says.prompt + says.answer,
    }


def _chat_stream(says: Says) -> Iterator[bytes]:
    head = {"id": f"chatcmpl-{says.prompt}", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in says.text.split(" ") if says.text else ():
        yield chunk({"content": f"{piece} "})
    for at, call in enumerate(_chat_calls(says)):
        arguments = call["function"]["arguments"]
        yield chunk({"tool_calls": [{"index": at, **call, "function": {**call["function"], "arguments": ""}}]})
        yield chunk({"tool_calls": [{"index": at, "function": {"arguments": arguments[:9]}}]})
        yield chunk({"tool_calls": [{"index": at, "function": {"arguments": arguments[9:]}}]})
    yield chunk({}, "tool_calls" if says.calls else "stop")
    yield _event({**head, "choices": [], "usage": _chat_usage(says)})
    yield _event("[DONE]")


def _chat_whole(says: Says) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": says.text or None}
    message |= {"tool_calls": _chat_calls(says)} if says.calls else {}
    reason = "tool_calls" if says.calls else "stop"
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    head = {"id": f"chatcmpl-{says.prompt}", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": choices, "usage": _chat_usage(says)}


def _message_blocks(says: Says) -> list[dict[str, Any]]:
    text = [{"type": "text", "text": says.text}] if says.text else []
    calls = [
        {"type": "tool_use", "id": id_, "name": name, "input": json.loads(arguments)}
        for id_, name, arguments in says.calls
    ]
    return [*text, *calls]


def _message_whole(says: Says) -> dict[str, Any]:
    head = {"id": f"msg_{says.prompt}", "type": "message", "role": "assistant", "model": "m"}
    reason = "tool_use" if says.calls else "end_turn"
    usage = {"input_tokens": says.prompt, "output_tokens": says.answer}
    return {**head, "content": _message_blocks(says), "stop_reason": reason, "stop_sequence": None, "usage": usage}


def _message_stream(says: Says) -> Iterator[bytes]:
    whole = _message_whole(says)
    start = {**whole, "content": [], "stop_reason": None, "usage": {"input_tokens": says.prompt, "output_tokens": 1}}
    yield _event({"type": "message_start", "message": start}, "message_start")
    for at, block in enumerate(whole["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        yield _event({"type": "content_block_start", "index": at, "content_block": empty}, "content_block_start")
        if block["type"] == "text":
            deltas = [{"type": "text_delta", "text": piece} for piece in (block["text"][:5], block["text"][5:])]
        else:
            text = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in (text[:7], text[7:])]
        for delta in deltas:
            yield _event({"type": "content_block_delta", "index": at, "delta": delta}, "content_block_delta")
        yield _event({"type": "content_block_stop", "index": at}, "content_block_stop")
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": says.answer}
    yield _event({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
    yield _event({"type": "message_stop"}, "message_stop")


def _response_items(says: Says) -> list[dict[str, Any]]:
    content = [{"type": "output_text", "text": says.text, "annotations": []}]
    message = {
        "type": "message",
        "id": f"m{says.prompt}",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    calls = [
        {"type": "function_call", "id": f"f{id_}", "call_id": id_, "name": name, "arguments": arguments}
        for id_, name, arguments in says.calls
    ]
    return [*([message] if says.text else []), *calls]


def _response_whole(says: Says) -> dict[str, Any]:
    usage = {
        "input_tokens": says.prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": says.answer,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": says.prompt + says.answer,
    }
    head = {"id": f"resp_{says.prompt}", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    choice = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**head, **choice, "output": _response_items(says), "usage": usage}


def _response_stream(says: Says) -> Iterator[bytes]:
    number = iter(range(1000))

    def event(kind: str, **fields: Any) -> bytes:
        return _event({"type": kind, "sequence_number": next(number), **fields}, kind)

    whole = _response_whole(says)
    yield event("response.created", response={**whole, "output": [], "status": "in_progress"})
    for at, item in enumerate(whole["output"]):
        where = {"item_id": item["id"], "output_index": at}
        if item["type"] == "message":
            yield event("response.output_item.added", output_index=at, item={**item, "content": []})
            part = {"type": "output_text", "text": "", "annotations": []}
            yield event("response.content_part.added", content_index=0, part=part, **where)
            for piece in (says.text[:5], says.text[5:]):
                yield event("response.output_text.delta", content_index=0, delta=piece, logprobs=[], **where)
            yield event("response.output_text.done", content_index=0, text=says.text, logprobs=[], **where)
            yield event("response.content_part.done", content_index=0, part={**part, "text": says.text}, **where)
        else:
            yield event("response.output_item.added", output_index=at, item={**item, "arguments": ""})
            yield event("response.function_call_arguments.delta", delta=item["arguments"], **where)
            yield event(
                "response.function_call_arguments.done", arguments=item["arguments"], name=item["name"], **where
            )
        yield event("response.output_item.done", output_index=at, item=item)
    yield event("response.completed", response=whole)


_WIRES = {
    "completions": (_chat_stream, _chat_whole),
    "messages": (_message_stream, _message_whole),
    "responses": (_response_stream, _response_whole),
}
