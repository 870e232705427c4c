"""What a session costs behind an API: tokens by price, prompt caches included, and where to cut."""

from holdfast.cost.prices import Prices, prices
from holdfast.cost.session_cost import SessionCost, session_cost

__all__ = ["Prices", "SessionCost", "prices", "session_cost"]
