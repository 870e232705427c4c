"""Files as version 0.4 wrote them. Run once, at commit fcc8adf, in this folder: `python make.py`; never again.

The weights follow from a formula and the tokenizer is spelt out, so that the model is the same on every machine and
whatever else the tests change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from holdfast.engine.local import LocalEngine
from holdfast.model.load import adopt
from holdfast.transcript.turn import Role, ToolCall, Turn

HERE = Path(__file__).parent
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
    return LocalEngine(adopt(hf.float().eval().requires_grad_(False), tokenizer(), name="made-for-0.4"))


def main() -> None:
    import json
    from dataclasses import replace

    from holdfast.latent import Plan
    from holdfast.store import Store

    from holdfast.context import store as contexts
    from holdfast.context.segments import StateSegment
    from holdfast.context.surgery import coded
    from holdfast.session import Session

    own = engine()
    session = Session(own, Plan("keydiff", ratio=2.0), store=Store(HERE / "store"), name="written-by-0-4")
    session.append(TURNS[:5])
    session.compact()
    session.undo()
    session.pin(3)
    session.append(TURNS[5:6])
    session.compact(restart=True)
    session.append(TURNS[6:])
    session.pin(7)
    session.pin(7, pinned=False)
    session.rewind(8)
    session.save()
    context = session.context()
    contexts.save(context, HERE / "plain.holdfast", own.model)
    narrow = [coded(s, "int8") if isinstance(s, StateSegment) else s for s in context.segments]
    contexts.save(replace(context, segments=tuple(narrow)), HERE / "int8.holdfast", own.model)
    named = {event[what] for event in session.events[-6:] for what in ("context", "hidden") if what in event}
    for object_file in (HERE / "store" / "objects").glob("*/*"):
        if object_file.name not in named:  # of the compaction that was taken back
            object_file.unlink()
    logits = own.next_logits(session.held.live, [5, 6, 7])[-1]
    seen = {
        "kinds": [event["kind"] for event in session.events],
        "turns": len(session.turns),
        "pinned": sorted(session.pinned),
        "tokens": session.held.tokens,
        "slots": session.held.slots,
        "compactions": session.compactions,
        "next_position": context.next_position,
        "logits": logits.tolist(),
    }
    (HERE / "seen.json").write_text(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
