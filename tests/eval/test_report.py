from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from rich.console import Console

from holdfast.errors import BadInput
from holdfast.eval.report import answers_table, survival_table, table, write_report
from holdfast.eval.report.page import text
from holdfast.eval.report.summary import headline
from holdfast.eval.rows import Row
from holdfast.eval.score import score
from holdfast.storage.json_lines import append_line

HOSTILE = """<script>alert("1")</script><img src='https://e.example' onerror=x>$facts & \u202egnp \x00 ]]>"""
PLOTS = ("quality", "bytes", "seconds", "categories", "fidelity")


def make_row(method: str, ratio: float | None, share: float, **changed: Any) -> Row:
    known: dict[str, Any] = {
        **{"version": "0.1.0", "commit": "abc", "created": "2026-01-02T03:04:05+00:00"},
        **{"config": {"window": 1200, "dtype": "float32", "device": "cpu", "threads": 2}, "model": "tiny"},
        **{"model_digest": "sha256:aabbcc", "tokenizer_digest": "sha256:bb", "seed": 0},
        **{"transcript": "a.jsonl", "window": "w1", "probe": "p1", "category": "recall"},
        **{"question": "Which port?", "answer": "8080", "distractor": "3000"},
        **{
            "method": method,
            "ratio": ratio,
            "tokens_full": 100,
            "tokens_span": 80,
            "slots": 80 / (ratio or 8),
        },
        **{"bytes_full": 1000, "bytes": 300, "bytes_span_full": 800, "bytes_span": 100},
        **{"seconds_prefill": 2.0, "seconds_compact": 0.5, "text": "It is 8080.", "keyword": share > 0.4},
        **{"answer_logprob": -10 + 8 * share, "answer_tokens": 2},
        **{"distractor_logprob": -9.0, "distractor_tokens": 3},
        **{"kl": 2 * (1 - share), "top1": share, "next_action_logprob": -60 + 40 * share},
    }
    return Row(**(known | {"next_action_tokens": 12} | changed))


def make_rows(probes: int = 4, methods: tuple[str, ...] = ("kvzip", "truncate"), **changed: Any) -> list[Row]:
    rows = []
    for i in range(probes):
        place = {
            "probe": f"p{i}",
            "window": f"w{i // 2}",
            "category": ("recall", "decision")[i % 2],
        } | changed
        rows += [make_row("full", 1.0, 1.0, **place), make_row("none", None, 0.0, **place)]
        rows += [make_row(m, r, 0.9 if m == "kvzip" else 0.9 / r, **place) for m in methods for r in (4.0, 8.0)]
    return rows


