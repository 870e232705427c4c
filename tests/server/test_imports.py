"""What is taken in is as strict as what is written; and what cannot be shown can still be dropped."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import BadContext
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Turn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
fuzz = import_module("fuzz_imports")

Change = Callable[[list[dict[str, Any]]], Any]


def changed(change: Change, seal: bool = False) -> bytes:
    """An export whose events were changed by who knows the format; without a seal, as version 0.4 wrote it."""
    with zipfile.ZipFile(io.BytesIO(fuzz.export_session())) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    events = json.loads(parts.pop("events.json"))
    sealed = parts.pop("events.sha256")
    written = change(events) or json.dumps(events)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("events.json", written)
        if seal:
            file.writestr("events.sha256", sealed)
        for name, data in parts.items():
            file.writestr(name, data)
    return out.getvalue()


def kind(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(event for event in events if event["kind"] == name)


def swap(events: list[dict[str, Any]], a: int, b: int) -> None:
    events[a], events[b] = events[b], events[a]


def with_text(old: str, new: str) -> Change:
    def change(events: list[dict[str, Any]]) -> str:
        text = json.dumps(events)
        assert old in text
        return text.replace(old, new, 1)

    return change


REFUSED: dict[str, Change] = {
    "a time that is the text nan": lambda events: events[-1].update(at="nan"),
    "a time that is NaN": with_text('"at": ', '"at": NaN, "x": '),
    "a time without end": with_text('"at": ', '"at": 1e999, "x": '),
    "a time before all times": lambda events: events[-1].update(at=-1.0),
    "no time": lambda events: events[1].pop("at") and None,
    "a size that is no number": lambda events: kind(events, "compacted")["told"].update(slots="many"),
    "a size that is not finite": with_text('"slots": ', '"slots": Infinity, "x": '),
    "a size below nothing": lambda events: kind(events, "turns")["told"].update(tokens=-1),
    "a time to the first token that is a text": lambda events: kind(events, "turns")["told"].update(first="soon"),
    "a fact without a turn": lambda events: kind(events, "compacted")["told"].update(gate={"lost": [{"kind": "port"}]}),
    "a field that there is not": lambda events: events[1].update(x=1),
    "a field twice": with_text('"kind": "turns"', '"kind": "turns", "kind": "turns"'),
    "a kind that there is not": lambda events: events[-1].update(kind="forgotten"),
    "a role that there is not": lambda events: kind(events, "turns")["turns"][0].update(role="root"),
    "a text that is none": lambda events: kind(events, "turns")["turns"][0].update(text=["x"]),
    "a block of a turn before": lambda events: (
        events[-1].update(kind="turns") or kind(events, "turns")["blocks"].reverse()
    ),
    "events in another order": lambda events: swap(events, 1, 3),
    "two openings": lambda events: events.insert(1, dict(events[0])),
    "turns twice": lambda events: events.insert(2, dict(kind(events, "turns"))),
    "a compaction twice": lambda events: events.insert(3, dict(kind(events, "compacted"))),
    "a compaction left out": lambda events: events.remove(kind(events, "compacted")),
    "an undo too many": lambda events: events.append({**kind(events, "undone"), "checkpoints": 9}),
    "a rewind to a turn that never was": lambda events: events.append({"kind": "rewound", "turns": 999, "at": 1.0}),
    "a pin on a turn that never was": lambda events: events.append(
        {"kind": "pinned", "turn": 999, "pinned": True, "at": 1.0}
    ),
    "no events": lambda events: events.clear(),
    "events that are none": lambda _: "[1, 2]",
    "an object in place of events": lambda _: '{"kind": "opened"}',
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_an_event_that_no_session_writes_is_refused_and_leaves_nothing(change: Change) -> None:
    host = fuzz.open_host()
    with pytest.raises(BadContext):
        host.take(changed(change), "k")
    assert (host.sessions("k"), host.registry.store.logs()) == ([], [])


def test_an_export_without_a_seal_is_taken_as_before() -> None:
    host = fuzz.open_host()
    assert host.take(changed(lambda _: None), "k")["turns"] == host.take(fuzz.export_session(), "k")["turns"]


def test_one_changed_word_breaks_the_seal() -> None:
    change = with_text("Now the next file", "Now the last file")
    assert fuzz.open_host().take(changed(change), "k")
    with pytest.raises(BadContext, match="were changed"):
        fuzz.open_host().take(changed(change, seal=True), "k")


@pytest.mark.parametrize("name", ["objects/x", "../../etc/passwd", "readme"])
def test_a_file_beside_what_an_export_writes_is_refused(name: str) -> None:
    out = io.BytesIO(fuzz.export_session())
    with zipfile.ZipFile(out, "a") as file:
        file.writestr(name, b"x")
    with pytest.raises(BadContext, match="no export writes"):
        fuzz.open_host().take(out.getvalue(), "k")


def test_events_that_stand_twice_in_a_file_are_refused() -> None:
    out = io.BytesIO(fuzz.export_session())
    with zipfile.ZipFile(out, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("events.json", file.read("events.json"))
    with pytest.raises(BadContext, match="no export writes"):
        fuzz.open_host().take(out.getvalue(), "k")


def test_mutated_imports_are_refused_or_work() -> None:
    """A few hundred of those of `benchmarks/fuzz_imports.py`."""
    outcome = fuzz.run(300, seed=1)
    assert outcome.wrong == []
    assert outcome.tried.total() == 300
    assert 0 < outcome.taken.total() < 100


# what got into a store all the same


def spoil(store: Store, name: str, **fields: Any) -> None:
    events = store.events(name)
    store.append(name, len(events), {"kind": "pinned", "turn": 0, "pinned": True, "at": 1.0, **fields})


@pytest.mark.parametrize("fields", [{"at": "nan"}, {"at": "inf"}, {"at": "yesterday"}, {"kind": 7}, {"kind": "?"}])
def test_a_session_that_cannot_be_read_is_listed_and_dropped_and_hides_no_other(tmp_path: Path, fields: Any) -> None:
    store = Store(tmp_path)
    host = fuzz.SessionHost(fuzz.build_pair("llama").engine, fuzz.PLAN, store, fuzz.POLICY)
    bad, _ = fuzz.answer(host, (Turn(Role.USER, "This one breaks."),))
    good, _ = fuzz.answer(host, (Turn(Role.USER, "That one stays."),))
    host.close()
    spoil(store, bad, **fields)
    host = fuzz.SessionHost(fuzz.build_pair("llama").engine, fuzz.PLAN, Store(tmp_path), fuzz.POLICY)
    rows = {row["id"]: row for row in host.sessions("k")}
    json.dumps(list(rows.values()), allow_nan=False)
    assert set(rows) == {bad, good}
    assert rows[good]["title"] == "That one stays."
    assert host.sessions("other") == []
    host.drop(bad, "k")
    assert [row["id"] for row in host.sessions("k")] == [good]
    assert store.logs() == [good]
