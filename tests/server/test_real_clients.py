"""The official SDKs, unmodified, against the real host over HTTP: only what is chosen is written beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from sdk_clients import SYSTEM, Chat, Client, Heard, Messages, Named, Responses
from steered_host import CLOSING, eager, read_by_answers, steered

from holdfast.server.http.auth import digest
from holdfast.server.protocol import GenerateRequest
from holdfast.transcript.turn import Role
from waiting import until

WIRES = (Chat, Messages, Responses, Named)
OWN = (Chat, Messages, Responses)
"""Those that keep their history themselves."""


def called(command: str) -> str:
    return f'<tool_call>{{"name": "bash", "arguments": {{"command": {json.dumps(command)}, "seconds": 5}}}}</tool_call>'


ANSWERS = (
    "I look first.\n" + called("ls"),
    called("cat 'a b.txt'") + "\n" + called('echo "ü\\n"'),
    "<think>Two files are there.</think>Done: two files.",
    "<think>Now the second task.</think>\n\nOnce more.\n\n" + called("make test"),
    called("git diff"),
    "All is green.",
)


def said(ask: GenerateRequest) -> int:
    return sum(turn.role is Role.ASSISTANT for turn in ask.turns)


def by_turn(ask: GenerateRequest) -> str:
    """The answer to what the assistant has said so far."""
    return ANSWERS[said(ask) % len(ANSWERS)]


def nothing(_client: Client) -> None:
    return None


def go_through(client: Client, rounds: int = len(ANSWERS), between: Callable[[Client], None] = nothing) -> list[Heard]:
    """A conversation: tools run where they are called, else the user goes on."""
    heard = [client.say("Look at the files.")]
    while len(heard) < rounds:
        between(client)
        results = {id_: f"result {len(heard)} of {name}" for id_, name in heard[-1].calls}
        heard.append(client.results(results) if results else client.say(f"Then task {len(heard)}."))
    return heard


def check_followed(heard: list[Heard]) -> None:
    """One session, and each request finds all of it: what was asked, what was said, and what closes that."""
    assert len({one.session for one in heard}) == 1
    assert [one.cached for one in heard[1:]] == [held(one) for one in heard[:-1]]


def held(one: Heard) -> int:
    """Tokens that its session has after an answer."""
    return one.prompt + one.completion + CLOSING


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_conversation_is_one_session_of_which_only_new_turns_are_read(wire: type[Client], stream: bool) -> None:
    with steered(by_turn) as (host, url), read_by_answers() as read, wire(url, stream=stream) as client:
        heard = go_through(client)
        (row,) = host.sessions(digest("mine"))
    assert [one.text for one in heard] == ["I look first.", "", "Done: two files.", "Once more.", "", "All is green."]
    assert [len(one.calls) for one in heard] == [1, 2, 0, 1, 1, 0]
    check_followed(heard)
    assert (heard[0].cached, sum(read)) == (0, row["tokens"])


# a history that comes back


def rewritten(client: Client) -> None:
    """The history in other words that mean the same, as agents send it that keep it in a form of their own."""
    client.history = [_rewritten(one) for one in client.history if getattr(one, "type", "") != "reasoning"]


def _rewritten(one: Any) -> dict[str, Any]:
    made = dict(one if isinstance(one, dict) else one.model_dump())
    for dropped in ("id", "status", "reasoning_content", "refusal"):
        made.pop(dropped, None)
    if "arguments" in made:
        made["arguments"] = _spaced(made["arguments"])
    for call in made.get("tool_calls") or ():
        call["function"] = {"arguments": _spaced(call["function"]["arguments"]), "name": "bash"}
    content = made.get("content")
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else part.model_dump(exclude_none=True) for part in content]
        made["content"] = [_part(part) for part in parts if part["type"] != "thinking"]
    elif isinstance(content, str) and "type" not in made:
        made["content"] = [{"type": "text", "text": content}]
    return made


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "tool_use":
        return {**part, "input": dict(reversed(part["input"].items())), "cache_control": {"type": "ephemeral"}}
    return part


def _spaced(arguments: str) -> str:
    return json.dumps(dict(reversed(json.loads(arguments).items())), indent=4)


@pytest.mark.parametrize("wire", OWN)
def test_a_history_that_its_client_wrote_anew_is_known_again(wire: type[Client]) -> None:
    with steered(by_turn) as (_, url), wire(url) as client:
        heard = go_through(client, between=rewritten)
        kept = str(client.history)
    check_followed(heard)
    assert "Two files are there" not in kept  # the reasoning really was dropped
    assert "seconds" in kept


@pytest.mark.parametrize("wire", OWN)
def test_an_edited_history_forks_where_it_was_edited(wire: type[Client]) -> None:
    with steered(by_turn) as (_, url), wire(url) as client:
        heard = go_through(client, 4)
        kept, results = list(client.history), {id_: "green" for id_, _ in heard[3].calls}
        client.history = kept[: next(at for at, one in enumerate(kept) if "Then task" in str(one))]
        edited = client.say("No: another task.")
        client.history = kept
        went_on = client.results(results)
    assert edited.session != heard[0].session
    assert edited.cached == held(heard[2])
    check_followed([*heard, went_on])


@pytest.mark.parametrize("wire", WIRES)
def test_two_keys_have_sessions_of_their_own(wire: type[Client]) -> None:
    with steered(by_turn) as (_, url), wire(url, key="mine") as mine, wire(url, key="yours") as yours:
        first, second = mine.say("The secret is 42."), yours.say("The secret is 42.")
    assert first.session != second.session
    assert (first.cached, second.cached) == (0, 0)


def as_blocks(message: dict[str, Any]) -> dict[str, Any]:
    """A message of chat completions as Anthropic's."""
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
        return {"role": "user", "content": [result]}
    uses = [
        {"type": "tool_use", "id": call["id"], "name": "bash", "input": json.loads(call["function"]["arguments"])}
        for call in message.get("tool_calls") or ()
    ]
    text = [{"type": "text", "text": message["content"]}] if message.get("content") else []
    return {"role": message["role"], "content": [*text, *uses]}


