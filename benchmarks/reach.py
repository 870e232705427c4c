"""Reach of what was said: the share of probes and of facts that an agent's memory tools give in one call and in two.

    python benchmarks/reach.py DATA... [--facts N] [--meaning] [--misses] [--json]

DATA is a folder with `transcripts/` and `probes.jsonl`. The client is deterministic and knows no answer. It asks
`history_search` once, and once more with `skip`, which gives the next places; an answer has at most 300 tokens. What
six such calls give says how deep the rest lies.

- A probe is asked in the words of its question. It is reached if an accepted keyword stands in an answer.
- A fact of the ledger is asked by the words of its name, which are no words of the fact itself: those of the line that
  it stands in and of the call that printed it. A path or an address adds the words of its last part, a sentence or a
  command (quoted, error, command, rule) the first half of its plain words. It is reached if it stands in an answer word
  for word. A fact without any word around it counts as missed.

`read` is another second call: `history_read` of 300 tokens around the best place.
"""

from __future__ import annotations

import argparse
import bisect
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from holdfast.facts.fact import Fact, FactKind
from holdfast.facts.occurrences import find_occurrences, occurs_in
from holdfast.facts.session_facts import collect_facts
from holdfast.recall.index import Index
from holdfast.recall.pages import Page, make_pages
from holdfast.recall.read import read_turns
from holdfast.recall.search import ROOM, SearchAnswer, search
from holdfast.recall.words import search_words
from holdfast.transcript.read import read
from holdfast.transcript.token_estimate import estimate_tokens

WORD = re.compile(r"[^\W\d_]{2,}")
SENTENCES = (FactKind.QUOTED, FactKind.ERROR, FactKind.COMMAND, FactKind.INSTRUCTION, FactKind.PROHIBITION)
NAMES = (FactKind.PATH, FactKind.URL)
BEFORE = 6  # lines before the best place at which `read` begins
Holds = Callable[[str], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--facts", type=int, default=0, help="of each session, at random; 0 asks for all")
    parser.add_argument("--meaning", action="store_true", help="with the sentence model (extra `retrieve`)")
    parser.add_argument("--misses", action="store_true", help="print what was not reached")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = measure(options)
    print(json.dumps({name: dict(count) for name, count in counts.items()}) if options.json else table(counts))


def measure(options: argparse.Namespace) -> dict[str, Counter[str]]:
    """Returns counts by what was asked for: all probes, all facts, and facts by kind."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    meaning = None
    if options.meaning:
        from holdfast.recall.meaning import Meaning

        meaning = Meaning()
    for path, probes in list_sessions(options.data):
        began = time.perf_counter()
        turns = read(path, lenient=True)
        pages = make_pages(turns.turns)
        index = Index(pages, meaning=meaning)
        for probe in probes:
            reached = ask(index, probe["question"], keywords([probe["answer"], *probe["accept"]]))
            add(counts["probes"], reached)
            if options.misses and not reached["two"]:
                print(path.name, probe["id"], probe["question"], "->", probe["answer"])
        facts = collect_facts(turns).facts
        chosen = random.Random(0).sample(facts, min(options.facts, len(facts))) if options.facts else facts
        for fact in chosen:
            query = name_of(pages, fact)
            reached = ask(index, query, lambda text, fact=fact: occurs_in(fact.text, fact.kind, text))  # type: ignore[misc]
            add(counts["facts"], reached)
            add(counts[f"  {fact.kind.value}"], reached)
            if options.misses and not reached["two"]:
                print(path.name, fact.kind.value, repr(fact.text), "<-", query)
        print(f"{path.name}: {len(chosen)} facts, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return counts


def list_sessions(folders: Sequence[Path]) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yields each session with its probes."""
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "probes.jsonl").read_text("utf-8").splitlines()]
        for path in sorted((folder / "transcripts").iterdir()):
            yield path, [row for row in rows if row["transcript"] == path.name]


def ask(index: Index, query: str, holds: Holds) -> dict[str, bool]:
    """Returns which calls give what is looked for."""
    first = search(index, query) if query else None
    if first is None or not first.places:
        return dict.fromkeys(("one", "two", "six", "read", "any"), False)
    second, *others = ask_on(index, query, len(first.places), 5)
    place = first.places[0]
    around = read_turns(index.pages, f"{place.page + 1}:{max(1, place.first + 1 - BEFORE)}", ROOM)
    for text in (first.text, second.text, around):
        assert estimate_tokens(text) <= ROOM, "an answer has at most 300 tokens"
    one, two, near = holds(first.text), holds(second.text), holds(around)
    six = one or two or any(holds(other.text) for other in others)
    return {"one": one, "two": one or two, "six": six, "read": one or near, "any": one or two or near}


def ask_on(index: Index, query: str, skip: int, calls: int) -> Iterator[SearchAnswer]:
    """Yields the answers of further calls, each behind what the ones before showed."""
    for _ in range(calls):
        answer = search(index, query, skip=skip)
        skip += len(answer.places)
        yield answer


def keywords(accepted: Sequence[str]) -> Holds:
    """Returns whether a text holds one of the keywords; a number only as a whole number."""
    patterns = [
        re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w|\.\d)" if word.isdecimal() else re.escape(word), re.IGNORECASE)
        for word in accepted
    ]
    return lambda text: any(pattern.search(text) for pattern in patterns)


def name_of(pages: Sequence[Page], fact: Fact) -> str:
    """Returns the words of a fact's name, of the place that the ledger cites; empty if there are none."""
    page = pages[fact.citation.turn]
    found = find_occurrences(fact.text, fact.kind, page.text)
    if not found:
        return ""
    first, last = (bisect.bisect_right(page.ends, at) for at in (found[0], found[0] + len(fact.text) - 1))
    own, words = set(search_words(fact.text)), list[str]()
    if fact.kind in SENTENCES:
        plain = WORD.findall(fact.text)
        words, own = plain[: (len(plain) + 1) // 2], set()
    elif fact.kind in NAMES:
        words = WORD.findall(re.sub(r"\.\w{1,5}$", "", fact.text.rstrip("/").rpartition("/")[2]))
        own -= set(search_words(" ".join(words)))

    def around(text: str) -> list[str]:
        return [word for word in WORD.findall(text.replace(fact.text, " ")) if not own & set(search_words(word))]

    words += around(page.slice(first, last))[:10]
    if len(set(words)) < 3:  # an item of a list: the lines beside it are what it is known by
        words += around(page.slice(max(0, first - 1), min(page.lines - 1, last + 1)))
    named = [*dict.fromkeys(words)][:12]
    return " ".join(dict.fromkeys([*named, *around(page.about)[:8]]))


def add(count: Counter[str], reached: dict[str, bool]) -> None:
    count["n"] += 1
    count.update({name: int(value) for name, value in reached.items()})


def table(counts: dict[str, Counter[str]]) -> str:
    """Returns a line for each group: percent reached in one call, in two and six, and by reading around the best."""
    lines = [f"{'':12} {'n':>6} {'one call':>9} {'two calls':>9} {'six calls':>9} {'or read':>9} {'any of 3':>9}"]
    for name, count in counts.items():
        shares = (f"{100 * count[key] / count['n']:8.1f}%" for key in ("one", "two", "six", "read", "any"))
        lines.append(f"{name:12} {count['n']:6} {' '.join(shares)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
