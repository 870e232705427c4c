"""One answer of a scripted model on the wires that agents speak, streamed where it is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Events = list[tuple[str, Any]]
"""Name (empty for none) and data of each event of a stream."""
Reply = dict[str, Any] | Events


@dataclass(frozen=True)
class Answer:
    """Words, and at most one call of a tool."""

    text: str
    tool: str = ""
    arguments: dict[str, Any] | None = None
    call_id: str = ""


def render(path: str, body: dict[str, Any], answer: Answer, number: int) -> Reply:
    """Returns an answer on the wire of `path`, as a stream if the request asks for one. Raises KeyError for a path of
    no wire.
    """
    if "enerateContent" in path:
        return _gemini(answer, stream=path.endswith("streamGenerateContent"))
    if path.endswith(":countTokens"):
        return {"totalTokens": count(body)}
    if path.endswith("/count_tokens"):
        return {"input_tokens": count(body)}
    wire = {"messages": _messages, "completions": _chat, "responses": _responses}[path.rsplit("/", 1)[-1]]
    return wire(body, answer, number)


def count(body: dict[str, Any]) -> int:
    """Returns about how many tokens a request has."""
    return len(json.dumps(body)) // 4 + 1


def _messages(body: dict[str, Any], answer: Answer, number: int) -> Reply:
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}]
    if answer.tool:
        id_ = f"toolu_{answer.call_id}"
        content.append({"type": "tool_use", "id": id_, "name": answer.tool, "input": answer.arguments})
    stop = "tool_use" if answer.tool else "end_turn"
    usage = {"input_tokens": count(body), "output_tokens": 9, "cache_creation_input_tokens": 0}
    head = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": body.get("model")}
    if not body.get("stream"):
        return {**head, "content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}
    start: dict[str, Any] = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    events: Events = [("message_start", {"message": start})]
    for at, block in enumerate(content):
        said = block["type"] == "text"
        empty = {**block, "text": ""} if said else {**block, "input": {}}
        delta = {"type": "text_delta", "text": block["text"]} if said else _json_delta(block["input"])
        events.append(("content_block_start", {"index": at, "content_block": empty}))
        events.append(("content_block_delta", {"index": at, "delta": delta}))
        events.append(("content_block_stop", {"index": at}))
    ended = {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 9}}
    events += [("message_delta", ended), ("message_stop", {})]
    return [(name, {"type": name, **data}) for name, data in events]


def _json_delta(arguments: Any) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": json.dumps(arguments)}


def _chat(body: dict[str, Any], answer: Answer, number: int) -> Reply:
    function = {"name": answer.tool, "arguments": json.dumps(answer.arguments)}
    calls = [{"id": f"call_{answer.call_id}", "type": "function", "function": function}] if answer.tool else []
    usage = {"prompt_tokens": count(body), "completion_tokens": 9, "total_tokens": count(body) + 9}
    head = {"id": f"chatcmpl-{number}", "created": 1, "model": body.get("model")}
    stop = "tool_calls" if calls else "stop"
    message = {"role": "assistant", "content": answer.text, **({"tool_calls": calls} if calls else {})}
    if not body.get("stream"):
        choice = {"index": 0, "finish_reason": stop, "message": message}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    if calls:
        message["tool_calls"] = [{"index": 0, **calls[0]}]
    chunk = {**head, "object": "chat.completion.chunk"}
    said = [{"index": 0, "delta": message, "finish_reason": None}]
    ended = [{"index": 0, "delta": {}, "finish_reason": stop}]
    chunks = [{**chunk, "choices": said}, {**chunk, "choices": ended}, {**chunk, "choices": [], "usage": usage}]
    return [*(("", one) for one in chunks), ("", "[DONE]")]


def _responses(body: dict[str, Any], answer: Answer, number: int) -> Reply:
    text = {"type": "output_text", "text": answer.text, "annotations": []}
    items: list[dict[str, Any]] = [
        {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    ]
    if answer.tool:
        call = {"call_id": f"call_{answer.call_id}", "name": answer.tool, "arguments": json.dumps(answer.arguments)}
        items.append({"id": f"fc_{number}", "type": "function_call", "status": "completed", **call})
    usage = {"input_tokens": count(body), "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 9}
    usage |= {"output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": count(body) + 9}
    head = {"id": f"resp_{number}", "object": "response", "created_at": 1, "model": body.get("model")}
    whole = {**head, "status": "completed", "output": items, "usage": usage, "error": None}
    if not body.get("stream"):
        return whole
    events: Events = [("response.created", {"response": {**head, "status": "in_progress", "output": []}})]
    for at, item in enumerate(items):
        events.append(("response.output_item.added", {"output_index": at, "item": {**item, "status": "in_progress"}}))
        events.append(("response.output_item.done", {"output_index": at, "item": item}))
    events.append(("response.completed", {"response": whole}))
    return [(name, {"type": name, "sequence_number": at, **data}) for at, (name, data) in enumerate(events)]


def _gemini(answer: Answer, *, stream: bool) -> Reply:
    parts: list[dict[str, Any]] = [{"text": answer.text}]
    if answer.tool:
        call = {"name": answer.tool, "args": answer.arguments, "id": answer.call_id}
        parts.append({"functionCall": call, "thoughtSignature": "c2ln"})
    content = {"role": "model", "parts": parts}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 9, "totalTokenCount": 18}
    reply = {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}
    return [("", reply)] if stream else reply
