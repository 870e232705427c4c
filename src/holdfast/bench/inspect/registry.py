"""The names that the package's entry point gives inspect: models, the sandbox, the agent, the eight tasks."""

from holdfast.adapters.inspect_ai import HoldfastCompaction
from holdfast.bench.inspect.models import HoldfastAPI
from holdfast.bench.inspect.sandbox import HoldfastSandbox, HoldfastSandboxConfig
from holdfast.bench.inspect.solver import holdfast_agent, holdfast_tools
from holdfast.bench.inspect.tasks import eight_tasks, hidden_checks

__all__ = [
    "HoldfastAPI",
    "HoldfastCompaction",
    "HoldfastSandbox",
    "HoldfastSandboxConfig",
    "eight_tasks",
    "hidden_checks",
    "holdfast_agent",
    "holdfast_tools",
]
