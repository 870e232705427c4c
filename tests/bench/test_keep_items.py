"""Items of `bench/keep`: the same seed gives the same item, no two are alike, and only what was read passes."""

import pytest

from holdfast.agent.sandbox import open_sandbox
from holdfast.agent.sandbox.none import NoSandbox
from holdfast.bench.keep.families import FAMILIES
from holdfast.bench.keep.item import SIZES, make_item
from holdfast.bench.keep.judge import judge
from holdfast.bench.keep.run import digest
from holdfast.errors import BadOption, Failed
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.turn import Role

SEEDS = range(len(FAMILIES))


def block(item, text):
    return f"```{item.assignment.language}\n{text}\n```"


def test_a_seed_names_one_item_and_no_two_are_alike():
    made = [digest(make_item(seed, 2048)) for seed in range(20)]
    assert made == [digest(make_item(seed, 2048)) for seed in range(20)]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_answer_keeps_every_fact_and_goes_on_from_the_opening(seed):
    item = make_item(seed, 2048)
    found = judge(item.assignment, block(item, item.assignment.solution), NoSandbox())
    assert found.complete, found
    assert set(found.facts) == set(item.assignment.facts)
    assert item.assignment.solution.count(item.assignment.opening.splitlines()[-1]) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_the_answer_of_another_item_of_the_family_fails(seed):
    item, other = make_item(seed, 2048), make_item(seed + len(FAMILIES), 2048)
    assert item.assignment.family == other.assignment.family
    assert not judge(item.assignment, block(item, other.assignment.solution), NoSandbox()).complete


@pytest.mark.parametrize("seed", SEEDS)
def test_the_task_holds_no_fact_and_the_agreement_stands_early(seed):
    item = make_item(seed, 4096)
    turns = item.transcript.turns
    check_legal(turns)
    assert turns[-1].role is Role.USER
    secrets = [rule for rule in item.assignment.rules if any(c.isdigit() or c == "_" for c in rule)]
    assert secrets
    assert not any(rule in turns[-1].text for rule in item.assignment.rules)
    spoken = [at for at, turn in enumerate(turns) if item.assignment.rules[0] in turn.text]
    assert len(spoken) == 1
    assert item.depth < 0.5


@pytest.mark.parametrize("tokens", sorted(SIZES.values()))
def test_a_session_has_the_size_that_was_asked_for(tokens):
    from holdfast.transcript.draft import new_draft
    from holdfast.transcript.token_estimate import estimate_tokens

    size = new_draft(make_item(3, tokens).transcript).size(estimate_tokens)
    assert 0.75 * tokens < size < 1.1 * tokens


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "```python\nwhile True: pass\n```",
        "```python\nimport os; os._exit(0)\n```",
        '```python\nprint(\'{"facts": {"name": true}}\')\n```',
        "```python\ndef f(:\n```",
    ],
)
def test_code_that_hangs_dies_or_lies_keeps_no_fact(answer):
    item = make_item(2, 2048)
    found = judge(item.assignment, answer, NoSandbox())
    assert not any(found.facts.values())
    assert found.error


def test_what_the_model_writes_reaches_no_file_of_the_user(tmp_path):
    try:
        sandbox = open_sandbox()
    except Failed as error:
        pytest.skip(str(error))
    made = (make_item(seed, 2048) for seed in SEEDS)
    item, kept = next(item for item in made if item.assignment.family == "signature"), tmp_path / "kept"
    kept.write_text("ours")
    harm = f"open({str(kept)!r}, 'w').close()\n{item.assignment.solution}"
    assert judge(item.assignment, block(item, item.assignment.solution), sandbox).complete
    assert not judge(item.assignment, block(item, harm), sandbox).complete
    assert kept.read_text() == "ours"
    assert not judge(item.assignment, block(item, harm), NoSandbox()).error
    assert not kept.read_text()  # the sandbox held it back, and nothing else


def test_too_small_a_session_is_refused():
    with pytest.raises(BadOption, match="2048"):
        make_item(0, 100)
