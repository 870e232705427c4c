"""Options of one compaction, over the plan of its session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.compaction.plan import Plan
from holdfast.gate.latent.gate import Gate


def apply_options(plan: Plan, options: Mapping[str, Any]) -> Plan:
    """Returns the plan with any of latent, ratio, slots, by_turn, keep_recent and gate. Raises BadOption."""
    changes: dict[str, Any] = {
        name: options[name] for name in ("latent", "ratio", "slots", "by_turn") if name in options
    }
    if "keep_recent" in options:
        changes["policy"] = replace(plan.policy, keep_recent=int(options["keep_recent"]))
    if "gate" in options:
        changes["gate"] = (plan.gate or Gate()) if options["gate"] else None
    return replace(plan, **changes)
