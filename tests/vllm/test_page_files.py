"""Files of pages, and placeholder ids that name exactly one of them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from holdfast.errors import BadContext, BadInput
from holdfast.vllm.files import HEAD, MARK, Header, Pages, handle_of, pages_path, placeholders, read, read_header, write

WORDS = st.integers(0, 70_000)


def pages(slots=32, seed=0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    keys, values = (tuple(torch.randn(slots, 2, 4, generator=random).to(dtype) for _ in range(3)) for _ in range(2))
    return Pages(Header("model", slots, 3, 2, 4, (5, 6), {"padded": 0, "decoded": ()}), keys, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read_again(tmp_path, dtype):
    made = pages(dtype=dtype)
    write(made, tmp_path / "new")
    got = read(tmp_path / "new", made.handle)
    assert got.header.tail == (5, 6)
    assert read_header(tmp_path / "new", made.handle) == got.header
    for a, b in zip((*made.keys, *made.values), (*got.keys, *got.values), strict=True):
        assert torch.equal(a, b)
    assert got.prompt == made.prompt


def test_a_prompt_is_placeholders_then_the_tail(tmp_path):
    made = pages()
    assert len(made.prompt) == 34
    assert made.prompt[-2:] == (5, 6)
    assert handle_of(made.prompt) == made.handle


def test_every_number_and_every_field_is_in_the_name():
    made = pages()
    other = (made.keys[0] + 1e-6, *made.keys[1:])
    names = [made, pages(seed=1), replace(made, keys=other), replace(made, keys=made.values, values=made.keys)]
    names.append(replace(made, header=replace(made.header, tail=(5, 7))))
    assert len({p.handle for p in names}) == len(names)


@given(st.binary(min_size=16, max_size=16), st.integers(HEAD, 300))
def test_placeholders_spell_their_handle(digest, slots):
    ids = placeholders(digest.hex(), slots)
    assert len(ids) == slots
    assert handle_of(ids) == digest.hex()
    assert handle_of([*ids, 17, 65_000]) == digest.hex()


@given(st.lists(WORDS, max_size=60))
def test_ordinary_prompts_name_nothing(ids):
    assert handle_of(ids) is None or tuple(ids[: len(MARK)]) == MARK


@given(st.lists(WORDS, max_size=40))
def test_a_mark_before_words_is_no_handle_unless_they_are_bytes(ids):
    got = handle_of([*MARK, *ids])
    assert (got is not None) == (len(ids) >= 16 and max(ids[:16]) < 256)


def test_too_few_slots_for_a_handle_are_refused():
    with pytest.raises(BadInput, match="too few"):
        placeholders("00" * 16, HEAD - 1)


def test_missing_pages_say_where_they_should_be(tmp_path):
    with pytest.raises(BadContext, match="no such pages"):
        read_header(tmp_path, "ab" * 16)
    with pytest.raises(BadContext, match="no such pages"):
        read(tmp_path, "ab" * 16)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_half_a_file_is_refused(tmp_path, keep):
    made = pages()
    path = write(made, tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadContext):
        read(tmp_path, made.handle)


def test_a_flipped_bit_is_refused(tmp_path):
    made = pages()
    path = write(made, tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadContext, match="not the one that it is called by"):
        read(tmp_path, made.handle)


def test_pages_under_another_name_are_refused(tmp_path):
    one, two = pages(), pages(seed=1)
    write(one, tmp_path).replace(pages_path(tmp_path, two.handle))
    with pytest.raises(BadContext, match="not the one that it is called by"):
        read(tmp_path, two.handle)


@pytest.mark.parametrize(
    "metadata", [None, {"holdfast_pages": "{"}, {"holdfast_pages": "[]"}, {"holdfast_pages": '{"format": 2}'}]
)
def test_other_safetensors_are_refused(tmp_path, metadata):
    save_file({"x": torch.zeros(1)}, pages_path(tmp_path, "ab" * 16), metadata=metadata)
    with pytest.raises(BadContext, match="not pages"):
        read_header(tmp_path, "ab" * 16)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        write(pages(), tmp_path / "file")


def test_the_package_says_what_it_has():
    import holdfast.vllm

    with pytest.raises(AttributeError, match="HoldfastConnector"):
        _ = holdfast.vllm.Nothing
