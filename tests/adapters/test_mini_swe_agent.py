"""mini-swe-agent's own loop with its deterministic models: small requests, paired calls, a whole trajectory."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from requests_of_a_loop import STEPS, TASK, TRIGGER, check_requests, observation

pytest.importorskip("minisweagent", reason="mini-swe-agent is not installed")

from minisweagent.agents.default import DefaultAgent
from minisweagent.models import test_models as models

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.messages import turns_of
from holdfast.adapters.mini_swe_agent import CompactingModel
from holdfast.text.rewrite import Rewritten, TextPlan


class Environment:
    """Answers every command without running it, and ends the loop at the last."""

    config = None

    def __init__(self) -> None:
        self.steps = 0

    def execute(self, action: dict[str, Any], cwd: str = "") -> dict[str, Any]:
        self.steps += 1
        if self.steps > STEPS:
            from minisweagent.exceptions import Submitted

            raise Submitted({"role": "exit", "content": "", "extra": {"exit_status": "Submitted", "submission": "ok"}})
        return {"output": observation(self.steps), "returncode": 0, "exception_info": ""}

    def get_template_vars(self, **_: Any) -> dict[str, Any]:
        return {}

    def serialize(self) -> dict[str, Any]:
        return {}


def fenced() -> Any:
    outputs = [
        models.make_output("Look.\n```bash\nmake test\n```", [{"command": "make test"}], cost=0)
        for _ in range(STEPS + 1)
    ]
    return models.DeterministicModel(outputs=outputs, cost_per_call=0)


def called() -> Any:
    outputs = []
    for step in range(STEPS + 1):
        call = {"id": f"c{step}", "type": "function", "function": {"name": "bash", "arguments": '{"command": "make"}'}}
        made = models.make_toolcall_output(None, [call], [{"command": "make", "tool_call_id": f"c{step}"}])
        made["extra"]["cost"] = 0
        outputs.append(made)
    return models.DeterministicToolcallModel(outputs=outputs, cost_per_call=0)


@pytest.mark.parametrize("make", [fenced, called])
@pytest.mark.parametrize("method", ["tiered", "truncate"])
def test_a_loop_stays_small_legal_and_byte_stable(make, method):
    done: list[Rewritten] = []
    failures: list[str] = []
    inner = make()
    seen: list[list[dict[str, Any]]] = []
    ask = inner.query

    def query(messages: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        seen.append(copy.deepcopy(messages))
        return ask(messages, **kwargs)

    inner.query = query
    compactor = Compactor(
        TextPlan(method, budget=TRIGGER // 2), TRIGGER, on_compaction=done.append, on_failure=failures.append
    )
    agent = DefaultAgent(
        CompactingModel(inner, compactor),
        Environment(),
        system_template="You are careful.",
        instance_template="{{task}}",
        cost_limit=0,
    )
    assert agent.run(TASK)["exit_status"] == "Submitted"
    assert failures == []
    check_requests([turns_of(request) for request in seen], [list(map(json.dumps, r)) for r in seen], len(done))
    assert len(agent.messages) == 2 + 2 * STEPS + 2
    assert observation(1) in str(agent.messages[3]["content"])


def test_everything_else_is_the_models_own():
    inner = fenced()
    model = CompactingModel(inner)
    assert model.config is inner.config
    assert model.serialize() == inner.serialize()
    assert copy.copy(model).model is inner
    with pytest.raises(AttributeError):
        model.no_such_thing  # noqa: B018
