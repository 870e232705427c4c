"""Files: the same context in every process, and never anything but BadContext for what is not one."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from holdfast.blocks.block import Kind, Origin
from holdfast.context import holdfast_file
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, token_segment
from holdfast.context.surgery import keep_pairs, quantize_segment, shift_segment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadContext, BadInput, BadOption
from holdfast.storage.backends import fetch, send

ORIGIN = Origin(3, Kind.OBSERVATION, (10, 30), (4, 9))


def sample(pair, seed=0):
    """A context with every kind of segment, ragged heads and a bias."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 260, (30,), generator=generator)
    _, states = pair.engine.capture(KVContext(pair.model), ids[5:20], torch.arange(5, 20))
    masks = [torch.rand(k.shape[:2], generator=generator) < 0.6 for k in states.keys]
    state = keep_pairs(states, masks, (ORIGIN,))
    first = replace(state.layers[0], bias=torch.randn(len(state.layers[0].keys), generator=generator))
    soft = SoftSegment(torch.randn(3, 64, generator=generator), torch.tensor([20.0, 23.25, 26.5]), (ORIGIN,))
    segments = (
        token_segment(ids[:5], 0),
        StateSegment((first, *state.layers[1:]), (ORIGIN,)),
        soft,
        token_segment(ids[20:], 30),
    )
    return CompactContext(segments, 48, {"latent": "test", "ratio": 2.0}, {"bytes": 7})


def probe(pair, context):
    return pair.engine.next_logits(pair.engine.open(context), [5, 6, 7, 8])


@pytest.fixture
def stored(two, tmp_path):
    context = sample(two)
    return two, context, holdfast_file.save(context, tmp_path / "a.holdfast", two.model)


def test_what_was_saved_is_loaded_bit_for_bit(stored):
    pair, context, path = stored
    loaded = holdfast_file.load(path, pair.model)
    assert torch.equal(probe(pair, loaded), probe(pair, context))
    assert loaded.next_position == context.next_position
    assert (loaded.recipe, loaded.evidence) == (context.recipe, context.evidence)
    assert [s.origins for s in loaded.segments] == [s.origins for s in context.segments]
    assert [len(s) for s in loaded.segments] == [len(s) for s in context.segments]


def test_an_empty_context_is_saved_and_loaded(tiny, tmp_path):
    pair = tiny("llama")
    path = holdfast_file.save(CompactContext((), 0), tmp_path / "empty.holdfast", pair.model)
    assert holdfast_file.load(path, pair.model) == CompactContext((), 0, model_digest=pair.model.digest)


SECOND = """
import sys
import torch
sys.path[:0] = sys.argv[1:3]
from conftest import build_pair
from holdfast.context import holdfast_file
for family in ("llama", "gemma3_text"):
    pair = build_pair(family)
    live = pair.engine.open(holdfast_file.load(f"{sys.argv[3]}/{family}.holdfast", pair.model))
    torch.save(pair.engine.next_logits(live, [5, 6, 7, 8]), f"{sys.argv[3]}/{family}.logits")
"""


def test_a_second_process_gives_the_same_logits(tiny, tmp_path):
    pairs = {family: tiny(family) for family in ("llama", "gemma3_text")}
    for family, pair in pairs.items():
        holdfast_file.save(sample(pair), tmp_path / f"{family}.holdfast", pair.model)
    source, tests = Path(holdfast_file.__file__).parents[2], Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", SECOND, str(source), str(tests), str(tmp_path)], check=True)
    for family, pair in pairs.items():
        assert torch.equal(torch.load(tmp_path / f"{family}.logits"), probe(pair, sample(pair)))


def test_the_same_context_saved_twice_is_the_same_bytes(stored, tmp_path):
    pair, context, path = stored
    again = holdfast_file.save(context, tmp_path / "b.holdfast", pair.model)
    loaded = holdfast_file.save(holdfast_file.load(path, pair.model), tmp_path / "c.holdfast", pair.model)
    assert path.read_bytes() == again.read_bytes() == loaded.read_bytes()


