"""Prices of models' tokens: from the price library's own snapshot, or from a file of the user's. No network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from holdfast import config
from holdfast.cost.usage import Usage
from holdfast.engine.routing import Route
from holdfast.errors import BadOption, Failed

READ_SHARE, WRITE_SHARE, WRITE_1H_SHARE = 0.1, 1.25, 2.0
"""Of the input price, where a model has no cache price of its own."""
MTOK = 1e6

Caching = Literal["explicit", "automatic"]
"""Breakpoints that the client places and pays for (Anthropic), or prefixes that the provider finds (OpenAI)."""


@dataclass(frozen=True)
class Rates:
    """USD per million tokens."""

    input: float
    output: float
    cache_read: float
    cache_write: float
    cache_write_1h: float


@dataclass(frozen=True)
class Prices:
    """The price list of one model."""

    model: str
    rates: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    """Rates of a whole call whose prompt has more than so many tokens, the lowest first."""
    caching: Caching = "explicit"
    source: str = ""
    window: int | None = None
    """Tokens that the model reads, where the source says so."""
    notes: tuple[str, ...] = ()
    """The assumptions made."""

    def rates_of(self, prompt: int) -> Rates:
        """Returns the rates of a call with a prompt of `prompt` tokens."""
        return next((rates for start, rates in reversed(self.tiers) if prompt > start), self.rates)

    def money(self, usage: Usage) -> float:
        """Returns the USD of one call. Do not give it a sum of calls: tiers go by the prompt of each."""
        rates = self.rates_of(usage.prompt)
        spent = usage.input * rates.input + usage.output * rates.output + usage.cached * rates.cache_read
        return (spent + usage.written * rates.cache_write + usage.written_1h * rates.cache_write_1h) / MTOK


@dataclass(frozen=True)
class _StatedPrices:
    """Prices as a source states them; None where it does not."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    caching: Caching | None = None
    tiers: tuple[tuple[int, _StatedPrices], ...] = field(default=())


def read_prices(model: str, file: Path | None = None) -> Prices:
    """Returns the prices of `model`: those of `file` if it has them, else those of the bundled snapshot.

    Raises BadOption for a model or a file that cannot be used, Failed if the price library is not installed.
    """
    own = read_price_file(file) if file else {}
    return own[model] if model in own else _snapshot_prices(model)


def route_prices(route: Route) -> Prices:
    """Returns the prices of a route: zero for a model of this process, its own prices, else those of its model.

    Raises as `read_prices` does.
    """
    if route.kind == "local":
        return Prices(route.model, Rates(0, 0, 0, 0, 0), source="a model of this process")
    if route.price_in is None or route.price_out is None:
        return read_prices(route.model)
    return _fill_prices(route.model, _StatedPrices(route.price_in, route.price_out), config.CONFIG)


def read_price_file(path: Path) -> Mapping[str, Prices]:
    """Reads a TOML or JSON file: `[models."NAME"]` with input, output and optionally cache_read, cache_write,
    cache_write_1h (USD per million tokens) and caching. Raises BadOption naming the key that is wrong.
    """
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        input: float = Field(ge=0)
        output: float = Field(ge=0)
        cache_read: float | None = Field(None, ge=0)
        cache_write: float | None = Field(None, ge=0)
        cache_write_1h: float | None = Field(None, ge=0)
        caching: Caching | None = None

    class File(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        models: dict[str, Model]

    try:
        read = File.model_validate(_load(path))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors()[:3])
        raise BadOption(f"{path}: {'; '.join(faults)}; prices are USD per million tokens") from None
    return {
        name: _fill_prices(name, _StatedPrices(**model.model_dump()), str(path)) for name, model in read.models.items()
    }


def _load(path: Path) -> Any:
    import json
    import tomllib

    try:
        text = path.read_text("utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadOption(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadOption(f"{path}: is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None


def _fill_prices(model: str, given: _StatedPrices, source: str) -> Prices:
    caching = given.caching or (
        "automatic" if given.cache_write is None and given.cache_read is not None else "explicit"
    )
    notes = [f"caching is {caching}"] if given.caching is None else []
    needed = ("cache_read", "cache_write", "cache_write_1h") if caching == "explicit" else ("cache_read",)
    shares = dict(
        zip(("cache_read", "cache_write", "cache_write_1h"), (READ_SHARE, WRITE_SHARE, WRITE_1H_SHARE), strict=True)
    )
    notes += [f"no {key} price: {shares[key]:g} x input" for key in needed if getattr(given, key) is None]
    tiers = tuple((start, _rates(tier)) for start, tier in given.tiers)
    return Prices(model, _rates(given), tiers, caching, source, notes=tuple(notes))


def _rates(given: _StatedPrices) -> Rates:
    def or_share(value: float | None, share: float) -> float:
        return given.input * share if value is None else value

    read, write = or_share(given.cache_read, READ_SHARE), or_share(given.cache_write, WRITE_SHARE)
    return Rates(given.input, given.output, read, write, or_share(given.cache_write_1h, WRITE_1H_SHARE))


def _snapshot_prices(model: str) -> Prices:
    try:
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        raise Failed(
            "prices of known models need the extra `cost`: pip install 'holdfast[cost]'; or give --price-file"
        ) from None
    snapshot = get_snapshot()
    source = f"genai-prices {genai_prices.__version__}"
    provider, _, rest = model.partition("/")
    for name, of in ((model, None), (rest, provider)):
        try:
            _, info = snapshot.find_provider_model(name, None, of, None)
        except LookupError:
            continue
        # some prices depend on the hour: those of noon, so that a run can be repeated
        noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
        stated = _read_library_price(info.get_prices(noon)) if info.prices else None
        if stated is None:
            raise BadOption(f"{source} has no price per token of {model!r}; state it in a --price-file")
        return replace(_fill_prices(model, stated, source), window=getattr(info, "context_window", None))
    known = {info.id for held in snapshot.providers if held.id in _MAKERS for info in held.models}
    near = get_close_matches(model, sorted(known), n=3, cutoff=0.4)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise BadOption(f"{source} knows no model {model!r}{hint}; or state its prices in a --price-file")


_MAKERS = {"anthropic", "openai", "google", "mistral", "deepseek", "x-ai", "cohere"}


def _read_library_price(price: Any) -> _StatedPrices | None:
    """Reads a ModelPrice of the library; None if it is not by tokens."""
    keys = {"input": "input_mtok", "output": "output_mtok", "cache_read": "cache_read_mtok"}
    keys |= {"cache_write": "cache_write_mtok", "cache_write_1h": "cache_write_1h_mtok"}
    found = {key: getattr(price, theirs) for key, theirs in keys.items()}
    if found["input"] is None or found["output"] is None:
        return None
    starts = sorted({tier.start for value in found.values() for tier in getattr(value, "tiers", ())})

    def at(value: Any, start: int | None) -> float | None:
        if value is None or not hasattr(value, "base"):
            return None if value is None else float(value)
        reached = [tier.price for tier in value.tiers if start is not None and tier.start <= start]
        return float(reached[-1] if reached else value.base)

    def prices_at(start: int | None) -> dict[str, Any]:
        return {key: at(value, start) for key, value in found.items()}

    return _StatedPrices(**prices_at(None), tiers=tuple((start, _StatedPrices(**prices_at(start))) for start in starts))
