"""The sandboxes in which an agent's commands run. Adding one is its file and one row in `SANDBOXES`."""

from __future__ import annotations

from importlib import import_module

from holdfast.agent.sandbox.base import Sandbox
from holdfast.errors import BadOption, Failed

SANDBOXES: dict[str, str] = {
    "sandlock": "holdfast.agent.sandbox.sandlock:Sandlock",
    "bubblewrap": "holdfast.agent.sandbox.bubblewrap:Bubblewrap",
    "none": "holdfast.agent.sandbox.none:NoSandbox",
}
"""Names and classes, in the order in which they are tried; the last is taken only when it is asked for."""


def open_sandbox(name: str = "auto") -> Sandbox:
    """Returns a sandbox that works here. `auto` takes the first that does, and never `none`.

    Raises BadOption for an unknown name, Failed with each reason and what to do where none works.
    """
    if name not in ("auto", *SANDBOXES):
        raise BadOption(f"no sandbox is called {name!r}; there are: auto, {', '.join(SANDBOXES)}")
    reasons = []
    for each in [name] if name != "auto" else [known for known in SANDBOXES if known != "none"]:
        module, _, attribute = SANDBOXES[each].partition(":")
        sandbox: Sandbox = getattr(import_module(module), attribute)()
        if not (reason := sandbox.probe()):
            return sandbox
        reasons.append(f"{each}: {reason}")
    raise Failed(
        f"no sandbox works here ({'; '.join(reasons)}). Mend one of them, or run the agent where its commands can do "
        "no harm and say --no-sandbox"
    )
