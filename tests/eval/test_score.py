from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from holdfast.errors import BadInput
from holdfast.eval.report import table
from holdfast.eval.rows import Row, read_rows
from holdfast.eval.score import join, score, scores_by_transcript
from holdfast.storage.json_lines import append_line

KEYS = {
    *("method", "ratio", "n", "n_windows", "retained", "retained_ci", "forced_choice", "forced_choice_ci"),
    *(
        "margin",
        "margin_ci",
        "keyword",
        "keyword_ci",
        "kl",
        "kl_ci",
        "top1",
        "top1_ci",
        "next_action",
        "next_action_ci",
        "n_next",
    ),
    *("keyword_kept", "keyword_kept_ci", "n_answerable", "later_action", "later_action_ci", "n_later"),
    *(f"{side}_{kind}{ci}" for side in ("action", "later") for kind in ("tool", "exact", "f1") for ci in ("", "_ci")),
    *("tokens_span", "slots", "bytes_full", "bytes", "bytes_span_full", "bytes_span", "bytes_stored", "bytes_base"),
    *("seconds_prefill", "seconds_compact", "seconds_measure", "by_category", "note"),
}


def make_row(method: str, ratio: float | None, share: float, **changed: Any) -> Row:
    """A row whose method keeps `share` of the 8 nats that the context supplies to the answer."""
    known: dict[str, Any] = {
        **{"version": "0.1.0", "created": "2026-01-02T03:04:05+00:00", "config": {"window": 1200}},
        **{"model": "tiny", "model_digest": "sha256:aa", "tokenizer_digest": "sha256:bb", "seed": 0},
        **{"transcript": "a.jsonl", "window": "w1", "probe": "p1", "category": "recall"},
        **{
            "method": method,
            "ratio": ratio,
            "tokens_full": 100,
            "tokens_span": 80,
            "slots": 80 / (ratio or 8),
        },
        **{"bytes_full": 1000, "bytes": 300, "bytes_span_full": 800, "bytes_span": 100},
        **{"seconds_prefill": 2.0, "seconds_compact": 0.5, "text": "yes", "keyword": share > 0.4},
        **{"answer_logprob": -10 + 8 * share, "answer_tokens": 2},
        **{"distractor_logprob": -9.0, "distractor_tokens": 3},
        **{"kl": 2 * (1 - share), "top1": share, "next_action_logprob": -60 + 40 * share},
        **{"next_action_tool": share > 0.2, "next_action_exact": share > 0.5, "next_action_f1": share},
        **{"later_action_logprob": -30 + 20 * share, "later_action_tokens": 8, "later_action_tool": share > 0.2},
        **{"later_action_exact": share > 0.5, "later_action_f1": share},
    }
    return Row(**(known | {"next_action_tokens": 12} | changed))


def make_rows(share: float = 0.5, **changed: Any) -> list[Row]:
    settings = (("full", 1.0, 1.0), ("none", None, 0.0), ("half", 8.0, share))
    return [make_row(method, ratio, kept, **changed) for method, ratio, kept in settings]


def test_a_method_that_keeps_half_scores_half_between_its_exact_baselines():
    full, none, half = score(make_rows())
    assert (full.method, full.retained, full.kl, full.top1, full.next_action) == ("full", 1.0, 0.0, 1.0, 1.0)
    assert (none.method, none.ratio, none.retained, none.forced_choice) == ("none", None, 0.0, 0.0)
    assert (half.method, half.ratio, half.n) == ("half", 8.0, 1)
    assert half.retained == pytest.approx(0.5)
    assert half.next_action == pytest.approx(0.5)
    assert half.margin == pytest.approx(2.0)  # 4 of 8 nats over 2 tokens
    assert half.forced_choice == half.keyword == 1.0


def test_the_json_has_exactly_these_keys_and_never_nan():
    for found in score(make_rows(kl=None, top1=None, next_action_logprob=None)):
        plain = found.model_dump(mode="json")
        assert set(plain) == KEYS
        json.dumps(plain, allow_nan=False)
        assert plain["retained_ci"] == [None, None]  # one window has no interval


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(shares: list[float], random: Any):
    rows = [row for i, share in enumerate(shares) for row in make_rows(share, probe=f"p{i}", window=f"w{i}")]
    expected = score(rows)
    assert expected[2].retained == pytest.approx(sum(shares) / len(shares), abs=1e-9)
    low, high = expected[2].retained_ci
    assert low is not None
    assert high is not None
    assert low <= high
    random.shuffle(rows)
    assert score(rows) == expected


