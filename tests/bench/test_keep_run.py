"""The runner of `bench/keep` on a tiny model: rows, resuming, sizes of contexts, scores."""

import pytest

from holdfast.bench.keep.conditions import read_condition
from holdfast.bench.keep.plot import draw_pass_rates
from holdfast.bench.keep.rows import KeepRow
from holdfast.bench.keep.run import KeepRun, measure
from holdfast.bench.keep.score import score, score_groups
from holdfast.errors import BadInput, BadOption
from holdfast.storage.json_lines import read_lines

CONDITIONS = ("none", "latent:truncate@8", "latent:truncate@8+pin", "text:tiered+gate@4", "mementos:ledger@8")


@pytest.fixture(scope="module")
def rows(tmp_path_factory, engine):
    out = tmp_path_factory.mktemp("keep") / "rows.jsonl"
    told = []
    assert measure(KeepRun(2048, 1, conditions=CONDITIONS, sandbox="none"), engine, out, note=told.append) == 6
    return out, told


@pytest.fixture(scope="module")
def engine(tiny):
    return tiny("llama").engine


def test_a_run_goes_on_where_it_stopped(rows, engine):
    out, _ = rows
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]) + b'{"cut')
    assert measure(KeepRun(2048, 1, conditions=CONDITIONS, sandbox="none"), engine, out, note=lambda words: None) == 4
    found = read_lines(out, KeepRow, print)
    assert [row.condition for row in found] == ["full", *CONDITIONS]
    assert len({row.key for row in found}) == len(found)
    assert measure(KeepRun(2048, 1, conditions=CONDITIONS, sandbox="none"), engine, out) == 0


def test_contexts_have_the_size_that_their_condition_says(rows):
    found = {row.condition: row for row in read_lines(rows[0], KeepRow, print)}
    full = found["full"]
    assert full.tokens == full.tokens_full
    assert full.bytes == full.bytes_full
    assert found["none"].tokens < full.tokens / 8
    assert found["latent:truncate@8"].tokens < full.tokens / 6
    assert found["latent:truncate@8"].tokens < found["latent:truncate@8+pin"].tokens < full.tokens
    assert found["text:tiered+gate@4"].tokens < full.tokens / 2
    assert found["none"].tokens < found["mementos:ledger@8"].tokens < full.tokens / 2


@pytest.mark.parametrize(
    "name",
    [
        "informed",
        "nothing@8",
        "informed@0",
        "text:informed@8",
        "text:truncate@x",
        "informed@8+gate",
        "mementos",
        "mementos@1",
        "mementos:nobody@8",
        "mementos@8+gate",
        "text:tiered@8+pin",
    ],
)
def test_a_condition_that_is_none_is_refused(name):
    with pytest.raises(BadOption):
        read_condition(name)


def make_row(item: str, condition: str, kept: int) -> KeepRow:
    facts = {str(at): at < kept for at in range(4)}
    return KeepRow(
        version="0", created="", model="m", model_digest="d", tokenizer_digest="t", item=item, item_digest="i", seed=0,
        size=4096, family="signature", place="user", depth=0.1, condition=condition, kind="full", ratio=1,
        tokens_full=100, tokens=100, bytes_full=800, bytes=100, seconds_prefill=1, seconds_context=2, seconds_answer=1,
        text="", facts=facts, passed=kept == 4,
    )  # fmt: skip


def test_scores_are_paired_by_item():
    kept = {"full": (4, 4, 4, 2), "informed@8": (4, 3, 4, 2)}
    rows = [make_row(str(at), name, k) for name, ks in kept.items() for at, k in enumerate(ks)]
    full, other = score(rows)
    assert (full.n, full.passed.value, full.facts.value, full.passed_against) == (4, 0.75, 3.5 / 4, None)
    assert other.passed_against is not None
    assert other.facts_against is not None
    assert (other.passed_against.value, other.facts_against.value, other.byte_ratio) == (-0.25, -1 / 16, 8)
    low, high = other.passed_against.ci
    assert low is not None
    assert high is not None
    assert low <= -0.25 <= high
    assert list(score_groups(rows, by="family")) == ["signature"]


def test_scores_name_what_is_missing():
    with pytest.raises(BadInput, match="'none' was not measured"):
        score([make_row("a", "full", 4)], "none")
    with pytest.raises(BadInput, match="bench keep"):
        score_groups([])
    with pytest.raises(BadOption, match="family, place"):
        score_groups([make_row("a", "full", 4)], by="colour")


def test_rows_of_several_models_and_sizes_are_one_report_and_one_plot(rows, tmp_path):
    found = read_lines(rows[0], KeepRow, print)
    others = [row.model_copy(update={"model": "other", "size": 8192}) for row in found]
    scores = score([*found, *others])
    assert len(scores) == 2 * len(found)
    drawn = draw_pass_rates(scores)
    assert drawn.png.startswith(b"\x89PNG")
    assert "8,192 tokens" in drawn.svg
    assert "mementos:ledger" in drawn.svg
