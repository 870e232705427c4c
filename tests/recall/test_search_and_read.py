"""What was said is found by what it was about, and read exactly, within the tokens that are allowed."""

from __future__ import annotations

import json

import pytest

from holdfast.errors import BadOption
from holdfast.recall.index import Index
from holdfast.recall.pages import WIDTH, make_pages
from holdfast.recall.read import read_turns
from holdfast.recall.search import ROOM, search
from holdfast.recall.words import query_words, search_words
from holdfast.transcript.read import parse
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, ToolCall, Turn
from long_samples import SAMPLES

SESSIONS = {name: parse(text).turns for name, (_, text) in SAMPLES.items()}


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("which host does the export write to?", "quarry-17:48213"),
        ("what did the user say about the retry limit?", "Keep the retry limit at 37"),
        ("the commit that retries a batch", "9c41e7b"),
        ("which files may never be edited?", "migrations/0042_invoices.sql"),
        ("how many invoices did make verify-ledger count?", "1204 invoices"),
    ],
)
def test_an_answer_is_found_in_one_call_in_every_format(name, query, answer):
    found = search(Index(make_pages(SESSIONS[name])), query)
    assert answer in found.text
    assert estimate_tokens(found.text) <= ROOM


@pytest.mark.parametrize("name", SESSIONS)
def test_pages_of_an_answer_show_no_line_twice_and_end(name):
    index = Index(make_pages(SESSIONS[name]))
    skip, shown = 0, set()
    while True:
        found = search(index, "invoice export batch quarry-17", skip)
        lines = {(place.page, line) for place in found.places for line in range(place.first, place.last + 1)}
        assert not lines & shown
        assert estimate_tokens(found.text) <= ROOM
        skip, shown = skip + len(found.places), shown | lines
        if not found.more:
            break
    assert skip > 8


@pytest.mark.parametrize("name", SESSIONS)
def test_what_is_read_is_the_turn_word_for_word(name):
    pages = make_pages(SESSIONS[name])
    for page, turn in zip(pages, SESSIONS[name], strict=True):
        assert turn.text in page.text
        whole = read_turns(pages, str(page.number), 100_000)
        assert whole.partition("\n")[2] == page.slice(0, page.lines - 1)


def test_a_long_turn_is_read_in_stretches_that_join_to_the_whole():
    text = "".join(f"line {n} says {n * n}\n" for n in range(400)) + "x" * 1_000 + " end"
    pages = make_pages((Turn(Role.USER, text),))
    read, where = "", "1"
    while where:
        answer = read_turns(pages, where, 300)
        assert estimate_tokens(answer) <= 300
        body, _, rest = answer.partition("\n")[2].partition("\n(goes on at ")
        read, where = read + body, rest.rstrip(")")
    assert read.replace("\n", "") == text.replace("\n", "")


def test_arguments_of_calls_are_read_without_the_escapes_of_json():
    body = 'say "hi"\n\tTab'
    call = ToolCall("c", "write", json.dumps({"path": "a.py", "content": body}))
    (page,) = make_pages((Turn(Role.ASSISTANT, "I write it.", calls=(call,)),))
    assert body in page.text
    assert page.call_line == 1


@pytest.mark.parametrize("size", [WIDTH - 1, WIDTH, WIDTH + 1, 5 * WIDTH])
@pytest.mark.parametrize("letter", ["x", "a b,", "語"])
def test_long_lines_are_cut_and_join_to_what_they_were(size, letter):
    text = (letter * size)[:size] + "\nnext"
    (page,) = make_pages((Turn(Role.TOOL, text),))
    lines = [page.slice(at, at) for at in range(page.lines)]
    assert max(map(len, lines)) <= WIDTH + 1
    assert "".join(lines[:-1]) == text.partition("\n")[0]


@pytest.mark.parametrize("asked", ["0", "9999", "3-2", "1:0", "1:99999", "../1", "1;2", "", "1:2-1", "-1", "1e3"])
def test_turns_that_there_are_not_are_refused_with_those_that_there_are(asked):
    with pytest.raises(BadOption, match=r"the session has|turns are asked for|has the lines"):
        read_turns(make_pages(SESSIONS["pi"]), asked, 300)


def test_identifiers_are_found_by_their_parts_and_endings_do_not_count():
    assert {"authstore.ts", "auth", "stor", "ts"} <= set(search_words("see (authStore.ts)"))
    assert search_words("exported") == search_words("exports") == search_words("exporting")
    assert query_words("which of the files is it") == search_words("files")
    assert set(search_words("検索する")) >= {"検索", "索す"}


@pytest.mark.parametrize("query", ["", "?", "zzqqy unheard-of"])
def test_a_query_that_names_nothing_finds_nothing(query):
    assert search(Index(make_pages(SESSIONS["codex"])), query).places == ()


def test_a_search_can_be_kept_to_some_turns():
    pages = make_pages(SESSIONS["openai_chat"])
    found = search(Index(pages), "export batch", within=range(10, 20))
    assert found.places
    assert all(10 <= place.page < 20 for place in found.places)


def test_a_question_that_was_asked_before_stands_behind_its_answer():
    said = ("The service listens on port 48213.", "Noted.", "Which port does the service listen on?")
    turns = [Turn(role, text) for role, text in zip((Role.USER, Role.ASSISTANT, Role.USER), said, strict=True)]
    found = search(Index(make_pages(turns)), "which port does the service listen on?")
    assert [place.page for place in found.places][:1] == [0]
