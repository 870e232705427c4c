"""Methods by name: what cannot be built says what there is."""

from __future__ import annotations

import pytest

from holdfast.errors import BadOption
from holdfast.methods.registry import LATENT, TEXT, build, defaults

NEEDED = {name: {"weights": "untrained"} for name in ("icae", "restore", "anchors", "projector")}
NEEDED |= {"virtual_tokens_attention": {"question": "what"}}


def spec(name):
    return ":".join([name, *(f"{key}={value}" for key, value in NEEDED.get(name, {}).items())])


@pytest.mark.parametrize("name", LATENT)
def test_every_row_builds_and_has_a_line_of_help(name):
    method = build(spec(name))
    assert method.name in LATENT
    assert isinstance(method.by_turn, bool)
    assert LATENT[name].summary


@pytest.mark.parametrize("name", LATENT)
def test_a_row_uses_the_defaults_that_it_shows(name):
    method = build(spec(name))
    shown = defaults(LATENT[name]) | NEEDED.get(name, {})
    assert {key: str(getattr(method, key)) for key in shown} == {key: str(value) for key, value in shown.items()}


@pytest.mark.parametrize("entries", [LATENT, TEXT], ids=["latent", "text"])
def test_recommended_methods_come_first_then_baselines_then_ablations(entries):
    kinds = [entry.kind for entry in entries.values()]
    assert kinds == sorted(kinds, key=["recommended", "baseline", "ablation"].index)


def test_baselines_live_in_a_folder_of_their_own():
    for entry in LATENT.values():
        if entry.kind != "ablation":
            assert (".latent.baselines." in entry.path) == (entry.kind == "baseline")


def test_a_former_name_still_builds_its_method_and_warns():
    with pytest.warns(DeprecationWarning, match="split_by_age"):
        method = build("old_new:at=0.25")
    assert (method.name, method.at) == ("split_by_age", 0.25)


def test_rows_that_name_a_variant_fix_its_option():
    assert build("kvzip_per_head").allocation == "head"
    assert build("kvzip").allocation == "global"
    assert build("virtual_tokens_kv").target == "kv"
    assert build("virtual_tokens_hybrid").verbatim == "uniqueness"


def test_a_given_option_wins_over_the_rows_and_over_the_default():
    assert build("kvzip_per_head:allocation=global").allocation == "global"
    method = build("virtual_tokens:steps=7, lr = 0.5 ,start=token")
    assert (method.steps, method.lr, method.start) == (7, 0.5, "token")


@pytest.mark.parametrize("name", ["", "nothing", "KVZIP", " kvzip", "kvzip "])
def test_an_unknown_method_is_refused_with_the_list(name):
    with pytest.raises(BadOption) as caught:
        build(name)
    assert all(known in str(caught.value) for known in LATENT)


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ("kvzip:nothing=1", "allocation, cap, floor, shares, queries, chunk, reach"),
        ("kvzip:name=x", "allocation, cap, floor, shares, queries, chunk, reach"),
        ("kvzip:by_turn=true", "allocation, cap, floor, shares, queries, chunk, reach"),
        ("kvzip:__class__=x", "allocation, cap, floor, shares, queries, chunk, reach"),
        ("truncate:n=1", "storage"),
        ("virtual_tokens:stepz=1", "steps"),
        ("kvzip:allocation", "key=value"),
        ("kvzip:chunk=many", "int"),
        ("kvzip:chunk=1.5", "int"),
        ("kvzip:chunk=", "int"),
        ("kvzip:chunk=0", "at least 1"),
        ("kvzip:chunk=-1", "at least 1"),
        ("kvzip:reach=-1", "at least 0"),
        ("kvzip:queries=", "repeat, own, later, study, random or several joined by +, got ''"),
        ("kvzip:queries=repeat+", "got ''"),
        ("kvzip:queries=repeat+future", "got 'future'"),
        ("kvzip:allocation=best", "kvzip: allocation must be one of global, layer, head, pyramid, learned, got 'best'"),
        ("knorm:cap=0.5", "knorm: cap must be 0 (none) or at least 1"),
        ("knorm:cap=nan", "cap must be 0"),
        ("knorm:floor=2", "floor must be between 0 and 1"),
        ("knorm:shares=a.json", "needs allocation=learned"),
        ("informed:queries=x", "informed: queries must be"),
        ("informed:chunk=0", "informed: chunk must be at least 1"),
        ("informed:reach=-1", "informed: reach must be at least 0"),
        *((f"informed:exponent={x}", "informed: exponent must be") for x in ("-1", "nan", "inf")),
        *((f"informed:scale={x}", "scale finite and above 0") for x in ("0", "-1", "nan", "inf")),
        *((f"informed:least={x}", "least above 0") for x in ("0", "-1", "1.5", "nan")),
        ("snapkv:observed=0", "observed must be at least 1"),
        ("snapkv:kernel=0", "kernel odd"),
        ("snapkv:kernel=4", "kernel odd"),
        ("expected_attention:future=0", "future must be at least 1"),
        ("expected_attention:sinks=-1", "sinks at least 0"),
        *((f"expected_attention:epsilon={x}", "epsilon finite") for x in ("-1", "nan", "inf")),
        *((f"h2o:recent={x}", "recent must be between 0 and 1") for x in ("-0.1", "1.1", "nan")),
        ("h2o:mean=maybe", "bool"),
        ("streaming:sinks=-1", "sinks must be at least 0"),
        ("random:seed=x", "int"),
        ("virtual_tokens:lr=fast", "float"),
        ("virtual_tokens:lr=0", "lr > 0"),
        ("virtual_tokens:lr=nan", "lr > 0"),
        ("virtual_tokens:lr=inf", "lr"),
        ("virtual_tokens:steps=-1", "steps"),
        ("virtual_tokens:distil=-1", "distil"),
        ("virtual_tokens:patience=0", "patience >= 1"),
        ("virtual_tokens:share=0", "share"),
        ("virtual_tokens:share=1", "share"),
        ("virtual_tokens:share=nan", "share"),
        ("virtual_tokens:target=keys", "v, kv, kv_pre_rope, final"),
        ("virtual_tokens:weights=", "surprisal, uniform, attention"),
        ("virtual_tokens:positions=x", "interpolated, consecutive"),
        ("virtual_tokens:verbatim=x", "none, uniqueness, perplexity"),
        ("virtual_tokens:start=x", "pooled, weighted, token"),
        ("virtual_tokens:optimiser=x", "adam"),
        ("virtual_tokens_attention", "question=..."),
        ("kvzip:chunk=64,chunk=32", "chunk is given twice"),
    ],
)
def test_a_bad_option_is_refused_with_what_there_is(given, listed):
    with pytest.raises(BadOption) as caught:
        build(given)
    assert listed in str(caught.value)
    assert "\n" not in str(caught.value)
