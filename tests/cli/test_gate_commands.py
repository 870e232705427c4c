"""What the command line says of losses: compact, show, calibrate and eval with a gate."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from html import unescape
from html.parser import HTMLParser
from itertools import groupby

import pytest
import torch

from conftest import byte_tokenizer, small_session
from counted_crates import crates, long_session
from holdfast.blocks.render import render
from holdfast.cli.evidence import count_from_one, print_evidence
from holdfast.cli.main import main
from holdfast.cli.options import DEFAULT_METHOD
from holdfast.compaction.compact import ask, restore
from holdfast.context import holdfast_file
from holdfast.engine.local import LocalEngine
from holdfast.eval.report.session_page import Fate, fates, session_page
from holdfast.eval.rows import read_rows
from holdfast.gate.latent.gate import Gate
from holdfast.model.load import load
from holdfast.transcript.read import read
from ticker_lines import without_ticker

HOSTILE = "<script>alert('x')</script> & \"q\" $title ${facts}\x1b[31m\x00\u202e /etc/evil.sh port 6666"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session with facts, one of whose turns is hostile."""
    path = tmp_path_factory.mktemp("session") / "s.json"
    messages = [{"role": t.role.value, "content": t.text} for t in long_session().turns[:20]]
    messages[5]["content"] = HOSTILE
    path.write_text(json.dumps(messages))
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture
def run(capsys):
    """Run a command line; gives exit code, stdout and stderr."""

    def started(*arguments):
        code = call(*arguments)
        out, err = capsys.readouterr()
        return code, out, without_ticker(err)

    return started


@pytest.fixture(scope="module")
def stored(tmp_path_factory, model, session):
    out = tmp_path_factory.mktemp("stored") / "s.holdfast"
    given = ["compact", session, "-o", out, "--ratio", "4", "--pin", "system", "--window", "400", "--model", model]
    assert call(*given) == 0
    return out


ESTIMATE = re.compile(r"[\d,]+ tokens: .* on this machine\n")
"""What stands on stderr before a compaction."""


def one_line(err, says):
    told = ESTIMATE.sub("", err)
    assert told.startswith("holdfast: ")
    assert told.count("\n") == 1
    assert says in told


# compact


def test_compact_tells_what_was_lost_with_the_default_method(run, model, session, tmp_path):
    code, out, _ = run("compact", session, "-o", tmp_path / "a", "--pin", "system", "--ratio", "16", "--model", model)
    assert code == 0
    told = re.search(
        r"gate +(\d+) facts found, (\d+) kept, (\d+) repaired, (\d+) lost; (\d+) of (\d+) tokens lost", out
    )
    found, kept, repaired, lost, tokens, of = map(int, told.groups())
    assert found == kept + repaired + lost > lost > 0
    assert 0 < tokens < of
    assert out.count("    lost    ") == min(lost, 8)
    assert ("more: holdfast show FILE --json" in out) == (lost > 8)
    assert "\x1b" not in out
    manifest = holdfast_file.read_manifest(tmp_path / "a")
    assert manifest.recipe["latent"] == DEFAULT_METHOD
    assert manifest.evidence["gate"]["tokens"] == of


def test_no_gate_measures_nothing(run, model, session, tmp_path):
    code, out, _ = run("compact", session, "-o", tmp_path / "a", "--no-gate", "--model", model)
    assert code == 0
    assert "facts found" not in out
    assert "gate" not in holdfast_file.read_manifest(tmp_path / "a").evidence


def test_json_has_the_evidence_of_the_gate(run, model, session, tmp_path):
    out, arguments = tmp_path / "a", ["--allow-over", "50%", "--pin", "none", "--model", model, "--json"]
    facts = json.loads(run("compact", session, "-o", out, "--ratio", "8", *arguments)[1])
    assert facts["recipe"]["gate"] == {**asdict(Gate()), "allow_over": 0.5}
    assert facts["gate"] == count_from_one(holdfast_file.read_manifest(out).evidence)["gate"]
    assert json.loads(run("show", out, "--json")[1])["evidence"]["gate"] == facts["gate"]


