"""Contexts as prompts of a server: what is sent, what is read back, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from holdfast.context.segments import CompactContext, SoftSegment, TokenSegment, token_segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.local import Continuation
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.vllm.completions import Prefix, RemoteEngine
from tolerance import PASS, close


@dataclass
class Server:
    """Answers every request with `reply(body)`; bytes are sent as they are."""

    reply: Callable[[dict[str, Any]], Any]
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.requests.append(body)
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.paths.append(self.path)
            answer = server.reply(body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(server.status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def stream(*texts: str, end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [json.dumps({"choices": [{"index": 0, "text": text}]}) for text in texts]
    return ("".join(f"data: {chunk}\n\n" for chunk in chunks) + end).encode()


def told(**logprobs: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": "", "logprobs": logprobs}]}


def words(start: int = 0) -> CompactContext:
    return CompactContext((token_segment([5, 6, 7], start), token_segment([8, 9], start + 3)), start + 5)


def soft(pair, gap: float = 0.0) -> CompactContext:
    embeds = torch.arange(2 * 64, dtype=torch.float32).view(2, 64)
    middle = SoftSegment(embeds, torch.tensor([3.0, 4.0 + gap]))
    return CompactContext(
        (token_segment([5, 6, 7], 0), middle, token_segment([8], 5)), 6, model_digest=pair.model.digest
    )


def loaded(text: str) -> torch.Tensor:
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)


def test_words_are_sent_as_ids_and_the_answer_comes_in_pieces():
    with serving(Server(lambda body: stream("he", "", "llo"))) as server:
        engine = RemoteEngine(server.url, "m", key="secret")
        how = Sampling(temperature=0.5, top_p=0.9, seed=3)
        assert list(engine.generate(engine.open(words()), [1, 2], 9, how)) == ["he", "llo"]
    assert server.paths == ["/v1/completions"]
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.requests[0] == {
        "model": "m",
        "prompt": [[5, 6, 7, 8, 9, 1, 2]],
        "max_tokens": 9,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
    }


def test_a_context_may_begin_at_any_position():
    engine = RemoteEngine("http://127.0.0.1:1/v1", "m")
    assert engine.open(words(start=40)) == engine.open(words()) == Prefix((5, 6, 7, 8, 9))


def test_no_key_sends_no_authorization():
    with serving(Server(lambda body: stream("x"))) as server:
        list(RemoteEngine(server.url + "/", "m").generate(Prefix((1,)), [2], 1))
    assert "authorization" not in server.headers[0]
    assert server.paths == ["/v1/completions"]


def test_soft_segments_send_everything_as_embeddings(tiny):
    pair = tiny("llama")
    with serving(Server(lambda body: stream("x"))) as server:
        engine = RemoteEngine(server.url, "m", pair.model)
        context = soft(pair)
        list(engine.generate(engine.open(context), [1, 2], 4))
    (sent,) = server.requests[0]["prompt_embeds"]
    assert "prompt" not in server.requests[0]
    matrix = pair.plain.get_input_embeddings().weight
    want = torch.cat((matrix[[5, 6, 7]], context.segments[1].embeds, matrix[[8, 1, 2]]))
    assert torch.equal(loaded(sent), want)


def test_embeddings_that_are_sent_give_the_local_logits(tiny):
    pair = tiny("qwen3")
    with serving(Server(lambda body: stream("x"))) as server:
        engine = RemoteEngine(server.url, "m", pair.model)
        list(engine.generate(engine.open(soft(pair)), [1, 2], 4))
    embeds = loaded(server.requests[0]["prompt_embeds"][0])
    with torch.no_grad():
        there = pair.plain(inputs_embeds=embeds[None]).logits[0, -2:]
    here = pair.engine.next_logits(pair.engine.open(soft(pair)), [1, 2])
    assert close(here, there, PASS)


def test_a_gap_is_refused_with_its_slot_or_closed_on_demand(tiny):
    pair = tiny("llama")
    engine = RemoteEngine("http://127.0.0.1:1/v1", "m", pair.model)
    with pytest.raises(BadInput, match=r"slot 4 of the context stands at position 4\.5 where a server counts 4"):
        engine.open(soft(pair, gap=0.5))
    assert len(engine.open(soft(pair, gap=0.5), renumber=True)) == 6


def test_a_context_that_ends_before_its_length_is_refused():
    with pytest.raises(BadInput, match="stands at position 0 where a server counts 4"):
        RemoteEngine("http://127.0.0.1:1/v1", "m").open(CompactContext((token_segment([1, 2], 0),), 6))


@pytest.mark.parametrize("renumber", [False, True])
def test_states_are_refused_with_what_serves_them(tiny, ids, renumber):
    pair = tiny("llama")
    past = pair.engine.open(CompactContext((), 0))
    _, states = pair.engine.capture(past, ids(6))
    context = CompactContext((token_segment([5], 0), keep_pairs(states, [None] * 3)), 6)
    with pytest.raises(BadInput, match=r"segment 1 holds keys and values.*holdfast\.vllm"):
        RemoteEngine("http://127.0.0.1:1/v1", "m", pair.model).open(context, renumber=renumber)


def test_soft_segments_need_the_model_that_they_were_made_for(tiny):
    with pytest.raises(BadInput, match="words="):
        RemoteEngine("http://127.0.0.1:1/v1", "m").open(soft(tiny("llama")))
    with pytest.raises(BadInput, match="another model"):
        RemoteEngine("http://127.0.0.1:1/v1", "m", tiny("qwen3").model).open(soft(tiny("llama")))


def test_words_are_scored_by_an_echo():
    rows = {"choices": []}

    def reply(body):
        for index, row in enumerate(body["prompt"]):
            scores = [None, *(-float(i) for i in range(1, len(row))), -99.0]  # the last is the token it adds
            rows["choices"].append({"index": index, "text": "", "logprobs": {"token_logprobs": scores}})
        rows["choices"].reverse()  # order is told by the index
        return rows

    with serving(Server(reply)) as server:
        engine = RemoteEngine(server.url, "m")
        asked = [Continuation((1, 2), (3, 4)), Continuation((1,), (2,))]
        got = engine.score(engine.open(words()), asked)
    assert [g.tolist() for g in got] == [[-7.0, -8.0], [-6.0]]
    assert server.requests[0]["echo"] is True
    assert server.requests[0]["prompt"] == [[5, 6, 7, 8, 9, 1, 2, 3, 4], [5, 6, 7, 8, 9, 1, 2]]


def by_id(body: dict[str, Any]) -> dict[str, Any]:
    """Every token asked for has the log-probability -(its id) / (the prompt's length)."""
    prompts = body.get("prompt") or [loaded(text) for text in body["prompt_embeds"]]
    choices = []
    for index, prompt in enumerate(prompts):
        top = {f"token_id:{t}": -t / len(prompt) for t in body["logprob_token_ids"]}
        choices.append({"index": index, "text": "", "logprobs": {"top_logprobs": [top]}})
    return {"choices": choices}


@pytest.mark.parametrize("kind", ["pages", "embeddings"])
def test_what_cannot_be_echoed_is_asked_for_token_by_token(tiny, kind):
    pair = tiny("llama")
    with serving(Server(by_id)) as server:
        engine = RemoteEngine(server.url, "m", pair.model)
        prefix = engine.open(soft(pair)) if kind == "embeddings" else Prefix((5,) * 6, readable=False)
        (got,) = engine.score(prefix, [Continuation((1, 2), (30, 20, 30))])
    assert close(got, torch.tensor([-30 / 8, -20 / 9, -30 / 10]), PASS)
    assert server.requests[0]["logprob_token_ids"] == [20, 30]
    assert "echo" not in server.requests[0]


def test_the_likeliest_tokens_are_told_by_id():
    with serving(Server(lambda body: told(top_logprobs=[{"token_id:7": -0.5, "token_id:9": -1.5}]))) as server:
        assert RemoteEngine(server.url, "m").top(Prefix((1,)), [2], 2) == {7: -0.5, 9: -1.5}
    assert (server.requests[0]["logprobs"], server.requests[0]["max_tokens"]) == (2, 1)


def test_a_server_that_tells_words_in_place_of_ids_is_refused():
    with serving(Server(lambda body: told(top_logprobs=[{" the": -0.5}]))) as server, pytest.raises(Failed, match="id"):
        RemoteEngine(server.url, "m").top(Prefix((1,)), [2])


BROKEN = {
    "no completion": b"<html>",
    "no choices": {"choices": []},
    "no log-probabilities": told(),
    "holes": told(token_logprobs=[None, -1.0, None]),
    "failed": {"choices": [{"index": 0, "text": "", "finish_reason": "error"}]},
    "of another shape": {"choices": {"index": "x"}},
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_answer_without_scores_is_a_failure(case):
    with serving(Server(lambda body: BROKEN[case])) as server, pytest.raises(Failed, match=r"m at http://127"):
        RemoteEngine(server.url, "m").score(Prefix((1,)), [Continuation((2,), (3,))])


CUT = {
    "before the end": stream("a", end=""),
    "by an error": stream("a", end='data: {"error": {"message": "gone"}}\n\n'),
    "by a failed load": stream("a", end='data: {"choices": [{"text": "", "finish_reason": "error"}]}\n\n'),
}


@pytest.mark.parametrize("case", CUT)
def test_an_answer_that_breaks_off_is_a_failure_after_what_came(case):
    with serving(Server(lambda body: CUT[case])) as server:
        pieces = RemoteEngine(server.url, "m").generate(Prefix((1,)), [2], 5)
        assert next(pieces) == "a"
        with pytest.raises(Failed):
            next(pieces)


@pytest.mark.parametrize(
    ("status", "then"),
    [(400, "--enable-prompt-embeds"), (401, "key"), (404, "check base_url"), (500, "log")],
)
def test_a_refusal_tells_the_servers_words_and_never_the_key(status, then):
    reply = {"error": {"message": "no, secret-key"}}
    with serving(Server(lambda body: reply, status)) as server, pytest.raises(Failed, match=then) as caught:
        list(RemoteEngine(server.url, "m", key="secret-key").generate(Prefix((1,)), [2], 5))
    assert "no, ***" in str(caught.value)


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(Failed, match="check that the server runs"):
        RemoteEngine("http://127.0.0.1:9/v1", "m", timeout=2).top(Prefix((1,)), [2])


def test_an_answer_of_no_token_is_refused():
    with pytest.raises(BadOption, match="at least 1"):
        next(RemoteEngine("http://127.0.0.1:1/v1", "m").generate(Prefix((1,)), [2], 0))


def test_fractional_words_are_refused():
    segment = TokenSegment(torch.tensor([1, 2]), torch.tensor([0.0, 0.5]))
    with pytest.raises(BadInput, match="slot 0"):
        RemoteEngine("http://127.0.0.1:1/v1", "m").open(CompactContext((segment,), 3))
