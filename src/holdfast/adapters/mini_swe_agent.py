"""mini-swe-agent: a model that compacts what another model is asked; the agent's trajectory stays whole.

    agent = DefaultAgent(CompactingModel(get_model("…")), env, **config)

Wraps any of its models that speak chat messages, with tool calls or with fenced commands. Needs no import of it.
"""

from __future__ import annotations

from typing import Any

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.messages import Message, compact_messages


class CompactingModel:
    """In every other respect the model that it wraps."""

    def __init__(self, model: Any, compactor: Compactor | None = None) -> None:
        self.model = model
        self.compactor = compactor or Compactor()

    def query(self, messages: list[Message], **kwargs: Any) -> Message:
        """Asks the model with compacted messages."""
        reply: Message = self.model.query(compact_messages(self.compactor, messages), **kwargs)
        return reply

    def __getattr__(self, name: str) -> Any:
        # Also asked by copy and pickle, before there is a model to look in.
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)
