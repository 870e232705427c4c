"""Any sequence of compacting, going on, undoing, expanding and being killed: nothing is ever lost."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from file_log.chat_files import exchange, grow, load, opening, save, user
from holdfast.errors import BadInput
from holdfast.storage.files import Disk
from holdfast.text.file_log import compact_file, expand_file, log_path, read_lineage, read_log, undo_file
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.read import read


class Killed(BaseException):
    """Nothing catches it."""


class Killing(Disk):
    """A disk that kills whoever takes one step too many."""

    def __init__(self, steps):
        self.left, self.done = steps, False

    def _step(self):
        self.left -= 1
        if self.left < 0:
            raise Killed

    def create(self, *args):
        self._step()
        return super().create(*args)

    def write(self, *args):
        self._step()
        super().write(*args)

    def sync(self, *args):
        self._step()
        super().sync(*args)

    def swap(self, *args):
        self._step()
        super().swap(*args)
        self.done = True

    def move(self, *args):
        self._step()
        super().move(*args)
        self.done = True


class Sessions(RuleBasedStateMachine):
    suffix = ".jsonl"

    @initialize(steps=st.integers(0, 4))
    def begin(self, steps):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / f"session{self.suffix}"
        self.count = 0
        messages = opening()
        for _ in range(steps):
            messages += self.exchange()
        save(self.path, messages)
        self.messages = messages

    def exchange(self):
        self.count += 1
        # Some results are the same, so that turns cannot be told apart by what they say.
        return exchange(self.count, "ok" if self.count % 3 == 0 else f"result {self.count} " + "word " * 40)

    @rule(calls=st.integers(1, 3), say=st.booleans())
    def go_on(self, calls, say):
        new = [message for _ in range(calls) for message in self.exchange()]
        new += [user("go on")] * say
        grow(self.path, new)
        self.messages += new

    @rule(
        method=st.sampled_from(["truncate", "test_mask", "test_fold"]),
        ratio=st.sampled_from([1.2, 2, 5]),
        keep=st.integers(0, 3),
        gate=st.booleans(),
    )
    def compact(self, method, ratio, keep, gate):
        compact_file(self.path, TextPlan(method, ratio=ratio, keep_recent=keep, gate=gate))

    @rule()
    def undo(self):
        if read_lineage(self.path).steps:
            undo_file(self.path)
        else:
            with pytest.raises(BadInput, match="nothing to undo"):
                undo_file(self.path)

    @rule(data=st.data())
    def expand(self, data):
        expand_file(self.path, data.draw(st.integers(1, len(self.messages))))

    @rule(steps=st.integers(0, 12), undo=st.booleans())
    def die(self, steps, undo):
        """The process is killed at any step; what it wrote into the file by then is there at once, or not at all."""
        before = self.path.read_bytes()
        disk = Killing(steps)
        with suppress(Killed, BadInput):
            if undo:
                undo_file(self.path, disk=disk)
            else:
                compact_file(self.path, TextPlan("test_mask", ratio=5, keep_recent=0), disk=disk)
        assert disk.done or self.path.read_bytes() == before

    @rule(cut=st.integers(1, 200))
    def tear(self, cut):
        """The machine stops while an event is being written, before the file is touched."""
        before = self.path.read_bytes()
        log = log_path(self.path)
        compact_file(self.path, TextPlan("test_mask", ratio=5, keep_recent=0))
        if self.path.read_bytes() != before:
            written = log.read_bytes()
            log.write_bytes(written[: -min(cut, len(written.splitlines(keepends=True)[-1]))])
            self.path.write_bytes(before)

    @invariant()
    def every_raw_turn_is_there(self):
        past = read_lineage(self.path)
        assert [turn.text for turn in past.raw] == [message["content"] for message in self.messages]
        held = {at for origin in past.now.origins for at in origin.turns}
        assert held <= set(range(len(self.messages)))

    @invariant()
    def the_session_is_legal(self):
        read(self.path)

    def teardown(self):
        if not hasattr(self, "path"):
            return
        for _ in read_log(self.path):
            if not read_lineage(self.path).steps:
                break
            undo_file(self.path)
        assert load(self.path) == self.messages
        if self.suffix == ".jsonl":
            assert self.path.read_text() == "".join(json.dumps(message) + "\n" for message in self.messages)
        assert [event.number for event in read_log(self.path)] == list(range(1, len(read_log(self.path)) + 1))
        self.folder.cleanup()


class Documents(Sessions):
    suffix = ".json"


FEW = settings(stateful_step_count=12)


@pytest.mark.parametrize("machine", [Sessions, Documents])
def test_whatever_happens_nothing_is_lost(machine):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=FEW)