@pytest.mark.parametrize("form", ["model", "bfloat16", "int8", "int4"])
def test_the_bytes_of_a_context_are_the_files(two, tmp_path, form):
    path = tmp_path / "a.holdfast"
    if form == "model":
        holdfast_file.save(sample(two), path, two.model)
    else:
        in_form(two, form, path)
    loaded = holdfast_file.from_bytes(path.read_bytes(), two.model)
    assert torch.equal(probe(two, loaded), probe(two, holdfast_file.load(path, two.model)))
    assert holdfast_file.to_bytes(loaded, two.model) == path.read_bytes()


def test_an_empty_context_is_bytes_too(tiny):
    model = tiny("llama").model
    data = holdfast_file.to_bytes(CompactContext((), 0), model)
    assert holdfast_file.from_bytes(data, model) == CompactContext((), 0, model_digest=model.digest)


def test_bytes_hold_finite_numbers_of_their_own_model_only(tiny):
    model = tiny("llama").model
    with pytest.raises(BadContext, match="another model"):
        holdfast_file.to_bytes(CompactContext((), 0, model_digest=tiny("llama", 1).model.digest), model)
    soft = SoftSegment(torch.full((1, 64), torch.nan), torch.zeros(1), (ORIGIN,))
    with pytest.raises(BadInput, match=r"the context is not written: 0\.embeds"):
        holdfast_file.to_bytes(CompactContext((soft,), 1), model)


@pytest.fixture
def url(tmp_path):
    """A place of fsspec's memory that nothing else uses."""
    return f"memory://{tmp_path.name}-{uuid4().hex}/a.holdfast"


def test_a_context_goes_to_a_url_and_back(stored, url):
    pair, context, path = stored
    assert holdfast_file.save(context, url, pair.model) == url
    assert torch.equal(probe(pair, holdfast_file.load(url, pair.model)), probe(pair, context))
    assert holdfast_file.read_manifest(url) == holdfast_file.read_manifest(path)
    assert fetch(url) == path.read_bytes()
    holdfast_file.save(CompactContext((), 3), url, pair.model)
    assert holdfast_file.load(url, pair.model).next_position == 3


def test_a_url_of_this_machine_is_a_path(tiny, tmp_path):
    model = tiny("llama").model
    assert holdfast_file.save(CompactContext((), 7), f"file://{tmp_path}/a.holdfast", model) == tmp_path / "a.holdfast"
    assert holdfast_file.load(f"file://{tmp_path}/a.holdfast", model).next_position == 7


def test_what_is_no_context_at_a_url_is_refused_and_not_written_over(tiny, url):
    model = tiny("llama").model
    for act in (holdfast_file.read_manifest, lambda at: holdfast_file.load(at, model)):
        with pytest.raises(BadContext, match="no such file"):
            act(url)
    send(url, b"[]")
    for act in (holdfast_file.read_manifest, lambda at: holdfast_file.load(at, model)):
        with pytest.raises(BadContext, match=f"^{url}: not a whole"):
            act(url)
    with pytest.raises(BadInput, match=r"is no \.holdfast file"):
        holdfast_file.save(CompactContext((), 0), url, model)
    assert fetch(url) == b"[]"


def test_a_url_that_nothing_can_open_is_a_bad_option(tiny):
    with pytest.raises(BadOption, match="nowhere://a/b cannot be opened"):
        holdfast_file.save(CompactContext((), 0), "nowhere://a/b", tiny("llama").model)


def test_saving_leaves_nothing_beside_the_file(stored, tmp_path):
    assert [p.name for p in tmp_path.iterdir()] == ["a.holdfast"]


def test_saving_replaces_an_older_file(stored):
    pair, _, path = stored
    holdfast_file.save(CompactContext((), 3), path, pair.model)
    assert holdfast_file.load(path, pair.model).next_position == 3


def test_the_same_states_at_two_places_are_saved(tiny, tmp_path):
    pair = tiny("llama")
    state = sample(pair).segments[1]
    context = CompactContext((state, shift_segment(state, 100)), 200)
    loaded = holdfast_file.load(holdfast_file.save(context, tmp_path / "a.holdfast", pair.model), pair.model)
    assert torch.equal(probe(pair, loaded), probe(pair, context))


