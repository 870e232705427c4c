"""A session of thirty halls and their crates, and questions about it."""

from holdfast.eval.probes import Probe
from holdfast.transcript.turn import Role, Transcript, Turn


def probe(answer="10.0.0.9", evidence="db-7 10.0.0.9", **changes):
    fields = {
        "transcript": "s.json",
        "id": answer,
        "category": "recall",
        "question": "Which address?",
        "answer": answer,
        "accept": [answer],
        "distractor": "127.0.0.1",
        "evidence": evidence,
    }
    return Probe(**(fields | changes))


def long_session():
    """Thirty exchanges, each with a number of its own."""
    turns = [Turn(Role.SYSTEM, "You count."), Turn(Role.USER, "Count the crates in every hall.")]
    for n in range(30):
        turns += [
            Turn(Role.ASSISTANT, f"Looking into hall {n}."),
            Turn(Role.USER, f"hall {n} holds {1000 + 7 * n} crates"),
        ]
    return Transcript((*turns, Turn(Role.ASSISTANT, "All counted.")))


def crates(n):
    return probe(str(1000 + 7 * n), f"hall {n} holds {1000 + 7 * n} crates", id=f"p{n}")
