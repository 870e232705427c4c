"""No sandbox: commands run as the user, with the limits of a shell. For machines that are themselves one."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.agent.sandbox.base import Rights, shell
from holdfast.agent.sandbox.process import Child, start_child


class NoSandbox:
    """Commands without limits on files and network."""

    name = "none"
    confines = False

    def probe(self) -> str:
        return ""

    def start(self, command: str, rights: Rights, environment: Mapping[str, str]) -> Child:
        return start_child(shell(command), rights, environment)
