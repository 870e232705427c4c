"""What runs or stands open survives every text compaction, and dies with the event that ends it: 1,000 of 1,000."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from holdfast.facts.fact import FactKind
from holdfast.facts.handles import find_handles
from holdfast.facts.session_facts import collect_facts
from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn
from small_sessions import long

METHODS = ("truncate", "tiered", "keep_recent", "mask_observations", "drop_long_observations", "user_words")


@dataclass
class Story:
    """A session that is told event by event, with what is live at its end and what died."""

    seed: int
    turns: list[Turn] = field(default_factory=list)
    live: dict[str, str] = field(default_factory=dict)
    """By key, the line that a facts section must have."""
    dead: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.turns += [Turn(Role.SYSTEM, "You are a coding agent."), Turn(Role.USER, f"Set up kiln {self.seed}.")]

    def call(self, name: str, result: str, **arguments: object) -> None:
        made = ToolCall(f"c{len(self.turns)}", name, json.dumps(arguments))
        self.turns += [Turn(Role.ASSISTANT, "", calls=(made,)), Turn(Role.TOOL, result, call_id=made.id)]

    def say(self, text: str) -> None:
        self.turns.append(Turn(Role.USER, text))

    def fill(self) -> None:
        self.call("Bash", long(40 + self.dice.randrange(80)), command=f"look {len(self.turns)}")

    def begin(self, key: str, line: str) -> None:
        if key in self.live:
            self.dead.append(self.live[key])
        self.live[key] = line

    def end(self, *keys: str) -> None:
        self.dead += [self.live.pop(key) for key in keys if key in self.live]

    def name(self) -> str:
        return f"k{self.seed}x{len(self.turns)}"


def claude_shell(story: Story) -> None:
    name = f"bash_{story.name()}"
    story.call(
        "Bash", f"Command running in background with ID: {name}. Output is being written to: /tmp/{name}.output",
        command=f"npm run bake-{name}", run_in_background=True,
    )  # fmt: skip
    story.begin(name, f"shell {name}: npm run bake-{name}")
    port = str(20_000 + len(story.turns) * 7)
    story.fill()
    story.call("BashOutput", f"<status>running</status>\n  ➜  Local:   http://localhost:{port}/", bash_id=name)
    story.begin(f"port {port}", f"port {port}: listened on by shell {name}")
    ending = story.dice.randrange(5)
    if ending == 0:
        story.call("KillShell", f"Successfully killed shell: {name}", shell_id=name)
    elif ending == 1:
        story.say(f"<task-notification>\n<task-id>{name}</task-id>\n<status>completed</status>\n</task-notification>")
    elif ending == 2:
        story.call("BashOutput", "<status>failed</status>\n<exit_code>1</exit_code>", bash_id=name)
    if ending < 3:
        story.end(name, f"port {port}")


def codex_shell(story: Story) -> None:
    name = str(1000 + len(story.turns))
    story.call(
        "exec_command",
        f"Wall time: 1.0 seconds\nProcess running with session ID {name}\nOutput:\n",
        cmd=f"glaze {name}",
    )
    story.begin(name, f"shell {name}: glaze {name}")
    if story.dice.random() < 0.5:
        story.call("write_stdin", "Process exited with code 0\nOutput:\ndone", session_id=int(name), chars="")
        story.end(name)


def unix_job(story: Story) -> None:
    name = str(40_000 + len(story.turns))
    port = str(10_000 + len(story.turns) * 3)
    story.call("shell", f"[1] {name}", command=["bash", "-lc", f"python -m http.server {port} &"])
    story.begin(name, f"shell {name}: python -m http.server {port} &")
    story.begin(f"port {port}", f"port {port}: listened on by shell {name}")
    ending = story.dice.randrange(4)
    kills = (f"kill -9 {name}", f"fuser -k {port}/tcp", f"pkill -f 'http.server {port}'")
    if ending < 3:
        story.call("shell", "", command=["bash", "-lc", kills[ending]])
        story.end(name, f"port {port}")


def sub_agent(story: Story) -> None:
    name = f"a{story.name()}"
    story.call(
        "Task", f"Async agent launched successfully.\nagentId: {name} (internal ID)", description=f"Read glaze {name}",
        run_in_background=True,
    )  # fmt: skip
    story.begin(name, f"agent {name}: Read glaze {name}")
    if story.dice.random() < 0.5:
        story.say(f"<task-notification><task-id>{name}</task-id><status>killed</status></task-notification>")
        story.end(name)


def codex_agent(story: Story) -> None:
    name = f"019-{story.name()}"
    story.call("spawn_agent", json.dumps({"agent_id": name}), message=f"Count bricks {name}")
    story.begin(name, f"agent {name}: Count bricks {name}")
    ending = story.dice.randrange(3)
    if ending == 0:
        story.call("close_agent", "{}", id=name)
    elif ending == 1:
        story.call("wait", json.dumps({"status": {name: {"completed": "ok"}}}), ids=[name, "019-other"])
    if ending < 2:
        story.end(name)


def editor(story: Story) -> None:
    names = [f"src/{story.name()}_{n}.rs" for n in range(2)]
    tabs = "\n".join(f"- {name.rpartition('/')[2]}: {name}" for name in names)
    story.say(f"# Context from my IDE setup:\n\n## Open tabs:\n{tabs}\n\n## My request for Codex:\nGo on, please.")
    story.end(*[key for key in story.live if key.startswith("src/")])
    for name in names:
        story.begin(name, f"file {name}: open in the editor")


def todo_list(story: Story) -> None:
    name = story.name()
    items = [{"content": f"Fire {name}", "status": "completed"}, {"content": f"Cool {name}", "status": "in_progress"}]
    items.append({"content": f"Sell {name}", "status": "pending"})
    story.call("TodoWrite", "Todos have been modified successfully.", todos=items)
    story.begin("todo", f"todo list: [x] Fire {name}; [>] Cool {name}; [ ] Sell {name}")
    if story.dice.random() < 0.2:
        story.call("TodoWrite", "ok", todos=[{**item, "status": "completed"} for item in items])
        story.end("todo")


def plan(story: Story) -> None:
    name = story.name()
    steps = [{"step": f"Mix {name}", "status": "in_progress"}, {"step": f"Pour {name}", "status": "pending"}]
    story.call("update_plan", "Plan updated", plan=steps)
    story.begin("todo", f"todo list: [>] Mix {name}; [ ] Pour {name}")


EVENTS: tuple[Callable[[Story], None], ...] = (
    *(claude_shell, codex_shell, unix_job, sub_agent, codex_agent, editor, todo_list, plan),
)


def write_story(seed: int) -> Story:
    story = Story(seed)
    for _ in range(14):
        story.dice.choice(EVENTS)(story)
        story.fill()
    for _ in range(3):
        story.fill()
    return story


def test_a_thousand_handles_survive_and_the_dead_ones_are_gone() -> None:
    alive = kept = dead = stale = seed = 0
    while alive < 1000:
        story = write_story(seed)
        said = Transcript(tuple(story.turns), "openai_chat")
        method = METHODS[seed % len(METHODS)]
        plan_ = TextPlan(method, ratio=(3, 6, 12)[seed % 3], keep_recent=1)
        first = rewrite(said, plan_).draft
        # what was written is read again, and compacted again with what came since
        later = [Turn(Role.USER, "And the next one."), *write_story(-1 - seed).turns[-6:]]
        again = rewrite(replace(said, turns=(*first.turns, *later)), plan_).draft
        for draft in (first, again):
            shown = "\n".join(turn.text for turn in draft.turns if turn.text.startswith("[facts"))
            standing = {fact.text for fact in collect_facts(replace(said, turns=draft.turns)).live}
            alive += len(story.live)
            kept += sum(line in standing for line in story.live.values())
            dead, stale = dead + len(story.dead), stale + sum(f"): {line}" in shown for line in story.dead)
        seed += 1
    assert (kept, stale) == (alive, 0)
    assert dead > 200


def test_a_task_board_with_ids_is_one_list() -> None:
    story = Story(0)
    story.call("TaskCreate", "Task #1 created successfully: Dig clay", subject="Dig clay", description="long")
    story.call("TaskCreate", "Task #2 created successfully: Wash clay", subject="Wash clay")
    story.call("TaskUpdate", "Updated task #1 status", taskId="1", status="in_progress")
    live = [handle for handle in find_handles(story.turns) if handle.ended is None]
    assert [handle.text for handle in live] == ["todo list: #1 [>] Dig clay; #2 [ ] Wash clay"]
    for _ in range(6):
        story.fill()
    said = Transcript(tuple(story.turns), "openai_chat")
    done = rewrite(said, TextPlan("truncate", ratio=20, keep_recent=1))
    assert any("): todo list: #1 [>] Dig clay; #2 [ ] Wash clay" in turn.text for turn in done.draft.turns)
    carried = Story(0)
    carried.turns = list(done.draft.turns)
    carried.call("TaskUpdate", "Updated task #1 status", taskId="1", status="completed")
    assert [h.text for h in find_handles(carried.turns) if h.ended is None and h.what == "todo list"] == [
        "todo list: #1 [x] Dig clay; #2 [ ] Wash clay"
    ]
    story.call("TaskUpdate", "x", taskId="1", status="completed")
    story.call("TaskUpdate", "x", taskId="2", status="completed")
    assert all(handle.ended is not None for handle in find_handles(story.turns))


@pytest.mark.parametrize(
    "text",
    ["<task-id>b1</task-id> is what a notice looks like.", "Command running in background with ID: b1, I think."],
)
def test_words_of_the_user_or_the_model_start_and_end_nothing(text: str) -> None:
    story = Story(0)
    story.call("Bash", "Command running in background with ID: b1", command="serve", run_in_background=True)
    before = find_handles(story.turns)
    told = (Turn(Role.USER, text), Turn(Role.ASSISTANT, f"{text} <status>completed</status>"))
    assert find_handles((*story.turns, *told)) == before
    assert [handle.ended for handle in before] == [None]


def test_a_handle_is_a_fact_of_its_own_kind() -> None:
    story = Story(0)
    claude_shell(story)
    kinds = {
        fact.kind for fact in collect_facts(Transcript(tuple(story.turns))).facts if fact.text.startswith("shell ")
    }
    assert kinds == {FactKind.HANDLE}
