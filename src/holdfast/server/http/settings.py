"""The settings of a server: its limits and time-outs, decided once when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from math import inf

from holdfast.errors import BadOption
from holdfast.web.front_door import LOOPBACK_NAMES
from holdfast.web.limiter import share_for_one_key
from holdfast.web.listener import IDLE_SECONDS

_POSITIVE = (
    *("body_bytes", "messages", "idle_seconds", "body_seconds", "stalled_seconds", "seconds", "max_tokens"),
    *("concurrency", "concurrency_per_key", "event_streams", "event_streams_per_key"),
)


@dataclass(frozen=True)
class Settings:
    """Raises BadOption for an address that others reach without a key, and for a limit that lets nothing through."""

    address: str = "127.0.0.1"
    """The address on which the server listens."""
    keys: frozenset[str] = frozenset()
    """Digests (`auth.digest`) of the API keys that are let in. None on loopback: any key is, or none."""
    names: frozenset[str] = frozenset()
    """Names other than localhost that a request on loopback may use in its Host header."""
    body_bytes: int = 32 * 2**20
    """Bytes of one request."""
    messages: int = 10_000
    """Messages of one request; a bound of its other lists too."""
    idle_seconds: float = IDLE_SECONDS
    """Seconds for the head of a request to arrive."""
    body_seconds: float = 30.0
    """Seconds for the body of a request to arrive whole."""
    stalled_seconds: float = 60.0
    """For a reader to take the next piece of its answer."""
    concurrency: int = 32
    """Requests under way at once; one more is asked to come again."""
    concurrency_per_key: int | None = None
    """Those of one key; three quarters of all if None."""
    event_streams: int = 64
    """Streams of events at once, which take no places of requests."""
    event_streams_per_key: int = 16
    per_minute: int | None = None
    """Requests of one key in a minute."""
    seconds: float = 600.0
    """For one answer, its wait for the model included."""
    max_tokens: int = 8192
    """Most tokens of one answer; a request for more gets these."""
    drain_seconds: float = 30.0
    """For the answers that are under way when the server is told to stop."""

    def __post_init__(self) -> None:
        if not self.keys and not self.on_loopback:
            raise BadOption(
                f"{self.address} can be reached from other machines, so callers need an API key: pass --api-key-file "
                "FILE with a key on each line, or set HOLDFAST_API_KEYS to keys with commas between, or listen on "
                "127.0.0.1"
            )
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise BadOption(f"{name.replace('_', ' ')} must be a number above 0, got {value}")
        if not 0 <= self.drain_seconds < inf:
            raise BadOption(f"drain seconds must be a number of at least 0, got {self.drain_seconds}")
        if self.per_minute is not None and self.per_minute < 1:
            raise BadOption(f"requests per minute must be at least 1, got {self.per_minute}")

    @property
    def per_key(self) -> int:
        """Requests of one key at once."""
        return self.concurrency_per_key or share_for_one_key(self.concurrency)

    @property
    def own_names(self) -> frozenset[str] | None:
        """Names that a Host header may have; None if others reach the server, which then asks for keys."""
        return frozenset({*LOOPBACK_NAMES, self.address, *self.names}) if self.on_loopback else None

    @property
    def on_loopback(self) -> bool:
        """Only programs of this machine reach the server."""
        if self.address == "localhost":
            return True
        try:
            return ip_address(self.address).is_loopback
        except ValueError:
            return False