def test_strict_fails_closed(run, model, session, tmp_path):
    out, before = tmp_path / "a.holdfast", session.read_bytes()
    arguments = ["--pin", "system", "--ratio", "16", "--model", model, "--strict", "--force"]
    code, text, err = run("compact", session, "-o", out, *arguments)
    assert (code, text) == (3, "")
    one_line(err, "facts would be lost: ")
    assert not list(tmp_path.iterdir())
    assert session.read_bytes() == before
    assert run("compact", session, "-o", out, "--no-gate", "--model", model)[0] == 0
    kept = out.read_bytes()
    assert run("compact", session, "-o", out, *arguments)[0] == 3
    assert out.read_bytes() == kept
    assert run("compact", session, "-o", out, *arguments, "--json")[1] == ""
    assert run("compact", session, "-o", out, "--ratio", "1", "--strict", "--force", "--model", model)[0] == 0


@pytest.fixture
def compacting(run, model, session, stored, monkeypatch, tmp_path):
    """Compact the session to where a context stands already, which must stay as it is."""
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))

    def started(*arguments):
        before, beside = stored.read_bytes(), sorted(stored.parent.iterdir())
        done = run("compact", session, "-o", stored, "--model", model, "--force", *arguments)
        assert stored.read_bytes() == before
        assert sorted(stored.parent.iterdir()) == beside
        return done

    return started


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--allow-over", "lots"], "must be a share such as 10%"),
        (["--allow-over", "nan"], "between 0 and 1"),
        (["--allow-over", "-5%"], "between 0 and 1"),
        (["--allow-over", "150%"], "between 0 and 1"),
        (["--no-gate", "--strict"], "leave out --no-gate"),
        (["--no-gate", "--allow-over", "10%"], "leave out --no-gate"),
        (["--budget", "3"], "does not hold the"),
        (["--budget", "0"], "does not hold the"),
        (["--budget", "-7"], "does not hold the"),
        (["--ratio", "inf"], "at least 1"),
        (["--device", "nowhere"], "'nowhere'"),
        (["--latent", "kvzip+gate:keen=1"], "keen"),
        (["--latent", "kvzip+gate", "--no-gate"], "exclude each other"),
        (["--latent", "snapkv:allocation=learned"], "make them with `holdfast calibrate`"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_the_output_alone(compacting, arguments, says):
    code, out, err = compacting(*arguments)
    assert (code, out) == (2, "")
    one_line(err, says)


def test_a_budget_is_kept(run, model, session, tmp_path):
    arguments = ["-o", tmp_path / "a", "--model", model, "--json", "--pin", "system", "--force"]
    whole = json.loads(run("compact", session, *arguments, "--ratio", "1")[1])
    facts = json.loads(run("compact", session, *arguments, "--budget", "200", "--no-gate")[1])
    assert facts["bytes"] <= 200 * whole["bytes"] / whole["tokens"]
    assert facts["bytes"] > 190 * whole["bytes"] / whole["tokens"]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 1, "out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: not enough memory: 9 GB"),
            1,
            "memory",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), 1, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["python", "torch", "posix", "cuda", "ctrl-c"],
)
@pytest.mark.parametrize("where", ["capture", "score"])
def test_bad_luck_is_one_line_and_leaves_an_existing_file(compacting, monkeypatch, error, code, says, where):
    def unlucky(*args, **kwargs):
        raise error

    monkeypatch.setattr(LocalEngine, where, unlucky)
    got, out, err = compacting()
    assert (got, out) == (code, "")
    one_line(err, says)