def as_items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message of chat completions as items of Responses."""
    if message["role"] == "tool":
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}]
    calls = [
        {"type": "function_call", "call_id": call["id"], **call["function"]} for call in message.get("tool_calls") or ()
    ]
    text = [{"role": message["role"], "content": message["content"]}] if message.get("content") else []
    return [*text, *calls]


def without_descriptions(tools: Any) -> Any:
    return json.loads(json.dumps(tools).replace('"description": "Run it.", ', ""))


@pytest.mark.parametrize("described", [True, False])
def test_a_conversation_goes_on_in_its_session_through_any_other_wire(described: bool) -> None:
    with steered(by_turn) as (_, url), Chat(url) as chat, Messages(url) as messages, Responses(url) as responses:
        for client in (chat, messages, responses):
            client.tools = client.tools if described else without_descriptions(client.tools)
        heard = go_through(chat, 3)
        kept = [one if isinstance(one, dict) else one.model_dump(exclude_none=True) for one in chat.history]
        messages.history = [as_blocks(one) for one in kept]
        heard.append(messages.say("Then task 3."))
        (call,) = [block for block in messages.history[-1]["content"] if block.type == "tool_use"]
        items = [item for one in kept for item in as_items(one)]
        items += [{"role": "user", "content": "Then task 3."}, {"role": "assistant", "content": "Once more."}]
        arguments = json.dumps(call.input)
        call_item = {"type": "function_call", "call_id": call.id, "name": "bash", "arguments": arguments}
        responses.history = [*items, call_item]
        heard.append(responses.results({call.id: "green"}))
    check_followed(heard)


def test_an_answer_that_its_reader_left_is_asked_for_again() -> None:
    longer = ["Let me go on and on. " * 300]  # so that its reader is gone long before it is at its end

    def script(ask: GenerateRequest) -> str:
        return longer.pop() if said(ask) and longer else by_turn(ask)

    with steered(script) as (host, url), Chat(url) as client:
        first = client.say("Look at the files.")
        results = {id_: "two files" for id_, _ in first.calls}
        how: Any = {"model": "any", "messages": [{"role": "system", "content": SYSTEM}, *client.history]}
        how["messages"] += client.told(results)
        with client.client.chat.completions.create(**how, tools=client.tools, stream=True) as stream:  # type: ignore[union-attr]
            next(stream)
        until(lambda: not any(row["busy"] for row in host.sessions(digest("mine"))))  # the server has seen it go
        again = client.results(results)
    assert again.session == first.session
    assert again.cached >= held(first)
    assert len(again.calls) == 2


# long sessions

TASK = "Fill the sheet, and never touch row 7."


def worker(ask: GenerateRequest) -> str:
    return f"Run {said(ask)}.\n" + called(f"echo {said(ask)}")


@pytest.mark.parametrize("wire", WIRES)
def test_a_long_session_is_compacted_again_and_again_and_still_read_once(wire: type[Client]) -> None:
    heard: list[Heard] = []
    with steered(worker, eager(400, 3)) as (host, url), read_by_answers() as read, wire(url, stream=True) as client:
        heard.append(client.say(TASK))
        while len(heard) < 17:
            ((call, _),) = heard[-1].calls
            heard.append(client.results({call: f"row {len(heard)}: " + "value " * 4}))
            host.rested()
        (row,) = host.sessions(digest("mine"))
    check_followed(heard)
    assert row["compactions"] >= 3
    assert row["slots"] < 0.6 * row["tokens"]
    prefilled = sum(one.prompt - one.cached for one in heard)
    generated = sum(one.completion for one in heard)
    assert prefilled + generated <= sum(read) <= 1.2 * row["tokens"]
    assert max(one.about["slots"] for one in heard) < 600


def test_a_compaction_that_a_client_asks_for_stands_for_its_history() -> None:
    with steered(by_turn) as (host, url), Responses(url) as client:
        heard = go_through(client, 3)
        sdk: Any = client.client
        compacted = sdk.responses.compact(model="any", previous_response_id=client.last)
        client.history = list(compacted.output)
        heard.append(client.say("Then task 3."))
        (row,) = host.sessions(digest("mine"))
    assert (compacted.object, row["compactions"]) == ("response.compaction", 1)
    assert row["slots"] < row["tokens"]
    check_followed(heard)


# how to answer


def test_the_same_seed_gives_the_same_answer() -> None:
    with steered(lambda _: None) as (_, url), openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client:
        how: Any = {"model": "any", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 7}
        texts = [
            client.chat.completions.create(**how, temperature=1, seed=seed).choices[0].message.content
            for seed in (5, 5, 6)
        ]
    assert texts[0] == texts[1] != texts[2]


def test_log_probabilities_are_told_for_every_token() -> None:
    with steered(lambda _: "Port 8123.") as (_, url), openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client:
        how: Any = {"model": "any", "messages": [{"role": "user", "content": "Which port?"}], "logprobs": True}
        whole = client.chat.completions.create(**how, top_logprobs=3)
        with client.chat.completions.create(**how, stream=True) as stream:
            streamed = [chunk.choices[0].logprobs for chunk in stream if chunk.choices]
    told = whole.choices[0].logprobs
    assert told
    assert "".join(one.token for one in told.content or ()) == "Port 8123."
    assert all(len(one.top_logprobs) == 3 and one.logprob <= 0 for one in told.content or ())
    again = [one.logprob for rows in streamed if rows for one in rows.content or ()]
    assert again == [one.logprob for one in told.content or ()]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_an_answer_that_its_session_goes_on_from(stream: bool) -> None:
    with (
        steered(lambda _: "One\nObservation: two") as (_, url),
        anthropic.Anthropic(base_url=url, api_key="k") as client,
    ):
        how: Any = {"model": "any", "max_tokens": 50, "stop_sequences": ["\nObservation:"]}
        history: list[Any] = [{"role": "user", "content": "Count."}]
        answers: list[Any] = []
        for _ in range(2):
            if stream:
                with client.messages.stream(**how, messages=history) as events:
                    answers.append(events.get_final_message())
            else:
                answers.append(client.messages.create(**how, messages=history))
            history += [{"role": "assistant", "content": answers[-1].content}, {"role": "user", "content": "On."}]
    for answer in answers:
        assert [block.text for block in answer.content] == ["One"]
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "\nObservation:")
    assert answers[1].usage.cache_read_input_tokens > answers[0].usage.input_tokens


def test_an_answer_that_was_cut_inside_a_call_goes_on() -> None:
    with steered(worker) as (_, url), openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client:
        history: list[Any] = [{"role": "user", "content": TASK}]
        answers: list[Any] = []
        for _ in range(2):
            how: Any = {"model": "any", "tools": Chat.tools, "messages": history, "max_tokens": 7}
            answers.append(client.chat.completions.create(**how))
            history += [answers[-1].choices[0].message, {"role": "user", "content": "Go on."}]
    assert answers[0].choices[0].finish_reason == "length"
    assert "<tool_call>" in answers[0].choices[0].message.content
    before, after = (one.usage for one in answers)
    assert after.prompt_tokens_details.cached_tokens == before.prompt_tokens + before.completion_tokens + CLOSING


def test_tokens_are_counted_as_they_are_read() -> None:
    with steered(by_turn) as (host, url), Messages(url) as client:
        heard = client.say("Look at the files.")
        how: Any = {"model": "any", "system": SYSTEM, "tools": client.tools, "messages": client.history[:1]}
        counted = client.client.messages.count_tokens(**how)  # type: ignore[union-attr]
        opening = host.engine.model.tokenizer("<|im_start|>assistant\n")["input_ids"]
    assert counted.input_tokens == heard.prompt - len(opening)


# what cannot be served


@pytest.mark.parametrize("stream", [False, True])
def test_a_history_that_is_too_long_is_the_sdks_own_error(stream: bool) -> None:
    long: Any = {"model": "any", "messages": [{"role": "user", "content": "word " * 9000}], "stream": stream}
    with steered(by_turn) as (_, url), Chat(url) as chat, Messages(url) as messages:
        with pytest.raises(openai.BadRequestError) as raised:
            chat.client.chat.completions.create(**long)  # type: ignore[union-attr]
        with pytest.raises(anthropic.APIStatusError, match="8192"):
            messages.client.messages.create(**long, max_tokens=5)  # type: ignore[union-attr]
        assert chat.say("Look at the files.").calls  # the server is as it was
    assert raised.value.code == "context_length_exceeded"


def test_a_call_without_its_result_is_refused_with_the_place() -> None:
    with steered(by_turn) as (_, url), Chat(url) as chat, Messages(url) as messages, Responses(url) as responses:
        for client, error in ((chat, openai), (messages, anthropic), (responses, openai)):
            client.say("Look at the files.")
            with pytest.raises(error.BadRequestError, match=r"(messages|input).*no turn after it answers"):
                client.say("And?")


def test_what_is_named_must_be_kept_and_be_the_callers() -> None:
    with steered(by_turn) as (_, url), Named(url) as mine, Named(url, key="yours") as yours:
        mine.say("Look at the files.")
        yours.last = mine.last
        with pytest.raises(openai.NotFoundError, match="names nothing that is kept here"):
            yours.say("And?")


def test_a_wrong_key_is_the_sdks_own_error() -> None:
    with steered(by_turn, keys=frozenset({digest("right")})) as (_, url):
        for wire, error in ((Chat, openai), (Messages, anthropic), (Responses, openai)):
            with wire(url, key="wrong") as client, pytest.raises(error.AuthenticationError, match="not known here"):
                client.say("Look at the files.")
            with wire(url, key="right") as client:
                assert client.say("Look at the files.").calls