class Tags(HTMLParser):
    """Every tag and attribute that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("table", "section", "svg", "dl", "figure", "details", "bdi"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("report")
    for row in make_rows():
        append_line(folder / "rows.jsonl", row)
    return write_report(folder / "rows.jsonl", folder / "out" / "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    strings = dict.fromkeys(("question", "answer", "distractor", "text", "transcript", "model", "category"), HOSTILE)
    rows = make_rows(2, methods=("kvzip", f"x:{HOSTILE}"), prohibitions_lost=[HOSTILE], **strings)
    return write_report(rows, tmp_path_factory.mktemp("hostile") / "r.html")[0].read_text()


def test_one_page_and_its_plots_are_written(written: list[Path]):
    page, *pngs = written
    assert page.name == "report.html"
    assert [png.name for png in pngs] == [f"report-{name}.png" for name in PLOTS]
    assert all(png.parent == page.parent and png.read_bytes().startswith(b"\x89PNG") for png in pngs)
    assert page.read_text().count("<svg") == len(PLOTS)


def test_the_page_says_what_was_run_and_what_came_out(written: list[Path]):
    page = written[0].read_text()
    for shown in (
        "tiny (aabbcc)",
        "float32",
        "1200 tokens",
        "2026-01-02",
        "a.jsonl",
        "0.1.0 abc",
        "Which port?",
        "kvzip keeps 90 % [90, 90] of the answer information; truncate keeps 11 %",
    ):
        assert shown in page
    assert "<h1>At 8\N{MULTIPLICATION SIGN}, kvzip" in page
    assert "(n = 4 probes in 2 windows)" in page
    assert 'title="+7.20 of +8.00 nats. Greedy answer: It is 8080."' in page


def test_a_lost_prohibition_is_said_in_red_once_for_each_context(tmp_path: Path, written: list[Path]):
    assert '<div class="alarm">' not in written[0].read_text()
    rows = [
        row.model_copy(update={"prohibitions_lost": ["Never push to main."] if row.ratio == 8 else []})
        for row in make_rows(methods=("kvzip+gate",))
    ]
    (alarm,) = re.findall('<div class="alarm">.*?</div>', write_report(rows, tmp_path / "r.html")[0].read_text())
    assert re.findall("<li>(.*?)</li>", alarm) == [
        "kvzip+gate 8\N{MULTIPLICATION SIGN}, <bdi>a.jsonl</bdi>: <code>Never push to main.</code>"
    ]


def test_the_page_loads_nothing(written: list[Path], hostile: str):
    for page in (written[0].read_text(), hostile):
        for tag, attributes in Tags(page).tags:
            assert tag not in ("script", "link", "iframe", "object", "embed", "base", "img")
            assert all(not name.startswith("on") for name in attributes)
            for name in ("src", "href", "srcset", "action"):
                assert (attributes.get(name) or "#").startswith("#")
        assert not re.search(r"url\((?!#)|@import", page)
    assert "http" not in written[0].read_text().replace("http-equiv", "")


def test_a_hostile_session_is_shown_as_text(hostile: str):
    assert "<script" not in hostile
    assert "<img" not in hostile
    assert text(HOSTILE) in hostile
    assert "$facts" in hostile
    assert not re.search("[\x00\u202a-\u202e]", hostile)
    assert Tags(hostile).open == []


def test_what_was_named_inside_a_plot_is_escaped_too(hostile: str):
    drawn = "".join(re.findall(r"<svg.*?</svg>", hostile, flags=re.DOTALL))
    assert "&lt;script&gt;" in drawn
    assert "<script" not in drawn


def test_the_same_rows_give_the_same_bytes_whatever_the_users_style(tmp_path: Path):
    rows = make_rows(2, methods=("kvzip",))
    first = [path.read_bytes() for path in write_report(rows, tmp_path / "a" / "r.html")]
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        second = [path.read_bytes() for path in write_report(rows, tmp_path / "b" / "r.html")]
    assert first == second


def test_pngs_go_where_they_are_asked_to_go(tmp_path: Path):
    written = write_report(make_rows(2, methods=("kvzip",)), tmp_path / "r.html", png_dir=tmp_path / "img")
    assert {path.parent.name for path in written[1:]} == {"img"}


def test_without_next_turns_there_is_no_plot_of_them(tmp_path: Path):
    absent = {"kl": None, "top1": None, "next_action_logprob": None, "next_action_tokens": None}
    written = write_report(make_rows(1, methods=("kvzip",), **absent), tmp_path / "r.html")
    assert [path.name for path in written[1:]] == [f"r-{name}.png" for name in PLOTS[:-1]]


def test_a_file_of_baselines_alone_makes_a_page_without_plots(tmp_path: Path):
    written = write_report(make_rows(1, methods=()), tmp_path / "r.html")
    assert len(written) == 1
    assert "Only the baselines were measured" in written[0].read_text()


def test_a_context_that_supplies_nothing_still_makes_a_page(tmp_path: Path):
    rows = [row.model_copy(update={"answer_logprob": -9.0}) for row in make_rows(2)]
    page = write_report(rows, tmp_path / "r.html")[0].read_text()
    assert "No share can be stated at 8\N{MULTIPLICATION SIGN}: the full context supplies no information here" in page


def test_every_share_of_the_table_has_its_interval(written: list[Path]):
    body = written[0].read_text().split("<table class=scores>")[1].split("</table>")[0]
    kvzip = body.split("<tr>")[4]
    cells = re.findall("<td>(.*?)</td>", kvzip)
    bounded = [bool(re.search(r"<small>\[.*\]</small>", cell)) for cell in cells]
    assert bounded == [False, False, True, True, True, True, False, True, True, True, False, False]
    assert "intervals over probes" not in written[0].read_text()


def test_the_table_says_where_a_method_was_not_measured(tmp_path: Path):
    rows = [row for row in make_rows() if (row.method, row.ratio, row.probe) != ("kvzip", 4.0, "p3")]
    page = write_report(rows, tmp_path / "r.html")[0].read_text()
    assert '<tr class=note><td colspan="12">measured on 3 of 4 probes</td></tr>' in page
    assert '<th scope=rowgroup rowspan="3">kvzip</th>' in page
    assert "<dd>kvzip 4\N{MULTIPLICATION SIGN}: measured on 3 of 4 probes</dd>" in page


def test_the_headline_never_rounds_a_loss_away():
    rows = [row.model_copy(update={"answer_logprob": -2.03}) if row.method == "kvzip" else row for row in make_rows()]
    assert "kvzip keeps 99.6 %" in headline(score(rows))


def test_no_rows_are_refused(tmp_path: Path):
    with pytest.raises(BadInput):
        write_report([], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_the_terminal_says_what_is_left_of_every_answer():
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(survival_table(make_rows(2, question="[bold]Which[/bold] port?"), "truncate"))
    shown = console.export_text()
    assert shown.count("[bold]Which[/bold] port?") == 2
    assert shown.count("23 %") == shown.count("11 %") == 2
    assert "90 %" not in shown


@pytest.mark.parametrize("foreign", ["[/x]", "[red]", "a\\", "\\[/x]", ":bug:", "[link=x]y[/link]"])
def test_no_string_of_a_session_is_markup_to_the_terminal(foreign: str):
    strings = dict.fromkeys(("question", "answer", "transcript", "category"), foreign)
    rows = make_rows(2, methods=(foreign,), **strings)
    console = Console(width=140, file=io.StringIO(), force_terminal=True, record=True)
    console.print(survival_table(rows, foreign))
    console.print(table(score(rows)))
    assert console.export_text().count(foreign) == 2 * 2 + 1 + 1  # questions and answers, caption, name


def test_a_probe_of_one_name_in_two_transcripts_has_two_fates():
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(survival_table([*make_rows(1), *make_rows(1, transcript="b.jsonl")], "truncate"))
    assert console.export_text().count("Which port?") == 2


def answers(**changes: object) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(answers_table(make_rows(1, answer="4817", **changes), "kvzip", 8.0))
    return console.export_text()


def test_the_answers_stand_beside_the_right_one():
    shown = answers(text="It listens on 4817.", keyword=True, question="[bold]Which[/bold] port?")
    assert "[bold]Which[/bold] port?" in shown
    (line,) = [line for line in shown.splitlines() if "Which" in line]
    assert line.count("4817") == 3, "the right answer, and what both contexts write"
    assert "prefers" in shown


def test_what_the_full_context_gets_wrong_by_itself_is_not_shown_as_an_answer():
    shown = answers(text="port 33000", keyword=False)
    assert "33000" not in shown
    assert "4817" in shown


ACTIONS = {"next_action_tool": True, "next_action_exact": False, "next_action_f1": 0.5, "bytes_base": "bfloat16"}


def test_actions_and_differences_have_a_table_each(tmp_path: Path):
    page = write_report(make_rows(**ACTIONS), tmp_path / "r.html")[0].read_text()
    assert "<h2>What the agent does next</h2>" in page
    assert "less truncate at the same ratio" in page
    lead = next(line for line in page.splitlines() if "<td>answers</td>" in line and "8" in line)
    assert re.findall("<td>(.*?)</td>", lead) == ["answers", "+78.8", "[78.8, 78.8]", "2", "0", "2", "4"]
    other = write_report(make_rows(**ACTIONS), tmp_path / "o.html", against="kvzip")[0].read_text()
    assert "less kvzip at the same ratio" in other


def test_bytes_name_their_base_on_the_page_and_in_the_terminal(tmp_path: Path):
    rows = make_rows(**ACTIONS)
    assert "a bfloat16 cache" in write_report(rows, tmp_path / "r.html")[0].read_text()
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table(score(rows)))
    assert "fewer than a bfloat16 cache" in " ".join(console.export_text().split())


def test_several_models_make_one_page_with_the_trend(tmp_path: Path):
    sizes = {"tiny-135m": 135_000_000, HOSTILE: 500_000_000}
    rows = [
        row
        for name, size in sizes.items()
        for row in make_rows(model=name, model_digest=f"sha256:{size}", model_parameters=size, **ACTIONS)
    ]
    page, *pngs = write_report(rows, tmp_path / "m.html")
    assert [png.name for png in pngs] == ["m-trend-retained.png", "m-trend-next-action.png"]
    shown = page.read_text()
    assert "<script" not in shown
    assert Tags(shown).open == []
    assert shown.index("tiny-135m") < shown.index(text(HOSTILE)), "the smallest first"
    assert shown.count("4 / 2 / 2") == 2 * 6, "each line says its probes, windows and actions"


def test_needle_probes_are_never_reported_alone(tmp_path: Path):
    needles = make_rows(category="niah_single_1")
    with pytest.raises(BadInput, match="needle probes only"):
        write_report(needles, tmp_path / "r.html")
    assert write_report([*needles, *make_rows(transcript="b.jsonl")], tmp_path / "r.html")
