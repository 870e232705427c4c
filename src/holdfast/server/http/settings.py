"""What a server allows and how long it waits, decided once when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from math import inf

from holdfast.errors import BadOption

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """Raises BadOption for an address that others reach without a key, and for a limit that lets nothing through."""

    address: str = "127.0.0.1"
    """Where the server listens."""
    keys: frozenset[str] = frozenset()
    """Digests (`auth.digest`) of the API keys that are let in. None on loopback: any key is, or none."""
    names: frozenset[str] = frozenset()
    """What else than localhost a request on loopback may call this server in its Host header."""
    body_bytes: int = 32 * 2**20
    """Of one request."""
    body_seconds: float = 30.0
    """For a request to arrive whole."""
    stalled_seconds: float = 60.0
    """For a reader to take the next piece of its answer."""
    concurrency: int = 32
    """Requests under way at once; one more is asked to come again."""
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
        for name in ("body_bytes", "body_seconds", "stalled_seconds", "concurrency", "seconds", "max_tokens"):
            if not 0 < getattr(self, name) < inf:
                raise BadOption(f"{name.replace('_', ' ')} must be a number above 0, got {getattr(self, name)}")
        if not 0 <= self.drain_seconds < inf:
            raise BadOption(f"drain seconds must be a number of at least 0, got {self.drain_seconds}")
        if self.per_minute is not None and self.per_minute < 1:
            raise BadOption(f"requests per minute must be at least 1, got {self.per_minute}")

    @property
    def on_loopback(self) -> bool:
        """Only programs of this machine reach the server."""
        if self.address == "localhost":
            return True
        try:
            return ip_address(self.address).is_loopback
        except ValueError:
            return False