def test_probes_that_share_a_window_count_its_next_action_and_bytes_once():
    rows = [
        *(row for i in range(3) for row in make_rows(1.0, probe=f"p{i}", window="w1")),
        *make_rows(0.0, probe="p9", window="w2", bytes=700),
    ]
    half = score(rows)[2]
    assert (half.n, half.n_windows, half.n_next) == (4, 2, 2)
    assert half.retained == pytest.approx(0.75)
    assert half.next_action == pytest.approx(0.5)
    assert half.kl == pytest.approx(1.0)
    assert half.bytes == 500


def test_a_window_without_next_turns_is_left_out_of_their_means():
    absent = {"kl": None, "top1": None, "next_action_logprob": None, "next_action_tokens": None}
    half = score([*make_rows(0.5), *make_rows(0.0, window="w2", probe="p2", **absent)])[2]
    assert (half.n_next, half.n_windows) == (1, 2)
    assert half.next_action == pytest.approx(0.5)
    assert half.kl == pytest.approx(1.0)


INTERVALS = [name for name in KEYS if name.endswith("_ci")]


def test_probes_of_one_window_have_no_interval_however_many():
    half = score([row for i in range(15) for row in make_rows(i / 15, probe=f"p{i}")])[2]
    assert (half.n, half.n_windows) == (15, 1)
    assert {getattr(half, name) for name in INTERVALS} == {(None, None)}
    assert half.by_category["recall"].retained_ci == (None, None)


def test_more_probes_of_the_same_fate_in_a_window_narrow_no_interval():
    def measured(probes: int) -> dict[str, Any]:
        places = [(w, i) for w in range(6) for i in range(probes)]
        rows = [row for w, i in places for row in make_rows(w / 8, probe=f"p{w}.{i}", window=f"w{w}")]
        half = score(rows)[2]
        return {name: pytest.approx(getattr(half, name)) for name in INTERVALS}

    once = measured(1)
    assert once == {name: bounds.expected for name, bounds in measured(10).items()}
    assert all(low < high for low, high in (bounds.expected for bounds in once.values()))


def test_every_share_lies_in_its_interval():
    rows = [row for i in range(12) for row in make_rows(i / 12, probe=f"p{i}", window=f"w{i // 2}")]
    for found in score(rows):
        for name in INTERVALS:
            low, high = getattr(found, name)
            assert low <= getattr(found, name.removesuffix("_ci")) <= high
        part = found.by_category["recall"]
        assert part.retained_ci[0] <= part.retained <= part.retained_ci[1]


def test_a_probe_in_two_windows_is_refused_by_name():
    with pytest.raises(
        BadInput, match=r"probe p1 of a\.jsonl .* \(w1, w2\) .* measure each sample into a file of its own"
    ):
        score([*make_rows(), *make_rows(window="w2")])


def test_two_transcripts_may_have_a_probe_of_one_name():
    assert score([*make_rows(), *make_rows(transcript="b.jsonl", window="w2")])[2].n == 2


def test_a_method_that_was_not_measured_on_every_probe_says_so():
    rows = [row for i in range(15) for row in make_rows(probe=f"p{i}")]
    full, none, half = score(rows[:-1])
    assert (full.note, none.note) == ("", "")
    assert half.note == "measured on 14 of 15 probes"


def test_a_note_says_which_number_it_explains():
    rows = [row.model_copy(update={"next_action_logprob": -60.0}) for row in make_rows()]
    assert score(rows)[2].note.startswith("next action: the full context supplies no information")
    rows = [row.model_copy(update={"answer_logprob": -9.0}) for row in rows]
    retained, action = score(rows)[2].note.split("; ")
    assert retained.startswith("retained: the full")
    assert action.startswith("next action: the full")


def test_categories_carry_their_own_n():
    half = score([*make_rows(0.25), *make_rows(0.75, probe="p2", category="decision")])[2]
    assert {name: (part.retained, part.n) for name, part in half.by_category.items()} == {
        "decision": (pytest.approx(0.75), 1),
        "recall": (pytest.approx(0.25), 1),
    }


def test_a_context_that_supplies_nothing_scores_null_with_a_reason():
    rows = [make_row("full", 1.0, 0.0), make_row("none", None, 0.0), make_row("half", 2.0, 0.0)]
    assert [found.retained for found in score(rows)] == [None, None, None]
    assert "supplies no information" in score(rows)[2].note


def test_scores_stand_in_a_fixed_order():
    rows = [*make_rows(), *(make_row(name, r, 0.5) for name in ("b", "a") for r in (16.0, 2.0))]
    assert [(s.method, s.ratio) for s in score(rows)] == [
        *(("full", 1.0), ("none", None), ("a", 2.0), ("a", 16.0), ("b", 2.0), ("b", 16.0), ("half", 8.0))
    ]


def test_of_two_rows_with_one_key_the_last_counts():
    rows = [*make_rows(0.1), make_row("half", 8.0, 0.9)]
    assert score(rows)[2].retained == pytest.approx(0.9)
    assert len(join(rows)) == 3