def test_tokens_cut_from_one_tensor_are_saved(tiny, tmp_path):
    pair = tiny("llama")
    whole = token_segment(list(range(10, 30)), 0)
    parts = [type(whole)(whole.ids[a:b], whole.positions[a:b]) for a, b in ((0, 8), (8, 20))]
    context = CompactContext(tuple(parts), 20)
    loaded = holdfast_file.load(holdfast_file.save(context, tmp_path / "a.holdfast", pair.model), pair.model)
    assert torch.equal(probe(pair, loaded), probe(pair, context))


@pytest.mark.parametrize("where", ["no/such/folder/a.holdfast", "file/a.holdfast", "."])
def test_a_place_that_cannot_be_written_is_bad_input(tiny, tmp_path, where):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="give a file in a folder"):
        holdfast_file.save(CompactContext((), 0), tmp_path / where, tiny("llama").model)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_no_context_is_not_written_over(tiny, tmp_path):
    path = tmp_path / "session.json"
    path.write_text("[]")
    with pytest.raises(BadInput, match=r"is no \.holdfast file"):
        holdfast_file.save(CompactContext((), 0), path, tiny("llama").model)
    assert path.read_text() == "[]"


def test_another_models_context_is_neither_saved_nor_opened(tiny, tmp_path):
    context = CompactContext((), 0, model_digest=tiny("llama", 1).model.digest)
    with pytest.raises(BadContext, match="another model"):
        holdfast_file.save(context, tmp_path / "a.holdfast", tiny("llama").model)
    with pytest.raises(BadContext, match="another model"):
        tiny("llama").engine.open(context)


def refused(path, model, match=None):
    """Loading the file, and its bytes, fails as BadContext in one line that names the file."""
    ways = [holdfast_file.load]
    if path.is_file():
        ways.append(lambda path, model: holdfast_file.from_bytes(path.read_bytes(), model, str(path)))
    for load in ways:
        with pytest.raises(BadContext, match=match) as caught:
            load(path, model)
        assert caught.value.exit_code == 2
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["model", "tokenizer", "template"])
def test_another_model_tokenizer_or_template_is_refused_by_name(stored, what):
    pair, _, path = stored
    field = "digest" if what == "model" else f"{what}_digest"
    refused(path, replace(pair.model, **{field: "0" * 16}), match=f"whose (chat )?{what} ")


def test_a_context_of_another_model_is_refused(tiny, tmp_path):
    path = holdfast_file.save(sample(tiny("llama")), tmp_path / "a.holdfast", tiny("llama").model)
    refused(path, tiny("llama", 1).model, match="whose model")
    refused(path, tiny("gemma3_text").model, match="whose model")


