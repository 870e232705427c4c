"""From sessions and thoughts to records: nothing is lost on the way, a run goes on, what fails is tried again."""

import json
import threading

import pytest

from holdfast.engine.chat import ChatAnswer
from holdfast.errors import Failed
from holdfast.mementos.boundaries import CodeScorer, ModelScorer
from holdfast.mementos.clients import ChatPool
from holdfast.mementos.compress import CodeCompressor, ModelCompressor, cut_blocks
from holdfast.mementos.delimiters import Delimiters
from holdfast.mementos.export import export_record
from holdfast.mementos.kv import curve_of_blocks
from holdfast.mementos.pipeline import Pipeline, make_record, read_records, run_pipeline
from holdfast.mementos.segment import Shape
from holdfast.mementos.sentences import split_sentences
from holdfast.mementos.statistics import describe_records
from holdfast.mementos.traces import trace_of_session, trace_of_thought
from holdfast.transcript.cuts import legal_cuts
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

SMALL = Pipeline(shape=Shape(least=20, typical=120))


class Scripted:
    """A chat that answers by a rule, and remembers what it was asked."""

    name, max_input = "scripted", None

    def __init__(self, rule):
        self.rule, self.prompts = rule, []

    def __call__(self, system, prompt, max_tokens, timeout):
        self.prompts.append(prompt)
        return ChatAnswer(self.rule(prompt, len(self.prompts)))


def session(steps=12):
    turns = [Turn(Role.SYSTEM, "You work on a service."), Turn(Role.USER, "Find the port. Never touch deploy.yaml.")]
    for n in range(steps):
        call = ToolCall(f"c{n}", "bash", json.dumps({"command": f"cat src/part_{n}.py"}))
        turns.append(Turn(Role.ASSISTANT, f"Look at part {n}.", calls=(call,)))
        turns.append(Turn(Role.TOOL, f"PORT_{n} = {8000 + n}\n" + "import os\n" * 12, call_id=f"c{n}"))
    return Transcript(tuple(turns))


def quiet(*_):
    return None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The first step is done and it works. Now another goal begins with the second file.", 2),
        ("We know that i.e. Smith et al. wrote it in chapter one of that. Then we go on with it here.", 1),
        (
            "We call it like this:\n```python\nfirst = 1. \n\nSecond = 2.\n```\nThe answer is what we wanted it to be.",
            2,
        ),
        ("From $a. B$ and $$x = 1. Then y = 2$$ we see the claim. Another claim is on the next page.", 2),
        ("The sum is easy to see here:\n= 3 + 4 + 5 and then some more\n= 12 in the end of the line", 1),
        ("Yes.\nNo.\nAll right.\n", 1),
    ],
)
def test_sentences_keep_code_maths_and_derivations_whole(text, count):
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert len(sentences) == count


def test_blocks_of_a_session_end_at_legal_cuts_and_its_text_is_all_there():
    transcript = session()
    trace = trace_of_session(transcript, "s")
    record = make_record(trace, SMALL)
    ends = {trace.first + sum(map(len, trace.turns[: last + 1])) for _, last in record.blocks}
    assert ends <= set(legal_cuts(transcript))
    assert len(record.blocks) > 1
    assert record.think_prefix + "".join(record.block_texts()) + record.think_suffix == trace.prefix + "".join(
        trace.units
    )


@pytest.mark.parametrize("compressor", [CodeCompressor(), ModelCompressor(Scripted(lambda p, n: "- PORT_3 = 8003"))])
def test_every_live_fact_stands_in_the_memento_or_is_listed(compressor):
    trace = trace_of_session(session(), "s")
    record = make_record(trace, Pipeline(shape=SMALL.shape, compressor=compressor))
    for block, memento, made in zip(
        cut_blocks(trace, record.blocks), record.block_summaries, record.refinement_metadata, strict=True
    ):
        assert block.facts
        listed = {(fact.kind, fact.text) for fact in made.lost_facts}
        assert all(fact.text in memento or (fact.kind.value, fact.text) in listed for fact in block.facts)
        assert made.live_facts == len(block.facts)


def test_what_the_judge_refuses_goes_back_with_its_faults():
    good = json.dumps({"formulas": 3, "values": 2, "methods": 2, "validation": 1, "correctness": 1, "result_first": 0})
    bad = json.dumps({"formulas": 3, "values": 2, "methods": 2, "invented": True, "feedback": "say the port"})
    writer, judge = Scripted(lambda p, n: f"memento {n}"), Scripted(lambda p, n: good if n == 2 else bad)
    block = cut_blocks(trace_of_session(session(), "s"), [(0, 11)])[0]
    memento, made = ModelCompressor(writer, judge).write(block)
    assert [one.score for one in made.iterations] == [5.0, 9.0]
    assert memento == "memento 2"
    assert "say the port" in writer.prompts[1]
    assert "PORT_0" in writer.prompts[1]


