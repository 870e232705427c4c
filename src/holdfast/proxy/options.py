"""Options of a proxy, decided once when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.engine.chat import Chat
from holdfast.errors import BadOption
from holdfast.session.trigger import TRIGGER
from holdfast.text.rewrite import TextPlan
from holdfast.web.front_door import LOOPBACK_NAMES


@dataclass(frozen=True)
class Options:
    """The plan by which a proxy compacts, its limits and its time-outs."""

    plan: TextPlan | None = None
    """The plan of `Compactor`, like the three fields that follow."""
    trigger: int = TRIGGER
    window: int | None = None
    chat: Chat | None = None
    planned: bool = True
    """True: where the price of a model is known, its histories are compacted where that pays or the window demands it.
    False: at every trigger.
    """
    price_file: Path | None = None
    """Prices of models, as `holdfast cost --price-file` takes them."""
    journal: Path | None = None
    """Folder for the raw turns of every session; None keeps them in memory alone."""
    breakpoints: bool = True
    """Place cache breakpoints in requests of Anthropic's wire."""
    key: str = field(default="", repr=False)
    """Sent upstream where a client sends no key."""
    memory_tools: bool = False
    """Add tools by which the model searches and reads its own past, and answer their calls here."""
    dry_run: bool = False
    """Measure, and change no request."""
    log: Path | None = None
    """JSON lines are appended here, one a request."""
    log_text: bool = False
    """With the words of facts that were lost and of failures; else only kinds and counts."""
    patience: float = 20.0
    """Seconds that a compaction may take before the request goes out without it."""
    timeout: float = 600.0
    """Seconds that the upstream may be silent."""
    max_body: int = 32 << 20
    """Bytes of a request above which it streams through unread."""
    address: str = "127.0.0.1"
    """The address that the proxy listens at."""
    names: frozenset[str] = frozenset()
    """Names besides localhost that a request on loopback may call the proxy by in its Host header."""
    concurrency: int = 256
    """Requests under way at once; one more is asked to come again."""
    body_seconds: float = 60.0
    """Seconds for a body to arrive that is read whole, and of silence in one that streams through."""

    def __post_init__(self) -> None:
        for name in ("patience", "timeout", "max_body", "concurrency", "body_seconds"):
            if not getattr(self, name) > 0:
                raise BadOption(f"{name.replace('_', ' ')} must be above 0, got {getattr(self, name):g}")
        if self.journal and not self.journal.is_dir():
            raise BadOption(f"{self.journal}: the journal must be a folder that exists")
        if self.log and not self.log.parent.is_dir():
            raise BadOption(f"{self.log}: the log must be in a folder that exists")

    @property
    def own_names(self) -> frozenset[str] | None:
        """Names that a Host header may have; None if others than this machine reach the proxy."""
        return frozenset({*LOOPBACK_NAMES, self.address, *self.names}) if is_loopback(self.address) else None


def upstream_address(url: str) -> str:
    """Returns the URL without a slash at its end. Raises BadOption if no request can go to it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadOption(f"--upstream must be an http or https URL such as https://api.openai.com/v1, got {url[:80]!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadOption("--upstream takes no key, query or fragment; give the key by --api-key-env or in the client")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Returns True if an address, or the name that stands for it, is this machine's own."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