@pytest.mark.parametrize("share", [0, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(stored, share):
    pair, _, path = stored
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, pair.model)


@pytest.mark.parametrize("cut", [1, 4, 7, 8, 9, 16])
def test_a_file_short_of_some_bytes_at_either_end_is_refused(stored, cut):
    pair, _, path = stored
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    refused(path, pair.model)
    path.write_bytes(data[:cut])
    refused(path, pair.model)


def test_flipped_bytes_are_refused_or_change_nothing(stored):
    """A flip in a tensor is refused; one in the header is refused too, or leaves a context that can be opened."""
    pair, _, path = stored
    data = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", data[:8])[0]
    places = [*range(0, 24), *range(24, header, 37), *range(header, len(data), 997), len(data) - 1]
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 0x41
        path.write_bytes(flipped)
        if at >= header:
            refused(path, pair.model)
            continue
        try:
            loaded = holdfast_file.load(path, pair.model)
        except BadContext:
            refused(path, pair.model)
            continue
        assert holdfast_file.to_bytes(
            holdfast_file.from_bytes(bytes(flipped), pair.model), pair.model
        ) == holdfast_file.to_bytes(loaded, pair.model)
        pair.engine.open(loaded)


@pytest.mark.parametrize(("old", "new"), [('"next_position":48', '"next_position":88'), ('"bytes":7', '"bytes":1')])
def test_a_manifest_that_was_changed_in_place_is_refused(stored, old, new):
    pair, _, path = stored
    data = path.read_bytes()
    old, new = (json.dumps(text)[1:-1].encode() for text in (old, new))
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    refused(path, pair.model)


def test_a_foreign_safetensors_file_is_refused(tiny, tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", tiny("llama").model, match="not a Holdfast context")
    save_file({"weight": torch.ones(3)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "x.safetensors", tiny("llama").model, match="not a Holdfast context")


FOREIGN = {
    "empty": b"",
    "json": b"{}",
    "zip": b"PK\x03\x04 a zip",
    "pickle": b"\x80\x04\x95 a pickle",
    "ones": b"\xff" * 64,
    "zeros": b"\0" * 64,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(tiny, tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", tiny("llama").model)


def test_a_missing_file_and_a_folder_are_refused(tiny, tmp_path):
    refused(tmp_path / "none.holdfast", tiny("llama").model, match="no such file")
    refused(tmp_path, tiny("llama").model)
    with pytest.raises(BadContext):
        holdfast_file.read_manifest(tmp_path / "none.holdfast")
    with pytest.raises(BadContext):
        holdfast_file.read_manifest(tmp_path)


def test_the_manifest_alone_tells_what_a_file_is(stored):
    pair, context, path = stored
    manifest = holdfast_file.read_manifest(path)
    assert (manifest.model, manifest.next_position) == (pair.model.name, context.next_position)
    assert [entry.kind for entry in manifest.segments] == ["tokens", "state", "soft", "tokens"]


def sealed(manifest):
    """The manifest as text, with the digest of itself where the format has one: a forger can compute it too."""
    with suppress(AttributeError, ValidationError):
        manifest = manifest | {
            "seal": holdfast_file._seal(holdfast_file.Manifest.model_validate_json(json.dumps(manifest)))
        }
    return json.dumps(manifest)


def rewrite(path, change, tensors=None):
    """Write the file anew with a changed manifest, its digest made to fit the tensors."""
    held = load_file(path) if tensors is None else tensors
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()[holdfast_file.KEY])
    with suppress(RuntimeError):  # a tensor that cannot even be digested
        manifest["sha256"] = holdfast_file._digest(held)
    made = change(manifest)
    text = made if isinstance(made, str) else sealed(manifest)
    save_file(held, path, metadata={holdfast_file.KEY: text})


def put(*keys, value):
    def change(manifest):
        at = manifest
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


def drop(key):
    return lambda manifest: manifest.pop(key) and None


def _cancel(manifest):
    row = manifest["segments"][1]["lengths"][1]
    if len(row) == 1:
        row[0] = -row[0]
    else:
        row[:2] = [row[0] + row[1] + 3, -3]


HOSTILE = {
    "not json": lambda m: "{",
    "json of another kind": lambda m: "[]",
    "a number": lambda m: "7",
    "null": lambda m: "null",
    "empty": lambda m: "",
    "deep nesting": lambda m: "[" * 200_000,
    "deep nesting inside": lambda m: json.dumps(m)[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep recipe": lambda m: json.dumps(m).replace('"ratio": 2.0', '"ratio": ' + "[" * 5000 + "]" * 5000),
    "a surrogate": lambda m: json.dumps(m).replace('"test"', '"\\ud800"'),
    "a number of many digits": lambda m: json.dumps(m).replace('"next_position": 48', '"next_position": ' + "9" * 5000),
    "an unknown key": put("surprise", value=1),
    "an unknown key of a segment": put("segments", 0, "path", value="/etc/passwd"),
    "another format": put("format", value=2),
    "a format that equals one": put("format", value=True),
    "a format as text": put("format", value="1"),
    "no format": drop("format"),
    "no segments": drop("segments"),
    "no digest": drop("sha256"),
    "segments of another kind": put("segments", value={"0": "tokens"}),
    "a kind that is a path": put("segments", 0, "kind", value="../../etc/passwd"),
    "a segment too many": lambda m: m["segments"].append(m["segments"][0]),
    "a segment too few": lambda m: m["segments"].pop() and None,
    "segments in another order": lambda m: m["segments"].reverse(),
    "tokens called soft": put("segments", 0, "kind", value="soft"),
    "soft called tokens": put("segments", 2, "kind", value="tokens"),
    "an origin of an unknown kind": put("segments", 1, "origins", 0, value=[0, "nobody", 0, 1, 0, 1]),
    "an origin that is short": put("segments", 1, "origins", 0, value=[0, "task"]),
    "an origin that is text": put("segments", 1, "origins", value="task"),
    "no lengths": put("segments", 1, "lengths", value=[]),
    "lengths of too many heads": lambda m: [row.append(0) for row in m["segments"][1]["lengths"]] and None,
    "lengths of too few heads": put("segments", 1, "lengths", 1, value=[]),
    "a negative length": lambda m: put("segments", 1, "lengths", 1, value=[-5, *m["segments"][1]["lengths"][1]])(m),
    "lengths that cancel out": _cancel,
    "a huge length": put("segments", 1, "lengths", 1, 0, value=10**15),
    "a length beyond int64": put("segments", 1, "lengths", 1, 0, value=10**30),
    "a length that is text": put("segments", 1, "lengths", 1, 0, value="1"),
    "a length that is a fraction": put("segments", 1, "lengths", 1, 0, value=1.5),
    "a next position behind": put("next_position", value=3),
    "a negative next position": put("next_position", value=-1),
    "a huge next position": put("next_position", value=10**12),
    "a next position beyond int64": put("next_position", value=10**30),
    "a next position that is text": put("next_position", value="48"),
    "a next position that is a fraction": put("next_position", value=48.5),
    "a recipe that is text": put("recipe", value="rm -rf /"),
    "another digest": put("sha256", value="0" * 64),
    "another model": put("model_digest", value="../../model"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_refused(stored, case):
    pair, _, path = stored
    rewrite(path, HOSTILE[case])
    refused(path, pair.model)


def changed(name, make):
    return lambda held: held | {name: make(held[name])}


TENSORS = {
    "ids outside the vocabulary": changed("0.ids", lambda t: t + 100_000),
    "negative ids": changed("0.ids", lambda t: -t),
    "ids that are floats": changed("0.ids", lambda t: t.float()),
    "ids of another width": changed("0.ids", lambda t: t.to(torch.int32)),
    "ids with two dimensions": changed("0.ids", lambda t: t[None].clone()),
    "ids without a dimension": changed("0.ids", lambda t: t[0].clone()),
    "positions too few": changed("0.positions", lambda t: t[:-1].clone()),
    "positions that are integers": changed("0.positions", lambda t: t.long()),
    "positions that are not numbers": changed("0.positions", lambda t: t * float("nan")),
    "positions without end": changed("3.positions", lambda t: t + float("inf")),
    "keys that are not numbers": changed("1.1.keys", lambda t: t * float("nan")),
    "one value that is not a number": changed(
        "1.1.values", lambda t: t.clone().index_fill_(0, torch.tensor([0]), torch.nan)
    ),
    "an infinite bias": changed("1.0.bias", lambda t: t + float("inf")),
    "a bias too short": changed("1.0.bias", lambda t: t[1:].clone()),
    "keys of another width": changed("1.1.keys", lambda t: t[:, :8].clone()),
    "keys too few": changed("1.1.keys", lambda t: t[1:].clone()),
    "keys that are integers": changed("1.1.keys", lambda t: t.to(torch.int8)),
    "keys that are truths": changed("1.1.keys", lambda t: t > 0),
    "keys that are complex": changed("1.1.keys", lambda t: t.to(torch.complex64)),
    "keys of eight bits": changed("1.1.keys", lambda t: t.to(torch.float8_e4m3fn)),
    "a scalar in place of keys": changed("1.1.keys", lambda t: t.sum()),
    "embeddings of another width": changed("2.embeds", lambda t: t[:, :32].clone()),
    "embeddings that are not numbers": changed("2.embeds", lambda t: t * float("nan")),
    "no ids": lambda held: {k: v for k, v in held.items() if k != "0.ids"},
    "no keys of one layer": lambda held: {k: v for k, v in held.items() if k != "1.1.keys"},
    "no tensors at all": lambda held: {},
    "a tensor too many": lambda held: held | {"../../../etc/passwd": torch.ones(2)},
    "a scalar too many": lambda held: held | {"extra": torch.tensor(1.0)},
}


@pytest.mark.parametrize("case", TENSORS)
def test_hostile_tensors_are_refused(stored, case):
    pair, _, path = stored
    rewrite(path, lambda m: None, TENSORS[case](load_file(path)))
    refused(path, pair.model)


def in_form(pair, form, path):
    """A file whose states are held in `form`."""
    context = sample(pair)
    segments = tuple(quantize_segment(s, form) if isinstance(s, StateSegment) else s for s in context.segments)
    return holdfast_file.save(replace(context, segments=segments), path, pair.model)


def test_a_file_of_plain_slots_is_of_format_1_and_knows_no_forms(stored):
    manifest = json.loads(safe_open(stored[2], "pt").metadata()[holdfast_file.KEY])
    assert manifest["format"] == 1
    assert not any("form" in segment for segment in manifest["segments"])


def without(name):
    return lambda held: {k: v for k, v in held.items() if k != name}


CODED = {
    "codes that are numbers": ("int8", changed("1.1.keys", lambda t: t.float())),
    "codes of another width": ("int8", changed("1.1.values", lambda t: t[:, :8].clone())),
    "codes without signs": ("int8", changed("1.1.keys", lambda t: t.to(torch.uint8))),
    "codes too few": ("int4", changed("1.1.keys", lambda t: t[1:].clone())),
    "codes of a whole row": ("int4", changed("1.1.keys", lambda t: torch.cat((t, t), dim=1))),
    "codes of sixteen bits that are not finite": ("bfloat16", changed("1.1.keys", lambda t: t * float("nan"))),
    "scales too few": ("int8", changed("1.1.keys_scales", lambda t: t[1:].clone())),
    "scales too many": ("int4", changed("1.1.keys_scales", lambda t: torch.cat((t, t), dim=1))),
    "scales that are not numbers": ("int8", changed("1.1.values_scales", lambda t: t * float("nan"))),
    "scales without end": ("int4", changed("1.1.keys_scales", lambda t: t + float("inf"))),
    "scales of another dtype": ("int8", changed("1.1.keys_scales", lambda t: t.float())),
    "no scales": ("int8", without("1.1.keys_scales")),
    "scales where there are none": ("bfloat16", lambda held: held | {"1.1.keys_scales": held["1.1.positions"].clone()}),
    "no centre": ("int4", without("1.1.centre")),
    "a centre of other heads": ("int8", changed("1.1.centre", lambda t: torch.cat((t, t)))),
    "a centre that is not a number": ("int8", changed("1.1.centre", lambda t: t * float("nan"))),
}


@pytest.mark.parametrize("case", CODED)
def test_hostile_codes_are_refused(two, tmp_path, case):
    form, change = CODED[case]
    path = in_form(two, form, tmp_path / "a.holdfast")
    holdfast_file.load(path, two.model)
    rewrite(path, lambda m: None, change(load_file(path)))
    refused(path, two.model)


@pytest.mark.parametrize("form", ["model", "bfloat16", "int4", "int2", "", 8])
def test_another_form_than_the_tensors_have_is_refused(two, tmp_path, form):
    path = in_form(two, "int8", tmp_path / "a.holdfast")
    rewrite(path, put("segments", 1, "form", value=form))
    refused(path, two.model)


def test_coded_slots_in_a_file_of_format_1_are_refused(two, tmp_path):
    path = in_form(two, "int8", tmp_path / "a.holdfast")
    rewrite(path, put("format", value=1))
    refused(path, two.model)


def test_a_header_that_points_outside_the_file_is_refused(stored):
    pair, _, path = stored
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = "1.1.keys"
    start, end = header[name]["data_offsets"]
    for offsets in ([start, end + 10**9], [-8, end], [end, start], [0, 2**63]):
        header[name]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        refused(path, pair.model)
    path.write_bytes(struct.pack("<Q", 2**62) + data[8:])
    refused(path, pair.model)


def test_a_file_saved_in_another_dtype_of_the_same_model_is_served(tiny, ids, tmp_path):
    wide, narrow = tiny("llama"), tiny("llama", dtype=torch.bfloat16)
    path = holdfast_file.save(sample(wide), tmp_path / "a.holdfast", wide.model)
    live = narrow.engine.open(holdfast_file.load(path, narrow.model))
    assert live.cache.layers[0].keys.dtype == torch.bfloat16
    assert torch.isfinite(narrow.engine.next_logits(live, [5, 6])).all()