def test_windows_overlap_and_an_answer_that_is_no_list_is_asked_for_again():
    def rule(prompt, n):
        count = int(prompt.rsplit("There are ", 1)[1].split()[0])
        return "no idea" if n == 1 else f"Here: {json.dumps([2] * count)}"

    chat = Scripted(rule)
    trace = trace_of_session(session(30), "s")
    assert ModelScorer(chat, windows=(8, 5)).score(trace) == [2.0] * 29
    with pytest.raises(Failed, match="no window"):
        ModelScorer(Scripted(lambda p, n: "?")).score(trace)


def test_a_run_goes_on_and_tries_again_what_failed(tmp_path):
    output = tmp_path / "out.jsonl"
    traces = [trace_of_session(session(steps), f"s{steps}") for steps in (4, 6, 8)]
    down = Pipeline(
        shape=SMALL.shape, compressor=ModelCompressor(Scripted(lambda p, n: "" if "part_5" in p else "- x"))
    )
    first = run_pipeline(traces, output, down, quiet, quiet)
    assert (first.written, sorted(first.failed)) == (1, ["s6", "s8"])
    up = Pipeline(shape=SMALL.shape, compressor=ModelCompressor(Scripted(lambda p, n: "- x")))
    second = run_pipeline(traces, output, up, quiet, quiet)
    assert (second.written, second.before, second.failed) == (2, 1, {})
    with output.open("a") as file:
        file.write('{"task_id": "torn')
    assert [row.task_id for row in read_records(output, quiet)] == ["s4", "s6", "s8"]


def test_too_many_failures_in_a_row_stop_the_run(tmp_path):
    traces = [trace_of_session(session(3), f"s{n}") for n in range(9)]
    broken = Pipeline(compressor=ModelCompressor(Scripted(lambda p, n: "")), failures=4)
    told = []
    with pytest.raises(Failed, match="4 traces failed in a row"):
        run_pipeline(traces, tmp_path / "out.jsonl", broken, quiet, told.append)
    assert len(told) == 4


def test_workers_share_endpoints_within_their_bounds(tmp_path):
    at_once, most, lock = [0, 0], [0, 0], threading.Lock()
    meet = threading.Barrier(2)

    def endpoint(n):
        def rule(prompt, _):
            with lock:
                at_once[n] += 1
                most[n] = max(most[n], at_once[n])
            meet.wait(5)  # both endpoints are asked at one time, or this breaks
            with lock:
                at_once[n] -= 1
            return "- x"

        return Scripted(rule)

    pool = ChatPool([endpoint(0), endpoint(1)], at_once=1)
    how = Pipeline(shape=Shape(least=10_000, typical=10_000), compressor=ModelCompressor(pool, rounds=1), workers=4)
    traces = [trace_of_session(session(3), f"s{n}") for n in range(6)]
    assert run_pipeline(traces, tmp_path / "out.jsonl", how, quiet, quiet).written == 6
    assert most == [1, 1]


def test_export_quotes_delimiters_that_are_words_of_the_text():
    marks = Delimiters()
    thought = (
        f"<think>First we read {marks.block_end} in the file. {'Then we go on with more words. ' * 3}</think>It is 4."
    )
    sample = export_record(make_record(trace_of_thought(thought, "t"), SMALL))
    assert sample.completion.startswith("<think><|block_start|>First")
    assert sample.completion.endswith("<|summary_end|></think>It is 4.")
    counts = {text: sample.completion.count(text) for text in marks.texts}
    assert len(set(counts.values())) == 1


def test_statistics_add_up():
    records = [make_record(trace_of_session(session(steps), f"s{steps}"), SMALL) for steps in (6, 12)]
    told = describe_records(records)
    blocks = [one for record in records for one in record.refinement_metadata]
    assert (told.traces, told.blocks) == (2, len(blocks))
    assert told.lost_facts == sum(len(one.lost_facts) for one in blocks)
    assert told.score is None
    assert 0 < told.peak < 1
    assert 0 < told.area < 1


def test_blocks_that_go_at_their_mementos_end_are_a_sawtooth():
    curve = curve_of_blocks([(100, 20), (50, 10)])
    assert curve.points == ((0, 0), (120, 120), (120, 20), (180, 80), (180, 30))
    assert (curve.peak, curve.area) == (120, 120 * 120 / 2 + 60 * (20 + 80) / 2)


def test_scores_say_where_the_user_speaks_and_not_where_a_sentence_leads_on():
    scorer = CodeScorer()
    transcript = session(4)
    asked = Transcript(
        (*transcript.turns, Turn(Role.USER, "Now write the report, please."), Turn(Role.ASSISTANT, "Yes."))
    )
    scores = scorer.score(trace_of_session(asked, "s"))
    assert max(scores) == scores[3]
    thought = trace_of_thought("We set the value of it like this here:\n\nThe value is seven and no more.\n\n", "t")
    assert all(score == 0 for score in scorer.score(thought))