def test_another_error_of_torch_is_not_hidden(model, session, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the size of tensor a must match")

    monkeypatch.setattr(LocalEngine, "capture", broken)
    with pytest.raises(RuntimeError, match="must match"):
        main(["compact", str(session), "-o", str(tmp_path / "a"), "--model", model])


# show


def test_show_tells_what_was_lost(run, stored):
    code, out, _ = run("show", stored)
    assert code == 0
    assert "facts found" in out
    assert "recipe" in out


def test_a_lost_prohibition_stands_first_and_is_named_as_such(capsys):
    facts = {"tokens": 9, "tokens_compacted": 9, "bytes": 1, "bytes_full": 9, "seconds_compact": 1.0}
    losses = [{"kind": "number", "text": str(n), "turn": n, "nats": 50.0 + n} for n in range(9)]
    losses.append({"kind": "prohibition", "text": "Never touch data/.", "turn": 4, "nats": 1.5})
    counts = {"number": {"found": 9, "kept": 0, "repaired": 0, "lost": 9}}
    gate = {"atoms": counts, "lost": losses, "tokens_lost": 9, "tokens": 9, "seconds": 1.0}
    print_evidence({**facts, "gate": gate})
    lines = [line for line in capsys.readouterr().out.splitlines() if "lost " in line or "LOST" in line]
    assert "LOST" in lines[1]
    assert "1 of the user's prohibitions" in lines[1]
    assert "'Never touch data/.' of turn 5" in lines[2]


class Page(HTMLParser):
    """The classes and texts of a page, and anything that would run."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.runs, self.tags, self.depth = [], set(), None

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag in ("span", "a") and "class" in dict(attrs):
            self.depth = dict(attrs)["class"]

    def handle_endtag(self, tag):
        if tag in ("span", "a"):
            self.depth = None

    def handle_data(self, data):
        if self.depth:
            self.runs.append((self.depth, data))


@pytest.fixture
def page(run, stored, session, model, tmp_path):
    out = tmp_path / "s.html"
    code, _, err = run("show", stored, "--html", out, "--session", session, "--model", model)
    assert code == 0, err
    return out.read_text(encoding="utf-8")


def test_the_page_colours_every_token_by_its_fate(page, stored, session):
    rendered, manifest = render(read(session), byte_tokenizer()), holdfast_file.read_manifest(stored)
    fate = fates(manifest.segments, manifest.evidence, len(rendered.ids))
    parser = Page()
    parser.feed(page)
    shown = "".join(text for _, text in parser.runs)
    assert re.sub("[\x00\x1b\u202e]", "\ufffd", rendered.text) == shown
    assert {f for f, _ in parser.runs} == {str(f) for f in fate} <= {str(f) for f in Fate}
    assert {Fate.VERBATIM, Fate.COMPACTED, Fate.LOST, Fate.LEFT_OUT} <= set(fate)
    ends = (*rendered.offsets, len(rendered.text))
    want = [(f, rendered.text[ends[i] : ends[i + 1]]) for i, f in enumerate(fate)]
    for f in Fate:
        coloured = "".join(text for name, text in parser.runs if name == f)
        assert coloured == re.sub("[\x00\x1b\u202e]", "\ufffd", "".join(text for name, text in want if name == f))
    gate = manifest.evidence["gate"]
    assert fate.count(Fate.LOST) == gate["tokens_lost"]
    for first, last in gate["spans_lost"]:
        assert set(fate[first:last]) == {Fate.LOST}
    assert len([*groupby(fate)]) <= len(parser.runs)


def test_the_page_runs_nothing_and_shows_what_is_hidden(page):
    parser = Page()
    parser.feed(page)
    assert not parser.tags & {"script", "img", "iframe", "link", "object"}
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in re.sub("</?(span|a)[^>]*>", "", page)
    assert "$title ${facts}" in unescape(re.sub("</?(span|a)[^>]*>", "", page))
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page)
    assert "http" not in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--session", "{other}"], "is not the session"),
        ([], "with --session"),
        (["--session", "/nonexistent"], "no such file"),
        (["--session", "{session}", "--model", ""], "if you trust it"),
    ],
)
def test_a_page_needs_the_session_and_a_trusted_model(run, stored, session, model, tmp_path, change, says):
    other, out = tmp_path / "other.json", tmp_path / "s.html"
    other.write_text(json.dumps([{"role": t.role.value, "content": t.text} for t in small_session().turns[:2]]))
    named = [x.format(other=other, session=session) for x in change]
    code, text, err = run("show", stored, "--html", out, "--model", model, *named)
    assert (code, text) == (2, "")
    one_line(err, says)
    assert not out.exists()


def test_a_page_never_takes_the_place_of_its_sources(run, stored, session, model):
    for target in (session, stored):
        before = target.read_bytes()
        assert run("show", stored, "--html", target, "--session", session, "--model", model)[0] == 2
        assert target.read_bytes() == before


def test_the_page_leads_from_loss_to_loss_and_follows_dark_mode(page, stored):
    losses = re.findall(r'<a class="lost" id="loss-(\d+)" href="#loss-(\d+)">', page)
    assert losses == [(str(n), str(n + 1)) for n in range(1, len(losses) + 1)]
    assert len(losses) >= len(holdfast_file.read_manifest(stored).evidence["gate"]["spans_lost"]) > 0
    assert page.index('href="#loss-1"') < page.index('id="loss-1"')
    assert "prefers-color-scheme: dark" in page


def test_a_turn_has_one_number_in_every_command(run, page, stored, session):
    """The hostile turn is the sixth that was said."""
    number = next(n for n, turn in enumerate(read(session).turns, 1) if turn.text == HOSTILE)
    assert run("expand", session, number)[1].startswith(f"== turn {number},")
    section = page.partition(f'id="turn-{number}"')[2].partition("</section>")[0]
    assert "alert(" in section
    assert f"turn {number} ·" in section
    shown = json.loads(run("show", stored, "--json")[1])
    turns = {origin[0] for segment in shown["segments"] for origin in segment["origins"]}
    assert max(turns) == len(read(session).turns)
    manifest = holdfast_file.read_manifest(stored)
    assert [x["turn"] - 1 for x in shown["evidence"]["gate"]["lost"]] == [
        x["turn"] for x in manifest.evidence["gate"]["lost"]
    ]
    (spans,) = {line for line in run("show", stored)[1].splitlines() if f"-{len(read(session).turns)}:" in line}
    assert "turns" in spans


@pytest.mark.parametrize("kind", ["prohibition", "number"])
def test_a_prohibition_that_was_lost_stands_in_red(session, kind):
    rendered = render(read(session), byte_tokenizer())
    loss = {"kind": kind, "text": "Never touch data/.", "turn": 1, "nats": 3.0}
    gate = {"atoms": {}, "lost": [loss], "spans_lost": [[3, 9]]}
    page = session_page("t", rendered, fates([], {"gate": gate}, len(rendered.ids)), {"gate": gate})
    alarm = '<div class="alarm"><p>This context lost a prohibition of the user:</p><ul><li><a href="#turn-2">turn 2</a>'
    assert (alarm in page) == (kind == "prohibition")


def test_the_page_of_a_context_without_a_gate_says_so(run, session, model, tmp_path):
    out, page = tmp_path / "a", tmp_path / "a.html"
    assert run("compact", session, "-o", out, "--no-gate", "--latent", "truncate", "--model", model)[0] == 0
    assert run("show", out, "--html", page, "--session", session, "--model", model)[0] == 0
    assert "was not measured" in page.read_text()
    rendered = render(read(session), byte_tokenizer())
    fate = fates(holdfast_file.read_manifest(out).segments, {}, len(rendered.ids))
    assert {Fate.VERBATIM, Fate.LEFT_OUT} == set(fate)


EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "gate",
    [
        {"atoms": {EVIL: dict.fromkeys(("found", "kept", "repaired", "lost"), EVIL)}, "lost": []},
        {"atoms": {}, "lost": [{"kind": EVIL, "text": EVIL, "turn": 0, "nats": 1.0}], "spans_lost": [[-5, 10**9]]},
    ],
)
def test_evidence_of_a_hostile_file_is_escaped(session, gate):
    rendered = render(read(session), byte_tokenizer())
    fate = fates([], {"gate": gate}, len(rendered.ids))
    assert len(fate) == len(rendered.ids)
    page = session_page(EVIL, rendered, fate, {"gate": gate})
    assert "<img" not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize(
    "gate",
    [
        5,
        "x",
        [1],
        {"atoms": 3},
        {"atoms": {}, "lost": [{"kind": "x", "text": "y", "turn": EVIL, "nats": 1.0}], "spans_lost": []},
        {"atoms": {}, "lost": [{"kind": "x", "text": "y", "turn": 0, "nats": EVIL}]},
        {"atoms": {}, "lost": [], "spans_lost": [["a", "b"]]},
        {"atoms": {}, "lost": [], "skills": {"full": EVIL}},
    ],
)
def test_evidence_that_no_gate_wrote_is_no_traceback(run, stored, session, model, tmp_path, gate):
    engine = LocalEngine(load(model))
    context = restore(stored, engine)
    odd = replace(context, evidence={**context.evidence, "gate": gate})
    holdfast_file.save(odd, tmp_path / "odd", engine.model)
    assert run("show", tmp_path / "odd")[0] == 0
    out = tmp_path / "odd.html"
    code, _, err = run("show", tmp_path / "odd", "--html", out, "--session", session, "--model", model)
    assert code == 2
    one_line(err, "its evidence is not as the gate writes it")
    assert not out.exists()


# calibrate


def test_calibrate_then_learned_shares_work(run, model, session, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    out, learned = tmp_path / "a", ["--latent", "snapkv:allocation=learned", "--model", model, "--pin", "system"]
    code, _, err = run("compact", session, "-o", out, *learned)
    assert code == 2
    one_line(err, "make them with `holdfast calibrate`")
    assert not out.exists()
    code, text, _ = run("calibrate", session, "--window", "200", "--limit", "2", "--model", model, "--json")
    facts = json.loads(text)
    assert code == 0
    assert facts["heads"] == 6
    assert facts["largest_over_mean"] >= 1
    assert run("compact", session, "-o", out, *learned)[0] == 0
    engine = LocalEngine(load(model))
    assert list(ask(restore(out, engine), engine, "Which port?", limit=2))
    own = tmp_path / "own.json"
    code, text, _ = run("calibrate", session, "-o", own, "--window", "200", "--limit", "1", "--model", model)
    assert code == 0
    assert "--latent snapkv:allocation=learned" in text
    shares = json.loads(own.read_text())["shares"]
    assert sum(x for row in shares.values() for x in row) == pytest.approx(1, abs=1e-4)
    given = f"snapkv:allocation=learned,shares={own}"
    assert run("compact", session, "-o", out, "--latent", given, "--model", model, "--force")[0] == 0


def test_a_surrogate_is_learned_from_sessions_and_texts_and_then_used(run, model, session, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    texts, out = tmp_path / "texts.jsonl", tmp_path / "a"
    texts.write_text("".join(json.dumps({"text": f"line {n} of a text about ports. " * 60}) + "\n" for n in range(4)))
    learning = ["calibrate", session, "--learn", "surrogate", "--texts", texts, "--model", model, "--window", "64"]
    code, text, _ = run(*learning, "--limit", "8", "--hidden", "4", "--json")
    facts = json.loads(text)
    assert code == 0
    assert set(facts["overlap"]) == {"4x", "8x", "16x"}
    assert facts["tokens"] == 7 * 64
    assert run("compact", session, "-o", out, "--latent", "surrogate", "--model", model, "--pin", "system")[0] == 0
    own = tmp_path / "own.safetensors"
    code, text, _ = run(*learning, "--limit", "8", "--hidden", "4", "-o", own)
    assert code == 0
    assert f"use it: --latent surrogate:weights={own}" in text
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text('{"words": "no field of that name"}\n')
    code, _, err = run("calibrate", session, "--learn", "surrogate", "--texts", spoilt, "--model", model)
    assert code == 2
    one_line(err, "without a field text")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--latent", "truncate"], "does not score KV pairs"),
        (["--latent", "kvzp"], "there are: informed"),
        (["--window", "8"], "at least 64 tokens"),
        (["--limit", "0"], "got 64 and 0"),
        (["--window", "5000"], "no session has 5000 tokens"),
        (["-o", "{session}"], "is the input"),
        (["-o", "."], "give a file in a folder"),
        (["-o", "/nonexistent/x.json"], "give a file in a folder"),
        (["--learn", "manners"], "--learn must be one of shares, surrogate"),
        (["--texts", "{session}"], "--texts is for --learn surrogate"),
        (["--learn", "surrogate", "--labels", "guess"], "labels must be one of method, later, both"),
        (["--learn", "surrogate", "--limit", "500"], "give more or longer sessions"),
        (["--learn", "surrogate", "--texts", "/nonexistent/x.txt"], "cannot read the texts"),
    ],
)
def test_calibrate_says_what_is_wrong_and_harms_nothing(run, model, session, arguments, says):
    before = session.read_bytes()
    given = [x.format(session=session) for x in arguments]
    code, out, err = run("calibrate", session, "--window", "64", "--model", model, *given)
    assert (code, out) == (2, "")
    one_line(err, says)
    assert session.read_bytes() == before


# eval


@pytest.fixture(scope="module")
def rows(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("rows")
    messages = [{"role": t.role.value, "content": t.text} for t in long_session().turns]
    (folder / "s.json").write_text(json.dumps(messages))
    (folder / "probes.jsonl").write_text("\n".join(crates(n).model_dump_json() for n in (3, 20)))
    out = folder / "rows.jsonl"
    methods = ["informed", "informed+gate", "truncate+gate:repair=false", "kvzip+gate:strict=true"]
    given = [x for name in methods for x in ("--latent", name)]
    given += ["--transcripts", folder / "s.json", "--probes", folder / "probes.jsonl", "--out", out, "--no-answers"]
    assert call("eval", "run", *given, "--ratio", "4", "--window", "400", "--model", model) == 0
    return out


def test_rows_of_a_gate_say_what_it_called(rows):
    found = read_rows(rows)
    methods = {row.method for row in found}
    assert methods == {"full", "none", "informed", "informed+gate", "truncate+gate:repair=false"}  # strict left out
    for row in found:
        assert row.keyword is None
        verdict = (row.gate_nats, row.gate_lost, row.prohibitions_lost)
        assert [value is None for value in verdict] == ["+gate" not in row.method] * 3
        if row.gate_lost:
            assert row.gate_nats > 0
    assert any(row.gate_lost for row in found)
    plain, gated = ({r.probe: r.answer_logprob for r in found if r.method == m} for m in ("informed", "informed+gate"))
    assert plain.keys() == gated.keys()


def test_rows_without_answers_are_scored_and_drawn(run, rows, tmp_path):
    scores = json.loads(run("eval", "score", rows, "--json")[1])
    assert {s["method"] for s in scores} >= {"informed+gate", "truncate+gate:repair=false"}
    assert all(s["keyword"] is None for s in scores)
    assert all(isinstance(s["retained"], float) for s in scores)
    code, text, _ = run("eval", "score", rows)
    assert code == 0
    assert "informed" in text
    assert "nan" not in text.lower()
    page = tmp_path / "r.html"
    assert run("eval", "report", rows, "-o", page)[0] == 0
    assert "informed+gate" in page.read_text()
    assert "NaN" not in page.read_text()


@pytest.mark.parametrize("spec", ["kvzip+gate:depth=1", "kvzip+gate:threshold=0", "kvzip+gates", "full+gate"])
def test_a_bad_gate_is_refused_before_anything_is_measured(run, rows, model, tmp_path, spec):
    given = ["--transcripts", rows.parent / "s.json", "--probes", rows.parent / "probes.jsonl", "--latent", spec]
    code, out, err = run("eval", "run", *given, "--out", tmp_path / "r.jsonl", "--model", model)
    assert (code, out) == (2, "")
    one_line(err, "")
    assert not (tmp_path / "r.jsonl").exists()
