"""Damages a small session of every format, and checks what is made of it. See benchmarks/README.md.

A damaged file is read, or refused in one line; never anything else. What a lenient reading leaves out is named, and
what was read is written back, with one turn rewritten, as a file that reads as it was read.

    python benchmarks/fuzz_formats.py --count 10000 --seed 1
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.transcript.document import decode
from holdfast.transcript.draft import new_draft
from holdfast.transcript.formats import FORMATS
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Transcript
from holdfast.transcript.write import write

ODD: tuple[Any, ...] = (
    None,
    True,
    7,
    1.5,
    "",
    "x",
    [],
    {},
    [[]],
    [None],
    {"type": 1},
    {"type": "tool_result"},
    -1,
    "u1",
    "c1",
)
_UNWRITTEN = tuple(form.name for form in FORMATS if form.write is None)
PIECES = ('"', "{", "}", "[", "]", ",", ":", "\\", "0", "\n", "\ud800", "é", "\u2028", "null", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "transcript"))
    from agent_samples import SPECSTORY
    from sample_sessions import BY_FORMAT

    told, failures = fuzz({**BY_FORMAT, "specstory": SPECSTORY}, given.count, given.seed)
    print(f"{given.count} damaged files, seed {given.seed}: " + ", ".join(f"{n} {what}" for what, n in told.items()))
    for failure in failures:
        print(failure)
    raise SystemExit(bool(failures))


def fuzz(samples: dict[str, str], count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Returns the outcomes of `count` damaged files, and each file that broke the rules: its format,
    text and reason.
    """
    chance = random.Random(seed)
    told: Counter[str] = Counter()
    failures: list[str] = []
    whole = {name: parse(text) for name, text in samples.items()}
    for _ in range(count):
        name = chance.choice(sorted(samples))
        text = damage(samples[name], chance)
        try:
            told[judge(text, whole[name], chance)] += 1
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}\n{text!r}")
    return told, failures


def damage(text: str, chance: random.Random) -> str:
    """Returns the file with one to three values of its JSON replaced or removed, or with a few characters changed."""
    rows = _decode(text)
    if not rows or chance.random() < 0.3:
        return _scratch(text, chance)
    for _ in range(chance.randint(1, 3)):
        places = [place for row in rows for place in _places(row)]
        if places:
            container, key = chance.choice(places)
            if chance.random() < 0.3:
                del container[key]
            else:
                container[key] = copy.deepcopy(chance.choice(ODD))
    return "\n".join(json.dumps(row) for row in rows)


def _scratch(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(PIECES) + text[at + chance.randint(0, 3) :]
    return text


def _decode(text: str) -> list[Any]:
    document = decode(text)
    return [document.value] if document.value is not None else [entry.value for entry in document.lines]


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def judge(text: str, whole: Transcript, chance: random.Random) -> str:
    """Returns the outcome of one file. Raises what a reader or a writer must not raise, and
    AssertionError on a loss.
    """
    strict, found = _read(text, lenient=False), _read(text, lenient=True)
    if found is None:
        return "refused"
    if strict is not None and strict.turns != found.turns:
        raise AssertionError("read otherwise in lenient mode, though it is sound")
    for lost in _find_unaccounted(text, whole, found):
        raise AssertionError(f"silently lost: {lost!r}")
    if found.format in _UNWRITTEN:
        return "read, not written"
    held = new_draft(found).replace_text(chance.randrange(len(found.turns)), "rewritten", "fuzz")
    back = "\n".join(turn.text for turn in parse(write(text, held, lenient=True)).turns)
    for turn in held.turns:
        if turn.text not in back:
            raise AssertionError(f"lost in writing: {turn.text!r}")
    return "read" if strict is not None else "read leniently"


def _read(text: str, *, lenient: bool) -> Transcript | None:
    try:
        return parse(text, lenient=lenient)
    except HoldfastError as error:
        if "\n" in str(error):
            raise AssertionError(f"an error of several lines: {error}") from error
        return None


def _find_unaccounted(text: str, whole: Transcript, found: Transcript) -> Iterator[str]:
    """Yields texts of the session that still stand in the file, but in no turn, no field beside the turns, and no entry
    that is named as skipped.
    If the marks of another kind of entry were damaged, `meta` counts what was left out.
    """
    read = {turn.text for turn in found.turns}
    kept = json.dumps([[turn.text, dict(turn.extra)] for turn in found.turns] + [repr(found.meta)], ensure_ascii=False)
    document = decode(text, lenient=True)
    skipped = " ".join(found.skipped)
    for turn in whole.turns:
        if len(turn.text) < 4 or turn.text in read or found.meta != whole.meta or found.format != whole.format:
            continue
        shown = json.dumps(turn.text, ensure_ascii=False)
        for entry in document.entries:
            if isinstance(entry.value, dict) and entry.value.get("type") == "event_msg":
                continue  # Codex's copy for the screen
            here = shown in json.dumps(entry.value, ensure_ascii=False)
            if here and shown[1:-1] not in kept and f"{document.unit} {entry.number}:" not in skipped:
                yield turn.text


if __name__ == "__main__":
    main()
