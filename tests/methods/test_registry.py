"""Methods by name: what cannot be built says what there is."""

from __future__ import annotations

import pytest

from holdfast.errors import BadOption
from holdfast.methods.registry import LATENT, build, defaults


def spec(name):
    return f"{name}:question=what" if name == "virtual_tokens_attention" else name


@pytest.mark.parametrize("name", LATENT)
def test_every_row_builds_and_has_a_line_of_help(name):
    method = build(spec(name))
    assert method.name in LATENT
    assert isinstance(method.by_turn, bool)
    assert LATENT[name].summary


@pytest.mark.parametrize("name", LATENT)
def test_a_row_uses_the_defaults_that_it_shows(name):
    method = build(spec(name))
    shown = defaults(LATENT[name]) | ({"question": "what"} if name == "virtual_tokens_attention" else {})
    assert {key: str(getattr(method, key)) for key in shown} == {key: str(value) for key, value in shown.items()}


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
        ("kvzip:nothing=1", "allocation, chunk"),
        ("kvzip:name=x", "allocation, chunk"),
        ("kvzip:by_turn=true", "allocation, chunk"),
        ("kvzip:__class__=x", "allocation, chunk"),
        ("truncate:n=1", "none"),
        ("virtual_tokens:stepz=1", "steps"),
        ("kvzip:allocation", "key=value"),
        ("kvzip:chunk=many", "int"),
        ("kvzip:chunk=1.5", "int"),
        ("kvzip:chunk=", "int"),
        ("kvzip:chunk=0", "at least 1"),
        ("kvzip:allocation=layer", "global, head"),
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
    ],
)
def test_a_bad_option_is_refused_with_what_there_is(given, listed):
    with pytest.raises(BadOption) as caught:
        build(given)
    assert listed in str(caught.value)
    assert "\n" not in str(caught.value)
