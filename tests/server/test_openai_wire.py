"""The official OpenAI client, unmodified, against the server."""

import openai
import pytest
from live_server import live
from openai import OpenAI
from scripted import Reply, ScriptedHost

from holdfast.errors import BadInput, Busy, Failed, TooLarge
from holdfast.transcript.turn import Role, ToolCall
from waiting import PATIENCE

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = ToolCall("c1", "look", '{"at": "a.py"}')


class Bench:
    """One server for all tests of this file; the script changes."""

    def __init__(self, host, url):
        self.host = host
        self.client = OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0, timeout=PATIENCE)

    def will(self, *replies):
        self.host.replies = list(replies)

    def chat(self, messages=(USER,), **options):
        return self.client.chat.completions.create(model="any", messages=list(messages), **options)

    @property
    def asked(self):
        return self.host.asks[-1]


def said(made):
    message = made.choices[0].message
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls]
    return message.content, message.reasoning_content, calls


@pytest.fixture(scope="module")
def server():
    host = ScriptedHost()
    with live(host, max_tokens=64) as url:
        bench = Bench(host, url)
        with bench.client:
            yield bench


@pytest.fixture
def bench(server):
    server.will(Reply())
    return server


def test_an_answer_with_its_usage_and_the_extension(bench):
    made = bench.chat()
    assert (made.choices[0].message.role, made.choices[0].message.content) == ("assistant", "Hello world")
    assert (made.choices[0].finish_reason, made.model, made.object) == ("stop", "scripted", "chat.completion")
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (2, 2, 4)
    assert {"session", "slots", "bytes"} <= made.holdfast.keys()


def test_a_history_that_grew_is_told_as_cached(bench):
    first = bench.chat([{"role": "user", "content": "a question of its own"}])
    grown = [{"role": "user", "content": "a question of its own"}, first.choices[0].message.to_dict(), USER]
    second = bench.chat(grown)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens + 1
    assert second.holdfast["session"] == first.holdfast["session"]


def test_a_stream_says_the_same_as_an_answer(bench):
    bench.will(Reply(thoughts=("let me", " see"), calls=(CALL, ToolCall("c2", "look", "{}"))))
    whole = bench.chat(tools=[TOOL])
    with bench.client.chat.completions.stream(
        model="any", messages=[USER], tools=[TOOL], stream_options={"include_usage": True}
    ) as stream:
        streamed = stream.get_final_completion()
    assert said(streamed) == said(whole)
    assert said(whole)[1:] == ("let me see", [("c1", "look", CALL.arguments), ("c2", "look", "{}")])
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason == "tool_calls"
    assert streamed.usage == whole.usage


def test_the_chunks_of_a_stream(bench):
    chunks = list(bench.chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello world"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[-1].holdfast["slots"] == 2
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_in_a_chunk_of_its_own_where_asked_for(bench):
    *others, last = bench.chat(stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.total_tokens, last.holdfast["slots"]) == ([], 4, 2)
    assert not any(hasattr(chunk, "holdfast") for chunk in others)


def test_tools_reach_the_model_and_results_come_back(bench):
    bench.will(Reply(pieces=(), calls=(CALL,)), Reply(("a file",)))
    first = bench.chat(tools=[TOOL], tool_choice="auto").choices[0]
    assert (first.message.content, first.finish_reason) == (None, "tool_calls")
    assert first.message.tool_calls[0].function.arguments == CALL.arguments
    assert bench.asked.tools == (TOOL,)
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "x = 1"}]}
    second = bench.chat([USER, first.message.to_dict(), result], tools=[TOOL])
    assert second.choices[0].message.content == "a file"
    assert [turn.role for turn in bench.asked.turns] == [Role.USER, Role.ASSISTANT, Role.TOOL]
    assert bench.asked.turns[1].calls == (CALL,)
    assert (bench.asked.turns[2].text, bench.asked.turns[2].call_id) == ("x = 1", "c1")


def test_no_tools_with_tool_choice_none(bench):
    bench.chat(tools=[TOOL], tool_choice="none")
    assert bench.asked.tools == ()


def test_how_to_answer_reaches_the_model(bench):
    bench.chat(temperature=0.5, top_p=0.25, seed=7, stop=["END", "\n"], max_completion_tokens=5)
    ask = bench.asked
    assert (ask.temperature, ask.top_p, ask.seed, ask.stop, ask.max_tokens) == (0.5, 0.25, 7, ("END", "\n"), 5)
    bench.chat(max_tokens=1_000_000, stop="END")
    assert (bench.asked.max_tokens, bench.asked.stop, bench.asked.temperature) == (64, ("END",), 0.0)
    bench.chat()
    assert bench.asked.max_tokens is None


def test_without_a_seed_answers_at_a_temperature_differ(bench):
    seeds = set()
    for _ in range(4):
        bench.chat(temperature=1.0)
        seeds.add(bench.asked.seed)
    assert len(seeds) > 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(bench):
    bench.will(Reply(("one ", "two END three", " four")))
    made = bench.chat(stop="END").choices[0]
    assert (made.message.content, made.finish_reason) == ("one two ", "stop")


