"""All methods by name. Adding one is its file and one row here; help, docs and the contract tests pick it up."""

from __future__ import annotations

import warnings
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import BadOption

if TYPE_CHECKING:
    from holdfast.methods.base import LatentMethod
    from holdfast.methods.text.base import TextMethod


Kind = Literal["recommended", "baseline", "ablation"]


@dataclass(frozen=True)
class Entry:
    """A row: a class, one line of help, the options that a named variant fixes, and the kind of the method."""

    path: str
    summary: str
    options: tuple[tuple[str, str], ...] = ()
    kind: Kind = "baseline"
    """`recommended`: docs/log.md shows that it pays; `baseline`: it does not, or nobody measured it; `ablation`: a
    variant of another row that answers one question."""


def _pays(path: str, summary: str) -> Entry:
    return Entry(path, summary, kind="recommended")


def _ablation(path: str, summary: str, **options: str) -> Entry:
    return Entry(path, summary, tuple(options.items()), "ablation")


_HERE = "holdfast.methods.latent"
_BASELINES = "holdfast.methods.latent.baselines"
_KVZIP = f"{_HERE}.kvzip:KVzip"
_VT = f"{_BASELINES}.virtual_tokens:VirtualTokens"

LATENT: dict[str, Entry] = {
    "informed": _pays(
        f"{_HERE}.informed:Informed", "keep what a repeat attends to where the span is informative, one threshold"
    ),
    "surrogate": _pays(
        f"{_HERE}.surrogate:Surrogate",
        "keep what a small trained network expects the full method to keep; no extra pass",
    ),
    "surrogate_stream": _pays(
        f"{_HERE}.surrogate_stream:SurrogateStream", "surrogate while reading, so that the full cache never exists"
    ),
    "kvzip": _pays(_KVZIP, "keep the KV pairs that a repeat of the span attends to, one threshold over all heads"),
    "attention_match": _pays(
        f"{_HERE}.attention_match:AttentionMatch", "fit mass and values of kept slots to what the whole span gave"
    ),
    "truncate": Entry(f"{_BASELINES}.truncate:Truncate", "drop the oldest tokens"),
    "random": Entry(f"{_BASELINES}.random:Random", "keep random KV pairs (control)"),
    "streaming": Entry(f"{_BASELINES}.streaming:Streaming", "keep the first tokens and the newest, as states"),
    "h2o": Entry(f"{_BASELINES}.h2o:H2O", "keep what the span's own tokens attended to most, and the newest"),
    "snapkv": Entry(f"{_BASELINES}.snapkv:SnapKV", "keep what the newest tokens of the span look at"),
    "expected_attention": Entry(
        f"{_BASELINES}.expected_attention:ExpectedAttention", "keep what queries like the span's own would attend to"
    ),
    "keydiff": Entry(f"{_BASELINES}.keydiff:KeyDiff", "keep the keys least like the others of their head"),
    "knorm": Entry(f"{_BASELINES}.knorm:Knorm", "keep the keys of the smallest norm"),
    "merge": Entry(f"{_BASELINES}.merge:Merge", "fold what is dropped into its nearest kept neighbour"),
    "pool": Entry(f"{_BASELINES}.pool:Pool", "surprisal-weighted means of neighbouring tokens, as states"),
    "hybrid": Entry(f"{_BASELINES}.hybrid:Hybrid", "one method keeps the best, another stands for the rest"),
    "split_by_age": Entry(
        f"{_BASELINES}.split_by_age:SplitByAge", "one method for the older part of a span, another for the newer"
    ),
    "refine": Entry(f"{_BASELINES}.refine:Refine", "gradient steps on the keys, biases and values of kept slots"),
    "restore": Entry(
        f"{_BASELINES}.restore:Restore",
        "a method's choice and trained tokens that read all of it (needs weights=FOLDER)",
    ),
    "anchors": Entry(
        f"{_BASELINES}.anchors:Anchors", "states of some tokens, read anew by a trained adapter (needs weights=FOLDER)"
    ),
    "icae": Entry(f"{_BASELINES}.icae:Icae", "memory tokens written by a trained encoder (needs weights=FOLDER)"),
    "average": Entry(f"{_BASELINES}.average:Average", "one mean embedding for each few neighbouring tokens"),
    "projector": Entry(
        f"{_BASELINES}.projector:Projector", "one embedding of each two, by a trained network (needs weights=FOLDER)"
    ),
    "virtual_tokens": Entry(_VT, "gradient-tuned virtual tokens that match the span's values"),
    "average_online": _ablation(f"{_BASELINES}.average:Average", "means of expected embeddings", of="online"),
    "average_regenerate": _ablation(
        f"{_BASELINES}.average:Average", "means of hidden states while the text is said again", of="regenerate"
    ),
    "icae_untrained": _ablation(f"{_BASELINES}.icae:Icae", "icae with an encoder drawn at random", weights="untrained"),
    "kvzip_per_head": _ablation(_KVZIP, "kvzip with an equal share for every head", allocation="head"),
    "virtual_tokens_distilled": _ablation(
        _VT,
        "values first, then what the full context says when it repeats the span",
        start="weighted",
        steps="30",
        distil="40",
    ),
    "virtual_tokens_final_layer": _ablation(_VT, "match the last hidden states only", target="final"),
    "virtual_tokens_kv": _ablation(_VT, "match rotated keys and values", target="kv"),
    "virtual_tokens_pre_rope": _ablation(_VT, "match un-rotated keys and values", target="kv_pre_rope"),
    "virtual_tokens_uniform": _ablation(_VT, "every token weighs the same", weights="uniform"),
    "virtual_tokens_attention": _ablation(
        _VT, "tokens weigh what a question attends to (needs question=...)", weights="attention"
    ),
    "virtual_tokens_consecutive": _ablation(
        _VT, "positions one after another from the span's start", positions="consecutive"
    ),
    "virtual_tokens_hybrid": _ablation(
        _VT, "the 15 % most unique values stay verbatim, the rest is compressed", verbatim="uniqueness"
    ),
    "virtual_tokens_hybrid_perplexity": _ablation(
        _VT, "the 15 % most surprising tokens stay verbatim", verbatim="perplexity"
    ),
}
"""Latent methods by name, the recommended ones first, then baselines, then ablations."""

