"""The cost of a session behind an API: tokens by price, prompt caches included, and where to cut."""

from holdfast.cost.prices import Prices, read_prices
from holdfast.cost.session_cost import SessionCost, session_cost

__all__ = ["Prices", "SessionCost", "read_prices", "session_cost"]
