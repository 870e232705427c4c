"""On `holdfast serve`, real agents end a task of two steps in one session that is compacted between the steps.

The tiny model's words are scripted; what the second step writes is what a memory tool read from the session.
"""

from __future__ import annotations

import pytest
import two_steps
from agent_kinds import AGENTS, require
from cells import Cells
from driving import Agent
from scripted_model import scripted_serve

from holdfast.server.http.auth import digest

pytest_plugins = ("agent_start",)

SLOTS = 3000


@pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.name)
def test_the_second_step_is_in_the_session_of_the_first(kind, start, tmp_path, record_property):
    cells = Cells(record_property, kind, "serve", "memory tools of serve")
    require(kind)
    agents: list[Agent] = []
    with scripted_serve(agents, tmp_path, SLOTS) as (host, url):
        agents.append(start(kind, url))
        two_steps.lay_out(agents[0].place.work)
        printed = two_steps.work(agents[0])
        rows = host.sessions(digest(kind.key))
        details = [host.session(row["id"], digest(kind.key)) for row in rows]
    main = [detail for detail in details if detail["turns"] > 2 * two_steps.LOGS]
    assert main, printed[-2000:]
    assert len(main) == 1 or not kind.appends
    longest = max(main, key=lambda detail: detail["turns"])
    assert any(one["compacted"] for one in longest["rounds"][:-2]), "nothing was compacted before the second step"
    cells.passes("serve")
    assert "history_search" not in printed
    two_steps.check_end_state(agents[0].place.work, printed)
    cells.passes("memory tools of serve")