FORMER_NAMES = {"old_new": "split_by_age"}
"""Names of latent methods that still work, and what each is called now."""

_TEXT = "holdfast.methods.text"

TEXT: dict[str, Entry] = {
    "tiered": _pays(f"{_TEXT}.tiered:Tiered", "cheap steps first, stop when it fits; no model"),
    "summarize": _pays(f"{_TEXT}.summarize:Summarize", "a model writes notes on the older turns, under fixed headings"),
    "user_words": _pays(f"{_TEXT}.user_words:UserWords", "drop what the agent said before what the user said"),
    "mask_observations": _pays(
        f"{_TEXT}.mask_observations:MaskObservations", "one line for an observation: what it was, how to get it back"
    ),
    "mask_calls": _pays(
        f"{_TEXT}.mask_calls:MaskCalls", "one line for a long argument of a call: what it was, how to get it back"
    ),
    "dedup_reads": _pays(f"{_TEXT}.dedup_reads:DedupReads", "drop reads of files that were read or written since"),
    "clamp": _pays(f"{_TEXT}.clamp:Clamp", "keep head, tail and error lines of long observations"),
    "retrieve": _pays(f"{_TEXT}.retrieve:Retrieve", "keep the turns most like the task, drop the rest"),
    "prune_tokens": _pays(f"{_TEXT}.prune_tokens:PruneTokens", "drop the tokens of observations that a model expects"),
    "none": Entry(f"{_TEXT}.none:Nothing", "leave the session as it is"),
    "truncate": Entry(f"{_TEXT}.truncate:Truncate", "drop the oldest exchanges"),
    "keep_recent": Entry(f"{_TEXT}.keep_recent:KeepRecent", "keep the newest exchanges and nothing older"),
    "random_delete": Entry(f"{_TEXT}.random_delete:RandomDelete", "drop random exchanges (control)"),
    "drop_observations": Entry(f"{_TEXT}.drop_observations:DropObservations", "drop observations"),
    "drop_long_observations": Entry(
        f"{_TEXT}.drop_long_observations:DropLongObservations", "drop the long observations"
    ),
}
"""Text methods by name, the recommended ones first."""


STORAGE, STEP = "storage", "step"
COMMON = {
    STORAGE: (
        "model",
        "how KV slots are held, in memory and on disk: model (the model's dtype), bfloat16, int8, int4, or coded "
        "(eight bits in memory and about 1.7 on disk, in bases learned for the model)",
    ),
    STEP: ("", "of storage=coded: 1 is fine, each doubling saves about a bit a number on disk; 4 if left out"),
}
"""Options of every method: default and help."""


def build(spec: str) -> LatentMethod:
    """Builds a method from `name` or `name:key=value,key=value`.

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
    chosen = {key: default for key, (default, _) in COMMON.items()} | dict(_pairs(",".join(common), name))
    return apply_storage(method, chosen[STORAGE], chosen[STEP])


def current_name(name: str) -> str:
    """Returns the name that a latent method has today; a former one warns that it is deprecated."""
    if name not in FORMER_NAMES:
        return name
    warnings.warn(f"the method {name!r} is called {FORMER_NAMES[name]!r} now", DeprecationWarning, stacklevel=3)
    return FORMER_NAMES[name]


def build_text(spec: str) -> TextMethod:
    """Builds a text method from `name` or `name:key=value,key=value`. Raises BadOption as `build` does."""
    name, _, given = spec.partition(":")
    if name not in TEXT:
        raise BadOption(f"no text method is called {name!r}; there are: {', '.join(TEXT)}")
    cls = load_class(TEXT[name])
    return cls(**read_options(name, cls, given, TEXT[name].options))  # type: ignore[no-any-return]


def read_options(
    name: str, cls: Any, given: str, fixed: tuple[tuple[str, str], ...] = (), also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Reads keywords for the dataclass `cls` from `key=value,key=value`, over the texts in `fixed`. Raises BadOption.

    `also` are options that are read elsewhere, for the message.
    """
    options = dict(fixed) | dict(_pairs(given, name))
    known = {f.name: f for f in fields(cls)}
    for key in options:
        if key not in known:
            raise BadOption(f"{name} has no option {key!r}; it has: {', '.join([*known, *also]) or 'none'}")
    return {key: _convert(name, key, value, known[key].type) for key, value in options.items()}


def load_class(entry: Entry) -> Any:
    """Imports the class of a row."""
    module, _, attribute = entry.path.partition(":")
    return getattr(import_module(module), attribute)


def defaults(entry: Entry) -> dict[str, Any]:
    """Returns the options of a row with their default values."""
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
    """Converts the text of an option to the field's type (annotations are strings here)."""
    try:
        if kind == "bool":
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, ValueError) as error:
        raise BadOption(f"{name}: {key} must be of type {kind}, got {value!r}") from error
