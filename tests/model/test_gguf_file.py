"""A GGUF file as a model: the numbers that are in it, and a clear word for a file that cannot be read."""

from __future__ import annotations

import gguf
import pytest
import torch

from conftest import byte_tokenizer, plain_model
from holdfast.errors import BadInput
from holdfast.model.load import load
from tolerance import close

NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 3)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))


def write_gguf(path, model, kind, architecture="qwen2"):
    """Writes a tiny Qwen2 model, its matrices in one kind of quantisation."""
    config, tokenizer = model.config, byte_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    words += [(f"<unused{n}>", n) for n in range(len(words), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_merges(["t o"])
    writer.add_eos_token_id(2)
    for name, weight in model.state_dict().items():
        base, _, suffix = name.rpartition(".")
        values = weight.float().numpy()
        kept = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(values, kept)
        writer.add_tensor(f"{NAMES.get_name(base)}.{suffix}", packed, raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def plain():
    return plain_model("qwen2")


@pytest.mark.parametrize(("kind", "dtype"), [("F32", torch.float32), ("Q8_0", torch.bfloat16)])
def test_a_gguf_file_is_the_model_that_was_written(tmp_path, plain, ids, kind, dtype):
    file = write_gguf(tmp_path / "tiny.gguf", plain, gguf.GGMLQuantizationType[kind])
    model = load(str(file), dtype="float32")
    (folder,) = (tmp_path / "home" / "models").glob("gguf-*-v1")
    assert f'"{str(dtype).removeprefix("torch.")}"' in (folder / "config.json").read_text()
    ours, theirs = dict(model.hf.named_parameters()), dict(plain.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        if kind == "F32":
            assert torch.equal(ours[name], weight), name
        else:  # a code of 8 bits is half a step from its value, and bfloat16 rounds that once more
            step = weight.abs().max() / 127 + weight.abs().max() * torch.finfo(dtype).eps
            assert (ours[name] - weight).abs().max() <= step, name
    with torch.no_grad():
        if kind == "F32":
            close(model.hf(ids(9)[None]).logits, plain(ids(9)[None]).logits)


def test_a_second_load_converts_nothing(tmp_path, plain):
    file = write_gguf(tmp_path / "tiny.gguf", plain, gguf.GGMLQuantizationType.Q8_0)
    lines = []
    load(str(file), progress=lambda *step: lines.append(step[-1]))
    load(str(file), progress=lambda *step: lines.append(step[-1]))
    assert [line for line in lines if "de-quantising" in line] == [lines[0]]


def make_missing(path, plain):
    pass


def make_damaged(path, plain):
    whole = write_gguf(path, plain, gguf.GGMLQuantizationType.F32).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def make_text(path, plain):
    path.write_text("a page that says: not found")


def make_unknown(path, plain):
    write_gguf(path, plain, gguf.GGMLQuantizationType.F32, architecture="rwkv7")


@pytest.mark.parametrize("make", [make_missing, make_damaged, make_text, make_unknown])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, plain, make):
    make(tmp_path / "tiny.gguf", plain)
    with pytest.raises(BadInput, match=r"tiny\.gguf") as caught:
        load(str(tmp_path / "tiny.gguf"))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "home").rglob("gguf-*"))
