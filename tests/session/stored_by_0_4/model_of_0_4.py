"""The model and the turns of the session that version 0.4 (commit fcc8adf) stored in this folder.

It appended turns 0 to 4, compacted, took that back, pinned turn 3, appended turn 5, compacted with restart, appended
the rest, pinned turn 7 and let it go, went back to 8 turns, and saved. The weights follow from a formula and the
tokenizer is spelt out, so that the model is the same on every machine and whatever else the tests change.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from holdfast.engine.local import LocalEngine
from holdfast.model.load import adopt_model
from holdfast.transcript.turn import Role, ToolCall, Turn

SPECIAL = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = (
    Turn(Role.SYSTEM, "Edit code."),
    Turn(Role.USER, "Find the port."),
    Turn(Role.ASSISTANT, "Reading.", calls=(ToolCall("c1", "read", '{"path": "a.py"}'),)),
    Turn(Role.TOOL, "PORT = 8123\nHOST = 'db-7'\n", call_id="c1"),
    Turn(Role.ASSISTANT, "It is 8123.", reasoning="As the file says."),
    Turn(Role.USER, "Never use 8080."),
    Turn(Role.ASSISTANT, "", calls=(ToolCall("c2", "read", '{"path": "b.py"}'),)),
    Turn(Role.TOOL, "error: no such file", call_id="c2", is_error=True),
    Turn(Role.ASSISTANT, "There is no b.py."),
)


def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(symbols)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(symbol, special=True, normalized=False) for symbol in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    return fast


def engine() -> LocalEngine:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=4, vocab_size=258, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for number, (_, weight) in enumerate(sorted(hf.named_parameters())):
        steps = torch.arange(weight.numel(), dtype=torch.int64) * (7919 + 2 * number) % 1009  # integers: exact anywhere
        weight.data = ((steps - 504).float() / 512).view_as(weight)
    hf.generation_config.eos_token_id = 1
    return LocalEngine(adopt_model(hf.float().eval().requires_grad_(False), tokenizer(), name="made-for-0.4"))