def test_a_limit_ends_the_answer_with_length(bench):
    made = bench.chat(max_tokens=1).choices[0]
    assert (made.message.content, made.finish_reason) == ("Hello", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(bench, stream):
    made = bench.chat(logprobs=True, top_logprobs=2, stream=stream)
    choices = [chunk.choices[0] for chunk in made] if stream else made.choices
    told = [one for choice in choices if choice.logprobs for one in choice.logprobs.content]
    assert [(one.token, one.logprob, len(one.top_logprobs)) for one in told] == [
        ("Hello", -0.5, 2),
        (" world", -0.5, 2),
    ]
    assert bytes(told[1].bytes).decode() == " world"


def test_a_developer_is_the_system_and_parts_are_text(bench):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    bench.chat([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    assert [(turn.role, turn.text) for turn in bench.asked.turns] == [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "one\ntwo"),
    ]


def test_a_message_means_the_same_whatever_follows_it(bench):
    """Agents that act through fences have their observations read as results elsewhere; here that would change turns
    that a session already holds."""
    grown = [USER, {"role": "assistant", "content": "```bash\nls\n```"}]
    bench.chat(grown)
    before = bench.asked.turns
    bench.chat([*grown, {"role": "user", "content": "<returncode>0</returncode>"}])
    assert bench.asked.turns[:2] == before


def test_the_key_is_a_digest_and_separates_sessions(bench):
    bench.chat([{"role": "user", "content": "mine"}])
    mine = bench.asked.key
    other = bench.client.with_options(api_key="sk-other").chat.completions.create(
        model="any", messages=[{"role": "user", "content": "mine"}]
    )
    assert other.usage.prompt_tokens_details.cached_tokens == 0
    assert bench.asked.key != mine
    assert len(mine) == 64
    assert "sk-" not in mine


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}}, "tool_choice"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "zz", "content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(bench, options, param):
    asked = len(bench.host.asks)
    with pytest.raises(openai.BadRequestError) as refused:
        bench.chat(**options)
    assert refused.value.param.startswith(param)
    assert refused.value.type == "invalid_request_error"
    assert param.rpartition("[")[2].rstrip("]") in refused.value.message
    assert len(bench.host.asks) == asked


def test_unknown_fields_are_ignored(bench):
    made = bench.chat(extra_body={"min_p": 0.1, "chat_template_kwargs": {"x": 1}}, user="me", store=False, n=1)
    assert made.choices[0].message.content == "Hello world"


@pytest.mark.parametrize(
    ("error", "kind", "status", "code"),
    [
        (BadInput("no"), openai.BadRequestError, 400, None),
        (TooLarge("the session has 9 tokens"), openai.BadRequestError, 400, "context_length_exceeded"),
        (Busy("no room"), openai.InternalServerError, 503, "overloaded"),
        (Failed("no memory"), openai.InternalServerError, 500, None),
        (ZeroDivisionError("inner thing"), openai.InternalServerError, 500, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_answer_is_a_status(bench, error, kind, status, code, stream):
    bench.will(Reply(error=error))
    with pytest.raises(kind) as raised:
        bench.chat(stream=stream)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert ("inner" in raised.value.message) is False
    assert raised.value.response.headers.get("retry-after") == ("1" if status == 503 else None)


@pytest.mark.parametrize("error", [Failed("the memory ran out"), ZeroDivisionError("inner thing")])
def test_an_error_within_a_stream_is_its_last_event(bench, error):
    bench.will(Reply(error=error, after=1))
    told = []
    chunks = bench.chat(stream=True)
    with pytest.raises(openai.APIError) as raised:
        told.extend(chunk.choices[0].delta.content for chunk in chunks)
    assert told == ["", "Hello"]
    assert raised.value.type == "server_error"
    assert ("memory" in raised.value.message) == isinstance(error, Failed)
    assert "inner" not in raised.value.message


def test_a_plain_text_goes_on(bench):
    made = bench.client.completions.create(model="any", prompt="def f", max_tokens=8, logprobs=1)
    choice = made.choices[0]
    assert (choice.text, choice.finish_reason, made.usage.prompt_tokens) == ("Hello world", "stop", 2)
    assert (choice.logprobs.tokens, choice.logprobs.text_offset) == (["Hello", " world"], [0, 5])
    assert choice.logprobs.top_logprobs[0] == {"Hello": -0.5}
    assert (bench.asked.prompt, bench.asked.turns, bench.asked.max_tokens) == ("def f", (), 8)


def test_a_plain_text_goes_on_in_a_stream(bench):
    *chunks, last = bench.client.completions.create(
        model="any", prompt=["x"], stream=True, logprobs=0, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello world"
    assert [chunk.choices[0].logprobs.text_offset for chunk in chunks[:2]] == [[0], [5]]
    assert (chunks[-1].choices[0].finish_reason, last.usage.total_tokens) == ("stop", 3)
    assert bench.asked.max_tokens == 16


@pytest.mark.parametrize(
    ("field", "value"), [("echo", True), ("best_of", 2), ("suffix", "x"), ("n", 2), ("logprobs", 9), ("prompt", [1, 2])]
)
def test_what_a_plain_text_cannot_have_is_refused_by_name(bench, field, value):
    with pytest.raises(openai.BadRequestError) as refused:
        bench.client.completions.create(**{"model": "any", "prompt": "x", field: value})
    assert refused.value.param.startswith(field)


def test_the_model_is_listed(bench):
    assert [model.id for model in bench.client.models.list()] == ["scripted"]
    assert bench.client.models.retrieve("scripted").owned_by == "holdfast"
    with pytest.raises(openai.NotFoundError):
        bench.client.models.retrieve("org/gpt-9")
