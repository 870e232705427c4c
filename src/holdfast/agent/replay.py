"""A run as one HTML page: at each step what the model was sent, what it answered, and what that cost."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from holdfast.agent.state import Row, RunState, apply
from holdfast.transcript.turn import Turn

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body{{font:14px/1.5 system-ui,sans-serif;margin:0;display:grid;grid-template-columns:19em 1fr;height:100vh;color:#222}}
nav{{overflow:auto;border-right:1px solid #ddd;padding:1em}} main{{overflow:auto;padding:1em 2em}}
nav button{{display:block;width:100%;text-align:left;border:0;background:none;padding:.3em .5em;font:inherit;
cursor:pointer}} nav button[aria-current=true]{{background:#dce8f5}} nav small{{color:#555;display:block}}
section{{border-left:4px solid #bbb;margin:0 0 1em;padding:.2em 1em}} section b{{color:#555}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2em 0;font:12px/1.45 ui-monospace,monospace}}
.user{{border-color:#3a77b4}} .assistant{{border-color:#3d8b3d}} .tool{{border-color:#b08a2e}}
.answer{{background:#eef6ee}} .new{{background:#fffbe9}} h1{{font-size:1.1em;margin:0 0 .5em}}
</style>
<nav><h1>{title}</h1><p>{summary}</p><div id="steps"></div></nav><main id="view"></main>
<script type="application/json" id="run">{data}</script>
<script>
const run = JSON.parse(document.getElementById("run").textContent), steps = document.getElementById("steps");
function block(turn, mark) {{
  const section = document.createElement("section"); section.className = turn.role + " " + mark;
  const head = document.createElement("b"); head.textContent = turn.role + (mark ? " (" + mark + ")" : "");
  const text = document.createElement("pre");
  text.textContent = [turn.reasoning, turn.text, ...turn.calls].filter(Boolean).join("\\n");
  section.append(head, text); return section;
}}
function show(at) {{
  const step = run.steps[at], before = new Set(at ? run.steps[at - 1].sent : []);
  const view = document.getElementById("view");
  view.replaceChildren(...step.sent.map(i => block(run.turns[i], before.has(i) ? "" : "new")),
                       ...(step.answer === null ? [] : [block(run.turns[step.answer], "answer")]));
  [...steps.children].forEach((b, i) => b.setAttribute("aria-current", i === at));
  view.scrollTop = view.scrollHeight; location.hash = at + 1;
}}
run.steps.forEach((step, at) => {{
  const button = document.createElement("button"), small = document.createElement("small");
  button.textContent = step.title; small.textContent = step.note; button.append(small);
  button.onclick = () => show(at); steps.append(button);
}});
document.onkeydown = e => {{
  const now = [...steps.children].findIndex(b => b.getAttribute("aria-current") === "true");
  const next = now + ({{ArrowDown: 1, j: 1, ArrowUp: -1, k: -1}}[e.key] || 0);
  if (next !== now && run.steps[next]) show(next);
}};
if (run.steps.length) show(Math.min(run.steps.length, Math.max(1, parseInt(location.hash.slice(1)) || 1)) - 1);
</script></html>
"""


def replay_page(rows: Sequence[Row]) -> str:
    """Returns the page. Each turn stands in it once, whatever the number of steps that were sent it."""
    about = rows[0]
    turns: list[Turn] = []
    places: dict[int, int] = {}
    state, steps, compaction = RunState(), list[dict[str, Any]](), ""

    def place(turn: Turn) -> int:
        if id(turn) not in places:
            places[id(turn)] = len(turns)
            turns.append(turn)
        return places[id(turn)]

    for row in rows:
        sent, state = state.view, apply(state, row)
        if row["kind"] == "compaction":
            compaction = f"compacted by {row['method']}: {row['before']:,} to {row['after']:,} tokens; "
        if row["kind"] == "answer":
            said = len(state.turns) - (2 if row.get("problem") else 1)
            note = f"{compaction}{state.tokens:,} tokens in, {row['usage']['output']:,} out, {row['seconds']:.1f} s"
            steps.append(
                {
                    "title": f"Step {state.steps}",
                    "note": f"{note}, {state.account.money:.4f} USD so far",
                    "sent": [place(turn) for turn in sent],
                    "answer": place(state.turns[said]),
                }
            )
            compaction = ""
    end = f"{state.status or 'not ended'}: {state.text[:400]}"
    steps.append({"title": "End", "note": end, "sent": [place(turn) for turn in state.view], "answer": None})
    data = json.dumps({"turns": list(map(_row, turns)), "steps": steps}, ensure_ascii=False)
    summary = (
        f"{about['model']}, {about['context']}, {about['profile']}, {about['sandbox']}: {state.steps} steps, "
        f"{state.compactions} compactions, {state.account.money:.4f} USD"
    )
    shown = data.replace("<", "\\u003c")  # so that nothing in a session closes the script
    return _PAGE.format(title=html.escape(about["task"][:120]), summary=html.escape(summary), data=shown)


def _row(turn: Turn) -> dict[str, Any]:
    calls = [f"{call.name} {call.arguments}" for call in turn.calls]
    return {"role": turn.role.value, "text": turn.text, "reasoning": turn.reasoning, "calls": calls}
