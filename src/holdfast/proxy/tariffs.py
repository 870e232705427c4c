"""The tariff of a request: the prices of its model, if they are known, and the rules of its provider's cache."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.cost.cache import Life
from holdfast.cost.prices import Prices, read_price_file, read_prices
from holdfast.errors import BadOption, Failed
from holdfast.proxy.bill import Tariff, rules_of
from holdfast.proxy.options import Options
from holdfast.proxy.wires import Body, Wire, instructions_of, model_of
from holdfast.transcript.token_estimate import estimate_tokens

_MODELS = 200  # whose prices are remembered


class Tariffs:
    """Prices by the name of the model, looked up once each; without the network."""

    def __init__(self, options: Options) -> None:
        """Raises BadOption for a file of prices that cannot be used."""
        self._options = options
        self._own: Mapping[str, Prices] = read_price_file(options.price_file) if options.price_file else {}
        self._known: dict[str, Prices | None] = {}

    def tariff(self, wire: Wire, body: Body, path: str, marked: bool, hourly: bool) -> Tariff | None:
        """Returns the tariff; None if the price of the model is not known. `marked`: the client placed cache
        breakpoints; `hourly`: some that live an hour.
        """
        prices = self._prices(model_of(body, path))
        if prices is None:
            return None
        life: Life = "1h" if hourly else "5m"
        ours = wire.name == "anthropic" and self._options.breakpoints
        rules = rules_of(prices, marked or ours, life)
        text = instructions_of(wire, body)
        window = self._options.window or prices.window
        return Tariff(prices, rules, estimate_tokens(text) if text else 0, window)

    def _prices(self, model: str) -> Prices | None:
        if model not in self._known:
            if len(self._known) >= _MODELS:
                self._known.clear()
            self._known[model] = self._find(model)
        return self._known[model]

    def _find(self, model: str) -> Prices | None:
        if model in self._own:
            return self._own[model]
        for name in (model, model.rpartition("/")[2]) if model else ():
            try:
                return read_prices(name)
            except (BadOption, Failed):
                continue
        return None