@pytest.mark.parametrize("missing", ["full", "none"])
def test_a_missing_baseline_is_named_with_what_to_run(missing: str):
    with pytest.raises(BadInput, match=rf"probe p1 .* no `{missing}` row .* --latent {missing}"):
        score([row for row in make_rows() if row.method != missing])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_digest": "sha256:cc", "model": "other"}, ["other", "tiny"]),
        ({"config": {"window": 4096}}, ["1200", "4096"]),
    ],
)
def test_mixed_models_or_windows_are_refused_by_name(changed: dict[str, Any], named: list[str]):
    with pytest.raises(BadInput) as error:
        score([*make_rows(), *make_rows(probe="p2", **changed)])
    assert all(name in str(error.value) for name in named)


def test_no_rows_are_refused():
    with pytest.raises(BadInput, match="eval run"):
        score([])


def test_each_transcript_scores_on_its_own():
    parts = scores_by_transcript([*make_rows(0.2), *make_rows(0.8, transcript="b.jsonl")])
    assert {name: part[2].retained for name, part in parts.items()} == {
        "a.jsonl": pytest.approx(0.2),
        "b.jsonl": pytest.approx(0.8),
    }


@pytest.mark.parametrize(("method", "ratio"), [("kvzip", 0.0), ("kvzip", None), ("full", 2.0), ("none", 1.0)])
def test_a_ratio_that_does_not_fit_its_method_is_refused(method: str, ratio: float | None):
    with pytest.raises(ValueError, match="ratio"):
        make_row(method, ratio, 0.5, slots=1)


def test_rows_come_back_as_they_were_written_with_unknown_fields(tmp_path: Path):
    rows = make_rows(note_of_a_later_version="kept", text="naïve \u2028 \x00")
    for row in rows:
        append_line(tmp_path / "rows.jsonl", row)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert read_rows(tmp_path / "rows.jsonl")[0].model_extra == {"note_of_a_later_version": "kept"}


@given(cut=st.integers(1, 600))
def test_a_run_cut_anywhere_in_its_last_row_is_read_and_resumed(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    first, second, third = make_rows(text="ünïcödé " * 10)
    append_line(path, first)
    append_line(path, second)
    path.write_bytes(path.read_bytes()[:-cut])
    told: list[str] = []
    survivors = read_rows(path, warn=told.append)
    # losing the line end alone loses nothing
    assert survivors == ([first, second] if cut == 1 else [first])
    assert len(told) == (cut > 1)
    append_line(path, third)
    assert read_rows(path) == [*survivors, third]


def test_an_incomplete_last_line_warns_by_default(tmp_path: Path):
    append_line(tmp_path / "r", make_rows()[0])
    with (tmp_path / "r").open("a") as file:
        file.write('{"version": "0.')
    with pytest.warns(UserWarning, match=":2: the last line is incomplete"):
        assert len(read_rows(tmp_path / "r")) == 1


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"kl": NaN}', "\xff"])
def test_a_malformed_line_is_reported_with_its_number(tmp_path: Path, line: str):
    path = tmp_path / "rows.jsonl"
    append_line(path, make_rows()[0])
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n" + path.read_bytes())
    with pytest.raises(BadInput, match=r"rows\.jsonl:2: expected one JSON object a line"):
        read_rows(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_says_what_to_run(tmp_path: Path, content: str):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(BadInput, match="holdfast eval run"):
        read_rows(tmp_path / "rows.jsonl")


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")


@pytest.mark.parametrize("width", [100, 140])
def test_the_terminal_table_shows_method_n_and_interval(width: int):
    rows = [row for i in range(3) for row in make_rows(i / 4, probe=f"p{i}", window=f"w{i}")]
    rows += [make_row("[red]:a=1,b=long,c=longer,d=longest", 2.0, 0.5, probe="p0", window="w0")]
    shown = printed(rows, width)
    assert "25.0  [0.0, 50.0]" in shown
    assert "[red]:" in shown
    assert "interval over windows" in shown


def test_the_terminal_table_says_what_was_not_measured_everywhere():
    rows = [*make_rows(), *make_rows(probe="p2")[:2], make_row("[/x]:bug:\x1b[2J", 4.0, 0.5)]
    shown = " ".join(printed(rows, 140).split()).replace("\N{MULTIPLICATION SIGN}", "x")
    assert "[/x]:bug:\N{REPLACEMENT CHARACTER}[2J 4x, half 8x: measured on 1 of 2 probes" in shown
    assert "\x1b" not in shown
    assert "measured on" not in printed(make_rows(), 140)


def printed(rows: list[Row], width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table(score(rows)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
