"""A lean coding agent with compaction inside: a loop, tools, sandboxes, contexts and trajectories.

Start with `loop.py`; `run_agent` puts a run together by names.
"""

from holdfast.agent.hooks import Hooks
from holdfast.agent.limits import Limits
from holdfast.agent.models import ModelAnswer, ScriptedModel
from holdfast.agent.start import AgentOptions, run_agent
from holdfast.agent.state import AgentRun

__all__ = ["AgentOptions", "AgentRun", "Hooks", "Limits", "ModelAnswer", "ScriptedModel", "run_agent"]
