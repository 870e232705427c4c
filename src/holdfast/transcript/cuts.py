"""Legal cuts of a session, and its legality: one function per invariant.

A cut i splits the turns into turns[:i] and turns[i:]. An assistant turn's reasoning stays with its calls without a
function for it: they are one Turn. A tool turn without a call_id is what the harness said unasked; it answers nothing,
so it may stand anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from holdfast.errors import BadTranscript
from holdfast.transcript.turn import Role, Transcript, Turn


def legal_cuts(transcript: Transcript) -> tuple[int, ...]:
    """Returns every index at which the session may be cut, 0 and the end included."""
    legal = set(range(len(transcript.turns) + 1))
    for invariant in INVARIANTS:
        legal &= invariant(transcript.turns)
    return tuple(sorted(legal))


def exchanges(transcript: Transcript) -> tuple[tuple[int, int], ...]:
    """Returns the smallest units that may be compacted or dropped, as [start, stop).

    Each is a user turn, or an assistant turn with its results; the first may be the system turns at the head. Together
    they cover the session.
    """
    return tuple(pairwise(legal_cuts(transcript)))


def calls_stay_with_results(turns: Sequence[Turn]) -> set[int]:
    """Allows no cut between a result and its call."""
    callers = find_callers(turns)
    return _all_but(turns, [(callers[at], at) for at in callers])


def results_of_one_turn_stay_together(turns: Sequence[Turn]) -> set[int]:
    """Allows no cut between the results of one assistant turn."""
    first_last: dict[int, tuple[int, int]] = {}
    for at, caller in find_callers(turns).items():
        first_last[caller] = (first_last.get(caller, (at, at))[0], at)
    return _all_but(turns, list(first_last.values()))


def head_stays_whole(turns: Sequence[Turn]) -> set[int]:
    """Allows no cut between the system turns at the head."""
    head = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    return _all_but(turns, [(0, head - 1)])


INVARIANTS: tuple[Callable[[Sequence[Turn]], set[int]], ...] = (
    calls_stay_with_results,
    results_of_one_turn_stay_together,
    head_stays_whole,
)


def check_legal(turns: Sequence[Turn]) -> None:
    """Raises BadTranscript if a result has no call, or a call no result. The last assistant turn may have calls without
    results: the agent stopped there.
    """
    for at, reason in find_orphans(turns):
        raise BadTranscript(f"turn {at + 1} {reason}; read the file with --lenient to drop it")


def find_orphans(turns: Sequence[Turn]) -> tuple[tuple[int, str], ...]:
    """Returns every result without a call, then every call without a result, each as the index of its turn and the
    reason.
    """
    return (*_orphan_results(turns), *_orphan_calls(turns))


def without_orphans(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[tuple[int, str], ...]]:
    """Returns the turns without orphaned results and calls, and for each one dropped its `source` and the reason."""
    dropped = tuple((turns[at].source, reason) for at, reason in sorted(find_orphans(turns)))
    return tuple(turn for _, turn in drop_orphans(turns)), dropped


def drop_orphans(turns: Sequence[Turn]) -> tuple[tuple[int, Turn], ...]:
    """Returns the turns that are left without orphans, each with its index: results without a call go, and calls
    without a result.
    """
    results, calls = dict(_orphan_results(turns)), dict(_orphan_calls(turns))
    unanswered = _open_calls(turns)
    return tuple(
        (at, replace(turn, calls=tuple(call for call in turn.calls if call.id not in unanswered[at])))
        if at in calls
        else (at, turn)
        for at, turn in enumerate(turns)
        if at not in results
    )


def find_callers(turns: Sequence[Turn]) -> dict[int, int]:
    """Maps the index of each result to that of the assistant turn that it answers: the latest with that call id,
    because some servers count their ids from zero in every message.
    """
    latest: dict[str, int] = {}
    callers: dict[int, int] = {}
    for at, turn in enumerate(turns):
        latest.update({call.id: at for call in turn.calls})
        if turn.role is Role.TOOL and turn.call_id in latest:
            callers[at] = latest[turn.call_id]
    return callers


def _all_but(turns: Sequence[Turn], spans: Sequence[tuple[int, int]]) -> set[int]:
    """Returns every cut but those that separate the first turn of a span from its last."""
    return set(range(len(turns) + 1)).difference(*(range(first + 1, last + 1) for first, last in spans))


def _orphan_results(turns: Sequence[Turn]) -> list[tuple[int, str]]:
    callers = find_callers(turns)
    found: list[tuple[int, str]] = []
    open_: Counter[tuple[int, str]] = Counter((at, call.id) for at, t in enumerate(turns) for call in t.calls)
    for at, turn in enumerate(turns):
        if turn.role is not Role.TOOL or not turn.call_id:
            continue
        key = (callers.get(at, -1), turn.call_id)
        if at not in callers:
            found.append((at, f"answers the call {turn.call_id[:60]!r}, which no turn before it makes"))
        elif open_[key]:
            open_[key] -= 1
        else:
            found.append((at, f"answers the call {turn.call_id[:60]!r} a second time"))
    return found


def _orphan_calls(turns: Sequence[Turn]) -> list[tuple[int, str]]:
    last = max((at for at, turn in enumerate(turns) if turn.role is not Role.TOOL), default=-1)
    return [
        (at, f"makes the call {sorted(ids)[0][:60]!r}, which no turn after it answers")
        for at, ids in _open_calls(turns).items()
        if ids and at != last
    ]


def _open_calls(turns: Sequence[Turn]) -> dict[int, set[str]]:
    """Returns for each turn the ids of its calls without an answer."""
    answered: dict[int, set[str]] = {}
    for at, caller in find_callers(turns).items():
        answered.setdefault(caller, set()).add(turns[at].call_id)
    return {at: {call.id for call in turn.calls} - answered.get(at, set()) for at, turn in enumerate(turns)}
