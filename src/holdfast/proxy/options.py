"""What a proxy is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.adapters.compactor import TRIGGER
from holdfast.engine.chat import Chat
from holdfast.errors import BadOption
from holdfast.text.rewrite import TextPlan


@dataclass(frozen=True)
class Options:
    """How a proxy compacts, and how long it waits for what."""

    plan: TextPlan | None = None
    """As of `Compactor`, like the three that follow."""
    trigger: int = TRIGGER
    window: int | None = None
    chat: Chat | None = None
    breakpoints: bool = True
    """Place cache breakpoints in requests of Anthropic's wire."""
    key: str = field(default="", repr=False)
    """Sent upstream where a client sends no key."""
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

    def __post_init__(self) -> None:
        if not (self.patience > 0 and self.timeout > 0 and self.max_body > 0):
            raise BadOption(
                "patience, timeout and max_body must be above 0, "
                f"got {self.patience:g} s, {self.timeout:g} s and {self.max_body} bytes"
            )
        if self.log and not self.log.parent.is_dir():
            raise BadOption(f"{self.log}: the log must be in a folder that exists")


def upstream_address(url: str) -> str:
    """The URL without a slash at its end. Raises BadOption where it is none that requests can go to."""
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
    """Whether an address, or the name that stands for it, is this machine's own."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
