"""A tiny model with a large window, whose words a script chooses, behind the real server with memory tools.

Wires, sessions, states and compactions are real. Its tokenizer is learned on the spot from this project's own text, so
that what agents send, 100,000 characters and more, is short enough for a test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import two_steps
from answers import Answer
from driving import Agent
from live_server import live
from steered_host import SteeredHost
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import SPECIAL, plain_model
from holdfast.engine.local import LocalEngine
from holdfast.model.load import adopt_model
from holdfast.server.memory_tools import with_memory_tools
from holdfast.server.protocol import GenerateRequest
from holdfast.server.sessions.host import HostPolicy
from holdfast.session.trigger import CircuitBreaker, Trigger
from holdfast.transcript.turn import Role

WINDOW = 131_072
VOCABULARY = 6_000
TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
    "{% for call in message.tool_calls or [] %}{{ '\n<tool_call>' }}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SEARCH = Answer("I look it up.", "history_search", {"query": two_steps.QUESTION})


@cache
def engine() -> LocalEngine:
    """Two layers, and words of this project as tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    learned = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    docs = Path(__file__).parents[2] / "docs"
    inner.train_from_iterator([(docs / name).read_text() for name in ("design.md", "log.md", "map.md")], learned)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    model = plain_model("llama", num_hidden_layers=2, vocab_size=len(tokenizer), max_position_embeddings=WINDOW)
    return LocalEngine(adopt_model(model, tokenizer, name="steered"))


def next_answer(agent: Agent, ask: GenerateRequest) -> Answer:
    """Returns what the model says next in the task of two steps, by what it has said before."""
    if agent.tool and agent.tool not in {tool["function"]["name"] for tool in ask.tools}:
        return Answer("A short title")
    own = [turn for turn in ask.turns if turn.role is Role.ASSISTANT]
    read = sum(turn.text.startswith("I read part") for turn in own)
    if read <= two_steps.LOGS:
        return agent.call(f"I read part {read}.", two_steps.shell_of(read), read)
    if not any(call.name == SEARCH.tool for turn in own for call in turn.calls):
        return SEARCH
    if not any("I write the answer" in turn.text for turn in own):
        port = two_steps.port_in(ask.turns[-1].text)  # what the tool answered, and nothing else
        return agent.write_file("I write the answer.", "answer.txt", f"port={port}", read)
    return agent.call("Done.", agent.last_shell(), read) if agent.last_shell() else Answer("Done.")


def write_answer(answer: Answer) -> str:
    """Returns an answer as the model writes it."""
    if not answer.tool:
        return answer.text
    call = json.dumps({"name": answer.tool, "arguments": answer.arguments})
    return f"{answer.text}\n<tool_call>{call}</tool_call>"


@contextmanager
def scripted_serve(agents: list[Agent], notes: Path, tokens: int) -> Iterator[tuple[SteeredHost, str]]:
    """The host, which compacts above so many slots, and the server's address; the one agent of the list comes later."""
    policy = HostPolicy(trigger=Trigger(tokens=tokens, window=None), breaker=CircuitBreaker(cool_down=2))
    host = SteeredHost(lambda ask: write_answer(next_answer(agents[0], ask)), policy, engine())
    with live(with_memory_tools(host, notes)) as url:
        yield host, url
