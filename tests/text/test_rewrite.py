from holdfast.text.rewrite import TextPlan, rewrite
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.read import read

EXAMPLE = "examples/taskdeck/session.json"


def test_truncating_keeps_the_task_and_the_newest_and_is_legal():
    session = read(EXAMPLE)
    made = rewrite(session, TextPlan("truncate", ratio=4))
    assert made.tokens <= made.budget
    assert made.draft.turns[-1] == session.turns[-1]
    check_legal(made.draft.turns)


def test_a_session_that_fits_is_returned_as_it_is():
    session = read(EXAMPLE)
    assert rewrite(session, TextPlan("truncate", ratio=1)).draft.turns == session.turns
