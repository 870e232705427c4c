"""Live handles: what runs or stands open outside the words of a session, and what an agent loses when it forgets it.

Background shells and their ids, sub-agents, ports that are listened on, files open in an editor, and the todo list with
its states. Each is one line of text and dies with the event that ends it: a kill, an exit, a notice of completion, the
next list, the next look into the editor. Read from calls, results and injected context of the agents known here; words
of the user or of the model start and end nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.facts.fact import FactKind
from holdfast.facts.section import read_section
from holdfast.facts.todo_lists import TodoBoard
from holdfast.transcript.injections import Owner
from holdfast.transcript.speaker import is_made, split_voices
from holdfast.transcript.tools import answers_text_call, list_calls, parse_action, read_arguments
from holdfast.transcript.turn import Role, ToolCall, Turn

SHELL, AGENT, PORT, FILE, TODO = "shell", "agent", "port", "file", "todo list"
LONGEST = 200
"""Characters of a description."""

_ID = r"[`'\"]?(?P<id>[\w-]*\d[\w-]*|[\w-]{4,})"
_STARTS = re.compile(
    r"(?:Command|Process|Task|Shell|Job)\b[^\n]{0,80}?(?:running|started|moved|backgrounded|launched)\b[^\n]{0,60}?"
    rf"\b(?:session[ ]ID|shell[ ]?ID|task[ ]ID|ID|PID)s?[:=]?[ ]*{_ID}"
    rf"|Background PIDs?: {_ID.replace('<id>', '<id2>')}",
    re.IGNORECASE,
)
_JOB = re.compile(r"^\[\d+\][ \t]+(?P<pid>\d{2,9})[ \t]*$", re.MULTILINE)
_ENDS_IN_BACKGROUND = re.compile(r"&[ \t]*(?:$|\n|echo\b|;?[ ]*disown)", re.MULTILINE)
_OVER = re.compile(
    r"Process exited with code|<status>(?:completed|failed|killed|stopped|cancelled|canceled|exited|error)</status>"
    r"|\bstatus\"?[ ]?[:=][ ]?\"?(?:completed|failed|killed|stopped|cancelled|exited)\b"
    r"|\b(?:exited|finished|terminated) with (?:exit )?code\b|\bexit code: -?\d|\"(?:completed|errored|shutdown)\"",
    re.IGNORECASE,
)
_STOPPERS = {
    *("killshell", "killbash", "taskstop", "stopbash", "stopshell", "killprocess", "stopprocess", "killterminal"),
    *(
        "closeagent",
        "stopagent",
        "killagent",
        "stoptask",
        "canceltask",
        "taskcancel",
        "terminateprocess",
        "killcommand",
    ),
}
_ID_KEYS = (
    *("bash_id", "shell_id", "task_id", "session_id", "shellId", "agent_id", "process_id", "pid", "taskId", "target"),
    *("ids", "id", "agentId", "targets", "terminal_id"),
)
_SPAWNS = {"task", "agent", "spawnagent", "launchagent", "subagent", "delegate", "newtask"}
_LAUNCHED = re.compile(
    r"(?:launched|spawned|started|running in (?:the )?background)[\s\S]{0,200}?"
    r"\bagent_?id[\"']?[:= ]+[\"']?(?P<id>[\w./-]+)"
    r"|\"(?:agent_id|agent_path|thread_id)\":[ ]?\"(?P<id2>[\w./-]+)\"",
    re.IGNORECASE,
)
_PORT = re.compile(
    r"(?:\b(?:listen|runn|serv|start|availab|ready|open|bound|up at)\w*|\bLocal:|\bNetwork:|➜)[^\n]{0,80}?"
    r"(?:(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1?\]|\*|https?://[\w.-]+):(?P<a>\d{2,5})\b"
    r"|\bport[ :=]+(?P<b>\d{2,5})\b"
    r"|(?<=\s):(?P<c>\d{2,5})\b)",
    re.IGNORECASE,
)
_PORT_OPTION = re.compile(r"(?:--port[= ]|--listen[= ](?:\S+:)?|\bPORT=|http\.server |\s-p[= ]?)(?P<port>\d{2,5})\b")
_KILLS = re.compile(r"\b(?:kill|taskkill)\b(?P<what>(?:[ ]+(?:-\w+|/\w+|%?\d+))+)")
_KILLS_BY_NAME = re.compile(
    r"\b(?:pkill|killall)\b(?:[ ]+-\w+)*[ ]+[\"']?(?P<name>[^\"'\n;&|]+?)[\"']?[ ]*(?:[;&|\n]|$)"
)
_FREES = re.compile(
    r"\bfuser[ ]+(?:-\w+[ ]+)*(?P<a>\d{2,5})/tcp|\bkill-port[ ]+(?P<b>\d{2,5})"
    r"|lsof[ ][^\n;]*?:(?P<c>\d{2,5})[^\n;]*\bkill\b"
    r"|\bkill\b[^\n;]*?lsof[^\n;]*?:(?P<d>\d{2,5})"
)
_NOTICE = re.compile(
    r"<(?P<tag>task-notification|bash-notification|subagent_notification)>(?P<body>.*?)(?:</(?P=tag)>|\Z)", re.DOTALL
)
_NOTICE_ID = re.compile(r"<(?:task|shell|agent)-id>\s*([\w./-]+)|\"agent_(?:id|path)\":\s?\"([\w./-]+)\"")
_OPEN_FILE = re.compile(
    r"<ide_opened_file>[^<\n]*?opened the file (?P<a>\S+)|<ide_selection>[^<\n]*? from (?P<b>\S+?):?\s"
    r"|^## Active file: (?P<c>\S[^\n]*)|^- [^\n:]{1,120}: (?P<d>\S[^\n]*)|\"path\":\s?\"(?P<e>[^\"\n]{1,300})\"",
    re.MULTILINE,
)
_EDITOR = re.compile(
    r"<ide_opened_file>|<ide_selection>|^# Context from my IDE setup:|^Here is the user's editor context"
    r"|^# (?:VSCode|Visual Studio Code) Open Tabs\n(?P<tabs>(?:[^#<\n][^\n]*\n?)*)",
    re.MULTILINE,
)
_AS_TEXT = re.compile(rf"(?P<what>{SHELL}|{AGENT}|{PORT}|{FILE}|{TODO})(?: (?P<name>[^\n]{{1,300}}?))?: (?P<about>.*)")


@dataclass(frozen=True)
class Handle:
    """Something that runs or stands open."""

    what: str
    name: str
    """Its id: of a shell or a sub-agent as the agent knows it, of a port its number, of a file its path."""
    about: str
    turn: int
    ended: int | None = None
    """The turn with the event that ended it; None while it is live."""
    owner: str = ""
    """Of a port: the shell that listens on it."""

    @property
    def text(self) -> str:
        return f"{self.what} {self.name}: {self.about}" if self.name else f"{self.what}: {self.about}"


def find_handles(turns: Sequence[Turn]) -> tuple[Handle, ...]:
    """Returns every handle of a session in the order in which they began, dead ones too."""
    walk, calls = _Walk(), dict[str, ToolCall]()
    for at, turn in enumerate(turns):
        if turn.role is Role.ASSISTANT:
            for call in list_calls(turn):
                calls[call.id] = call
                walk.read_call(at, call)
        elif turn.role is Role.TOOL or answers_text_call(turn):
            if called := calls.get(turn.call_id):
                walk.read_result(at, called, turn)
        elif turn.role is Role.USER:
            walk.read_user_line(at, turn)
    return tuple(walk.found)


def parse_handle(text: str, turn: int) -> Handle | None:
    """Returns the handle that a line of a facts section names; None if it names none."""
    match = _AS_TEXT.fullmatch(text)
    if match is None:
        return None
    owner = match["about"].rpartition(f"{SHELL} ")[2] if match["what"] == PORT else ""
    return Handle(match["what"], match["name"] or "", match["about"], turn, owner=owner)


class _Walk:
    """The handles so far, while a session is read."""

    def __init__(self) -> None:
        self.found: list[Handle] = []
        self._live: dict[tuple[str, str], int] = {}
        self._todo = TodoBoard()

    def read_call(self, at: int, call: ToolCall) -> None:
        """Reads a call: only a todo list that is written whole holds before its result."""
        if self._todo.read_call(at, call):
            self._show_todo(at)

    def read_result(self, at: int, call: ToolCall, result: Turn) -> None:
        """Reads the result of a call: what it started, and what it ended."""
        arguments, name = read_arguments(call.arguments), re.sub(r"[^a-z]", "", call.name.rpartition("__")[2].lower())
        if self._todo.read_result(at, name, arguments, result):
            self._show_todo(at)
        ids = [*_ids(arguments)]
        if name in _STOPPERS and not result.is_error:
            self._end_ids(ids, at)
        commands = "\n".join(parse_action(call).commands)
        if commands and not result.is_error:
            self._read_kills(commands, at)
        shells = [self._start_shell(at, commands, result.text)] if commands else ids
        for shell in shells:
            if shell and (SHELL, shell) in self._live:
                self._start_ports(at, shell, result.text)
        if ids and _OVER.search(result.text):
            self._end_ids([one for one in ids if len(ids) == 1 or one in result.text], at)
        launched = _LAUNCHED.search(result.text) if name in _SPAWNS and not result.is_error else None
        if launched:
            about = next(
                (str(arguments[key]) for key in ("description", "prompt", "message") if arguments.get(key)), ""
            )
            self._start(Handle(AGENT, launched["id"] or launched["id2"], _one_line(about) or "running", at))

    def read_user_line(self, at: int, turn: Turn) -> None:
        """Reads what a harness or an earlier compaction put into a user's line."""
        for voice in split_voices(turn):
            if is_made(voice) and voice.speaker is Role.TOOL:
                carried = (
                    parse_handle(fact.text, at) for _, fact in read_section(voice.text) if fact.kind is FactKind.HANDLE
                )
                for handle in filter(None, carried):
                    self._carry(handle)
            elif voice.owner is Owner.CONTEXT:
                self._read_context(at, voice.text)

    def _read_context(self, at: int, text: str) -> None:
        for notice in _NOTICE.finditer(text):
            if _OVER.search(notice["body"]):
                self._end_ids([one for pair in _NOTICE_ID.findall(notice["body"]) for one in pair if one], at)
        looks = list(_EDITOR.finditer(text))
        if looks:
            paths = [path for match in _OPEN_FILE.finditer(text) for path in match.groups() if path]
            paths += [line.strip() for look in looks for line in (look["tabs"] or "").split("\n") if line.strip()]
            for what, name in [key for key in self._live if key[0] == FILE and key[1] not in paths]:
                self._end(what, name, at)
            for path in dict.fromkeys(paths):
                self._start(Handle(FILE, path.rstrip(",;"), "open in the editor", at))

    def _start_shell(self, at: int, commands: str, output: str) -> str:
        """Starts the shell that a result names, and returns its id; empty if there is none."""
        started = _STARTS.search(output)
        name = (started["id"] or started["id2"]) if started else ""
        if not name and _ENDS_IN_BACKGROUND.search(commands) and (job := _JOB.search(output)):
            name = job["pid"]
        if not name or (started and _OVER.search(output)):
            return ""
        if self._start(Handle(SHELL, name, _one_line(commands), at)):
            for match in _PORT_OPTION.finditer(commands):
                self._start_port(at, name, match["port"])
        return name

    def _start_ports(self, at: int, shell: str, output: str) -> None:
        for match in _PORT.finditer(output):
            self._start_port(at, shell, next(filter(None, match.groups())))

    def _start_port(self, at: int, shell: str, port: str) -> None:
        self._start(Handle(PORT, port, f"listened on by {SHELL} {shell}", at, owner=shell))

    def _read_kills(self, commands: str, at: int) -> None:
        for match in _KILLS.finditer(commands):
            self._end_ids(re.findall(r"(?<![\w-])\d{2,9}", match["what"]), at)
        for match in _KILLS_BY_NAME.finditer(commands):
            shells = [self.found[n] for (what, _), n in self._live.items() if what == SHELL]
            self._end_ids([one.name for one in shells if match["name"] in one.about], at)
        for match in _FREES.finditer(commands):
            port = next(filter(None, match.groups()))
            number = self._live.get((PORT, port))
            if number is not None:
                self._end_ids([self.found[number].owner], at)
                self._end(PORT, port, at)

    def _show_todo(self, at: int) -> None:
        self._end(TODO, "", at)
        if about := self._todo.render():
            self._start(Handle(TODO, "", about, self._todo.since))

    def _carry(self, handle: Handle) -> None:
        if handle.what == TODO:
            self._end(TODO, "", handle.turn)
            self._todo.carry(handle.turn, handle.about)
        self._start(handle)

    def _start(self, handle: Handle) -> bool:
        """Adds a handle, unless it is live already."""
        key = handle.what, handle.name
        if key in self._live:
            return False
        self._live[key] = len(self.found)
        self.found.append(handle)
        return True

    def _end_ids(self, ids: Sequence[str], at: int) -> None:
        for name in ids:
            self._end(SHELL, name, at)
            self._end(AGENT, name, at)

    def _end(self, what: str, name: str, at: int) -> None:
        number = self._live.pop((what, name), None)
        if number is None:
            return
        self.found[number] = replace(self.found[number], ended=at)
        if what == SHELL:
            for port in [key[1] for key, n in self._live.items() if key[0] == PORT and self.found[n].owner == name]:
                self._end(PORT, port, at)


def _ids(arguments: Mapping[str, object]) -> Iterator[str]:
    for key in _ID_KEYS:
        value = arguments.get(key)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str | int) and not isinstance(one, bool) and str(one):
                yield str(one)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST]
