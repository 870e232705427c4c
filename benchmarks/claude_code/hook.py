"""A Claude Code hook: before a compaction it saves a compacted copy that forgets nothing, after it tells the agent what
the agent's own summary lost.

The summary is known once the compaction is over (PostCompact), and no context can be given there: what it lost waits
for the user's next words or the next result of a tool, whichever comes first.

Reads the event's JSON on stdin. Never stops the agent: what fails is one line on stderr, and the exit code is 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RATIO = os.environ.get("HOLDFAST_RATIO", "4")
FOLDER = Path(os.environ.get("HOLDFAST_DIR", "~/.claude/holdfast")).expanduser()
TELLING = ("UserPromptSubmit", "PostToolUse")
RULES = ("prohibition", "instruction")
MOST = 40  # facts told that are no rules of the user
SECONDS = 50


def main() -> None:
    try:
        event = json.load(sys.stdin)
        session = Path(event["transcript_path"]).expanduser()
        copy = FOLDER / session.name
        if event["hook_event_name"] == "PreCompact":
            save(session, copy)
        elif event["hook_event_name"] == "PostCompact":
            examine(session, copy, event["compact_summary"])
        elif event["hook_event_name"] in TELLING and "agent_id" not in event:  # a sub-agent did not compact
            tell(event["hook_event_name"], copy)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, subprocess.SubprocessError) as error:
        print(f"holdfast hook: {type(error).__name__}: {error}", file=sys.stderr)


def save(session: Path, copy: Path) -> None:
    """Saves a compacted copy of the session as it is now, with the log that restores every raw turn."""
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    holdfast("compact", str(session), "--lenient", "--text", "tiered", "--ratio", RATIO, "-o", str(copy))


def examine(session: Path, copy: Path, summary: str) -> None:
    """Keeps what the summary lost of the session, which still ends before the compaction, until it can be told."""
    words = copy.with_suffix(".summary.txt")
    write_private(words, summary)
    found = json.loads(holdfast("doctor", str(session), "--summary", str(words), "--json"))
    if text := describe_losses(found["compactions"][-1], copy):
        write_private(waiting_path(copy), text)


def waiting_path(copy: Path) -> Path:
    """Returns the place of what is still to be told."""
    return copy.with_suffix(".lost")


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(text)


def tell(event: str, copy: Path) -> None:
    """Prints what the newest compaction lost as context for the agent, once."""
    path = waiting_path(copy)
    if path.exists():
        output = {"hookEventName": event, "additionalContext": path.read_text()}
        path.unlink()
        print(json.dumps({"hookSpecificOutput": output}))


def describe_losses(compaction: dict[str, Any], copy: Path) -> str:
    """Returns the losses and inventions of a compaction as text; empty if there are none."""
    rules = [fact for fact in compaction["lost"] if fact["kind"] in RULES]
    handles = [fact for fact in compaction["lost"] if fact["kind"] == "handle"]
    rest = [fact for fact in compaction["lost"] if fact["kind"] not in (*RULES, "handle")]
    lines = []
    if rules:
        lines += ["The summary left out these words of the user; they still hold:", *(f"- {f['text']}" for f in rules)]
    if handles:
        lines += ["These still run or stand open, and the summary does not name them:"]
        lines += [f"- {fact['text']} (turn {fact['turn']})" for fact in handles]
    if compaction["invented"]:
        lines += ["These sentences of the summary are borne out by nothing that was said or run; do not rely on them:"]
        lines += [f"- {struck['sentence']} ({struck['reason']})" for struck in compaction["invented"]]
    if rest:
        lines += ["Facts that stood in the session and are not in the summary:"]
        lines += [f"- {fact['kind']} {fact['text']} (turn {fact['turn']})" for fact in rest[:MOST]]
    if lines and copy.is_file():
        lines.append(f"`holdfast expand {copy} TURN` prints a turn from before the compaction in full.")
    return "\n".join(lines)


def holdfast(*arguments: str) -> str:
    """Runs one command of the holdfast that is installed beside this Python and returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
