"""All methods by name. Adding one is its file and one row here; help, docs and the contract tests pick it up."""

from __future__ import annotations

import warnings
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdfast.errors import BadOption

if TYPE_CHECKING:
    from holdfast.methods.base import LatentMethod
    from holdfast.methods.text.base import TextMethod


@dataclass(frozen=True)
class Entry:
    """A row: where the class is, one line of help, and the options that a named variant fixes."""

    path: str
    summary: str
    options: tuple[tuple[str, str], ...] = ()


_HERE = "holdfast.methods.latent"
_VT = "holdfast.methods.latent.virtual_tokens:VirtualTokens"
_KVZIP = "holdfast.methods.latent.kvzip:KVzip"

LATENT: dict[str, Entry] = {
    "truncate": Entry("holdfast.methods.latent.truncate:Truncate", "drop the oldest tokens (baseline)"),
    "informed": Entry(
        f"{_HERE}.informed:Informed", "keep what a repeat attends to where the span is informative, one threshold"
    ),
    "kvzip": Entry(_KVZIP, "keep the KV pairs that a repeat of the span attends to, one threshold over all heads"),
    "kvzip_per_head": Entry(_KVZIP, "kvzip with an equal share for every head", (("allocation", "head"),)),
    "snapkv": Entry(f"{_HERE}.snapkv:SnapKV", "keep what the newest tokens of the span look at"),
    "expected_attention": Entry(
        f"{_HERE}.expected_attention:ExpectedAttention", "keep what queries like the span's own would attend to"
    ),
    "h2o": Entry(f"{_HERE}.h2o:H2O", "keep what the span's own tokens attended to most, and the newest"),
    "keydiff": Entry(f"{_HERE}.keydiff:KeyDiff", "keep the keys least like the others of their head"),
    "knorm": Entry(f"{_HERE}.knorm:Knorm", "keep the keys of the smallest norm"),
    "streaming": Entry(f"{_HERE}.streaming:Streaming", "keep the first tokens and the newest, as states"),
    "random": Entry(f"{_HERE}.random:Random", "keep random KV pairs (control)"),
    "attention_match": Entry(
        f"{_HERE}.attention_match:AttentionMatch", "fit mass and values of kept slots to what the whole span gave"
    ),
    "refine": Entry(f"{_HERE}.refine:Refine", "gradient steps on the keys, biases and values of kept slots"),
    "merge": Entry(f"{_HERE}.merge:Merge", "fold what is dropped into its nearest kept neighbour"),
    "pool": Entry(f"{_HERE}.pool:Pool", "surprisal-weighted means of neighbouring tokens, as states"),
    "hybrid": Entry(f"{_HERE}.hybrid:Hybrid", "one method keeps the best, another stands for the rest"),
    "split_by_age": Entry(
        f"{_HERE}.split_by_age:SplitByAge", "one method for the older part of a span, another for the newer"
    ),
    "virtual_tokens": Entry(_VT, "gradient-tuned virtual tokens that match the span's values"),
    "virtual_tokens_distilled": Entry(
        _VT,
        "values first, then what the full context says when it repeats the span",
        (("start", "weighted"), ("steps", "30"), ("distil", "40")),
    ),
    "virtual_tokens_final_layer": Entry(_VT, "ablation: match the last hidden states only", (("target", "final"),)),
    "virtual_tokens_kv": Entry(_VT, "ablation: match rotated keys and values", (("target", "kv"),)),
    "virtual_tokens_pre_rope": Entry(_VT, "match un-rotated keys and values", (("target", "kv_pre_rope"),)),
    "virtual_tokens_uniform": Entry(_VT, "ablation: every token weighs the same", (("weights", "uniform"),)),
    "virtual_tokens_attention": Entry(
        _VT,
        "ablation: tokens weigh what a question attends to (needs question=...)",
        (("weights", "attention"),),
    ),
    "virtual_tokens_consecutive": Entry(
        _VT, "ablation: positions one after another from the span's start", (("positions", "consecutive"),)
    ),
    "virtual_tokens_hybrid": Entry(
        _VT,
        "the 15 % most unique values stay verbatim, the rest is compressed",
        (("verbatim", "uniqueness"),),
    ),
    "virtual_tokens_hybrid_perplexity": Entry(
        _VT, "ablation: the 15 % most surprising tokens stay verbatim", (("verbatim", "perplexity"),)
    ),
}

FORMER_NAMES = {"old_new": "split_by_age"}
"""Names of latent methods that still work, and what each is called now."""

_TEXT = "holdfast.methods.text"

