"""A Claude Code hook: before a compaction it saves a compacted copy that forgets nothing, after it tells the agent what
the agent's own summary lost.

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
        elif event["hook_event_name"] == "SessionStart" and event.get("source") == "compact":
            tell(session, copy)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, subprocess.SubprocessError) as error:
        print(f"holdfast hook: {type(error).__name__}: {error}", file=sys.stderr)


def save(session: Path, copy: Path) -> None:
    """Saves a compacted copy of the session as it is now, with the log that restores every raw turn."""
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    holdfast("compact", str(session), "--lenient", "--text", "tiered", "--ratio", RATIO, "-o", str(copy))


def tell(session: Path, copy: Path) -> None:
    """Prints the losses of the newest compaction as context for the agent."""
    found = json.loads(holdfast("doctor", str(session), "--json"))
    if not found["compactions"]:
        return
    text = describe_losses(found["compactions"][-1], copy)
    if text:
        output = {"hookEventName": "SessionStart", "additionalContext": text}
        print(json.dumps({"hookSpecificOutput": output}))


def describe_losses(compaction: dict[str, Any], copy: Path) -> str:
    """Returns the losses and inventions of a compaction as text; empty if there are none."""
    rules = [fact for fact in compaction["lost"] if fact["kind"] in RULES]
    rest = [fact for fact in compaction["lost"] if fact["kind"] not in RULES]
    lines = []
    if rules:
        lines += ["The summary left out these words of the user; they still hold:", *(f"- {f['text']}" for f in rules)]
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
