"""RULER's tasks: each fits its size, holds its answers, and is the same for the same seed; its rows are resumable."""

import json
import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from conftest import build_pair, byte_tokenizer
from holdfast.errors import BadInput, BadOption

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "kvpress"))
    ruler, recipe = import_module("ruler"), import_module("run_ruler")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A text of invented words, and twelve paragraphs with a question each."""
    folder = tmp_path_factory.mktemp("ruler")
    parts = ["ba", "ce", "di", "fo", "gu", "ha", "ki", "lo", "mu", "ne", "po", "ra"]
    words = [a + b + c for a in parts for b in parts for c in parts] + [a + b + "st" for a in parts for b in parts]
    words += [f"{a}{b}{c}n" for a in parts for b in parts for c in parts]
    lines = [f"The {words[n % len(words)]} of {words[7 * n % len(words)]} is old." for n in range(2 * len(words))]
    (folder / "text.txt").write_text(" ".join(lines))
    paragraphs = [
        {
            "context": f"Hall {n} holds {1000 + n} crates.",
            "qas": [{"question": f"How many in hall {n}?", "answers": [{"text": str(1000 + n)}]}],
        }
        for n in range(12)
    ]
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder


@pytest.fixture(scope="module")
def sources(files):
    return ruler.read_sources(files / "text.txt", files / "squad.json")


@pytest.mark.parametrize("task", ruler.TASKS)
def test_a_sample_fills_its_size_holds_its_answers_and_is_the_same_again(sources, task):
    size = 1600
    sample = ruler.make_sample(task, "0", sources, size, lambda text: len(text) // 4)
    assert sample == ruler.make_sample(task, "0", sources, size, lambda text: len(text) // 4)
    assert sample != ruler.make_sample(task, "1", sources, size, lambda text: len(text) // 4)
    assert len(sample.context) // 4 <= size
    assert all(answer in sample.context for answer in sample.answers)
    assert not any(answer in sample.question + sample.opening for answer in sample.answers)
    assert sample.score(" and ".join(sample.answers).upper()) == 1.0
    assert sample.score("nothing of it") == 0.0
    if task != "qa_1":  # whose paragraphs are few here
        assert len(sample.context) // 4 > 0.7 * size


def test_some_of_several_answers_count_their_share_and_one_of_several_forms_all():
    several = ruler.Sample("", "", "", ("11", "22", "33", "44"))
    assert several.score("11 and 33") == 0.5
    assert ruler.Sample("", "", "", ("forty", "40"), any_of=True).score("it was 40") == 1.0


def test_the_frequent_words_are_the_most_frequent_and_every_hop_names_the_one_before(sources):
    coded = ruler.make_sample("fwe", "3", sources, 1500, lambda text: len(text) // 4)
    counts = Counter(re.findall(r"\b[a-z]{6}\b", coded.context.splitlines()[1]))
    assert [word for word, _ in counts.most_common(3)] == list(coded.answers)
    chain = ruler.make_sample("vt", "3", sources, 900, lambda text: len(text) // 4)
    assigned = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)", chain.context)
    assert [name for name, _ in assigned] == list(chain.answers)
    assert [value for _, value in assigned][1:] == [name for name, _ in assigned][:-1]


def test_sources_that_are_too_short_or_something_else_are_refused(files, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    for text, squad in ((tmp_path / "short.txt", files / "squad.json"), (files / "text.txt", files / "text.txt")):
        with pytest.raises(BadInput, match=r"RULER|too short"):
            ruler.read_sources(text, squad)


def test_needles_alone_are_refused():
    with pytest.raises(BadOption, match="needles alone"):
        recipe._check_tasks(["niah_single_1", "niah_multikey_1"])


def test_every_method_answers_and_the_table_shows_each_kind_beside_the_others(sources, tmp_path):
    engine = build_pair("llama").engine
    plans, out, rows = [("full", 1.0), ("none", None), ("kvzip", 4.0)], tmp_path / "rows.jsonl", []
    for task in ("niah_single_1", "vt"):
        rows += recipe._measure(engine, sources, (task, 0, 320), plans, rows, out)
    assert {(r.task, r.method) for r in rows} == {(t, m) for t in ("niah_single_1", "vt") for m, _ in plans}
    assert recipe._measure(engine, sources, ("vt", 0, 320), plans, rows, out) == []
    assert recipe._read_rows(out, engine, 320) == rows
    with pytest.raises(BadOption, match="another --out"):
        recipe._read_rows(out, engine, 640)
    head, *lines = recipe.table(rows)
    assert "needles" in head
    assert "tracing" in head
    assert len(lines) == len(plans) + 1


def test_the_context_is_compacted_and_the_template_and_the_question_are_not(sources):
    tokenizer = byte_tokenizer()
    sample = ruler.make_sample("vt", "0", sources, 320, lambda text: len(text) // 2)
    prompt = recipe.make_prompt(sample, tokenizer)
    kept, compacted = prompt.window.parts
    assert [kept.compact, compacted.compact] == [False, True]
    assert tokenizer.decode(compacted.blocks[0].ids) == sample.context
    assert tokenizer.decode(prompt.question).endswith(f"<|im_start|>assistant\n{sample.opening}")