TEXT: dict[str, Entry] = {
    "none": Entry(f"{_TEXT}.none:Nothing", "leave the session as it is (baseline)"),
    "truncate": Entry(f"{_TEXT}.truncate:Truncate", "drop the oldest exchanges (baseline)"),
    "keep_recent": Entry(f"{_TEXT}.keep_recent:KeepRecent", "keep the newest exchanges and nothing older (baseline)"),
    "random_delete": Entry(f"{_TEXT}.random_delete:RandomDelete", "drop random exchanges (control)"),
    "drop_observations": Entry(f"{_TEXT}.drop_observations:DropObservations", "drop observations (baseline)"),
    "drop_long_observations": Entry(
        f"{_TEXT}.drop_long_observations:DropLongObservations", "drop the long observations (baseline)"
    ),
    "mask_observations": Entry(
        f"{_TEXT}.mask_observations:MaskObservations", "one line for an observation: what it was, how to get it back"
    ),
    "mask_calls": Entry(
        f"{_TEXT}.mask_calls:MaskCalls", "one line for a long argument of a call: what it was, how to get it back"
    ),
    "dedup_reads": Entry(f"{_TEXT}.dedup_reads:DedupReads", "drop reads of files that were read or written since"),
    "clamp": Entry(f"{_TEXT}.clamp:Clamp", "keep head, tail and error lines of long observations"),
    "retrieve": Entry(f"{_TEXT}.retrieve:Retrieve", "keep the turns most like the task, drop the rest"),
    "prune_tokens": Entry(f"{_TEXT}.prune_tokens:PruneTokens", "drop the tokens of observations that a model expects"),
    "user_words": Entry(f"{_TEXT}.user_words:UserWords", "drop what the agent said before what the user said"),
    "tiered": Entry(f"{_TEXT}.tiered:Tiered", "cheap steps first, stop when it fits; no model"),
    "summarize": Entry(f"{_TEXT}.summarize:Summarize", "a model writes notes on the older turns, under fixed headings"),
}


STORAGE = "storage"
COMMON = {
    STORAGE: (
        "model",
        "how KV slots are held, in memory and on disk: model (the model's dtype), bfloat16, int8 or int4",
    )
}
"""Options of every method: default and help."""


def build(spec: str) -> LatentMethod:
    """Make a method from `name` or `name:key=value,key=value`.

    Raises BadOption for an unknown name or option, listing what there is, and for an ill-typed value.
    """
    name, _, given = spec.partition(":")
    name = current_name(name)
    if name not in LATENT:
        raise BadOption(f"no latent method is called {name!r}; there are: {', '.join(LATENT)}")
    entry = LATENT[name]
    cls = load_class(entry)
    parts = given.split(",")
    common = [part for part in parts if part.partition("=")[0].strip() in COMMON]
    own = ",".join(part for part in parts if part not in common)
    from holdfast.methods.storage_option import apply_storage

    method = cls(**read_options(name, cls, own, entry.options, also=tuple(COMMON)))
    return apply_storage(method, dict(_pairs(",".join(common), name)).get(STORAGE, COMMON[STORAGE][0]))


def current_name(name: str) -> str:
    """Returns the name that a latent method has today; a former one warns that it is deprecated."""
    if name not in FORMER_NAMES:
        return name
    warnings.warn(f"the method {name!r} is called {FORMER_NAMES[name]!r} now", DeprecationWarning, stacklevel=3)
    return FORMER_NAMES[name]


def build_text(spec: str) -> TextMethod:
    """Make a text method from `name` or `name:key=value,key=value`. Raises BadOption as `build` does."""
    name, _, given = spec.partition(":")
    if name not in TEXT:
        raise BadOption(f"no text method is called {name!r}; there are: {', '.join(TEXT)}")
    cls = load_class(TEXT[name])
    return cls(**read_options(name, cls, given, TEXT[name].options))  # type: ignore[no-any-return]


def read_options(
    name: str, cls: Any, given: str, fixed: tuple[tuple[str, str], ...] = (), also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Keywords for the dataclass `cls` from `key=value,key=value`, over the texts in `fixed`. Raises BadOption.

    `also` are options that are read elsewhere, for the message.
    """
    options = dict(fixed) | dict(_pairs(given, name))
    known = {f.name: f for f in fields(cls)}
    for key in options:
        if key not in known:
            raise BadOption(f"{name} has no option {key!r}; it has: {', '.join([*known, *also]) or 'none'}")
    return {key: _convert(name, key, value, known[key].type) for key, value in options.items()}


def load_class(entry: Entry) -> Any:
    """The class behind a row."""
    module, _, attribute = entry.path.partition(":")
    return getattr(import_module(module), attribute)


def defaults(entry: Entry) -> dict[str, Any]:
    """The options of a row with the values that it uses when none are given."""
    named = dict(entry.options)
    return {f.name: named.get(f.name, None if f.default is MISSING else f.default) for f in fields(load_class(entry))}


def _pairs(text: str, name: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise BadOption(f"{name}: expected key=value, got {part!r}")
        if any(key.strip() == known for known, _ in pairs):
            raise BadOption(f"{name}: {key.strip()} is given twice")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _convert(name: str, key: str, value: str, kind: Any) -> Any:
    """Turn option text into the field's type (annotations are strings here)."""
    try:
        if kind == "bool":
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, ValueError) as error:
        raise BadOption(f"{name}: {key} must be of type {kind}, got {value!r}") from error
