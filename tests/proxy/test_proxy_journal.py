"""What a stub names can be read: raw turns by session and number, never another key's, and again after a restart."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from proxied import SMALL, anthropic_history, chat_history, get, observation, post, proxy, upstream

from holdfast.errors import Missing
from holdfast.proxy.headers import caller_digest
from holdfast.proxy.journal import Journal
from holdfast.transcript.turn import Role, ToolCall, Turn

STEPS = 40
URL = re.compile(r"curl -s (http://[\d.:]+/holdfast/turns/\w+)/N")


def test_what_the_request_says_of_a_turn_is_where_the_turn_is():
    with upstream() as up, proxy(up) as url:
        post(f"{url}/v1/messages", json={"messages": anthropic_history(STEPS)})
        sent = up.seen[0].body.decode()
        place = URL.search(sent)
        assert place
        stubs = [int(number) for number in re.findall(r"back by: holdfast expand (\d+)\]", sent)]
        went = re.search(r"turns ([\d, -]+) went", sent)
        turns = {number: get(f"{place[1]}/{number}").text for number in (*stubs, 1, 2 * STEPS)}
        assert turns[2 * STEPS].startswith(f"== turn {2 * STEPS}, assistant\nStep {STEPS - 1}.")
        assert all(observation((number - 3) // 2) in turns[number] for number in stubs)
        assert stubs or went
        listed = get(place[1]).text.splitlines()
        assert len(listed) == 2 * STEPS + 1
        rows = get(f"{place[1]}/2-3", headers={"accept": "application/json"}).json()["turns"]
        assert [row["turn"] for row in rows] == [2, 3]
        assert rows[0]["calls"] == [{"id": "c0", "name": "bash", "arguments": '{"command": "make"}'}]
        for path in ("/9999", "/x", "/0"):
            assert get(f"{place[1]}{path}").status_code == 404
        assert get(f"{url}/holdfast/turns/0123456789ab/1").status_code == 404
        assert place[1].rpartition("/")[2] not in get(f"{url}/holdfast/proxy").text


def test_the_command_prints_a_turn_of_the_proxy(capsys):
    from holdfast.cli.main import main

    with upstream() as up, proxy(up) as url:
        post(f"{url}/v1/chat/completions", json={"messages": chat_history(STEPS)})
        place = URL.search(up.seen[0].body.decode())
        assert place
        for turn, code in (("3", 0), ("999", 2)):
            with pytest.raises(SystemExit) as stop:
                main(["expand", place[1], turn])
            assert stop.value.code == code
        assert observation(0) in capsys.readouterr().out


def said(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(Role.USER if at % 2 == 0 else Role.ASSISTANT, text) for at, text in enumerate(texts))


def test_a_session_grows_forks_and_is_its_own_keys(tmp_path):
    journal = Journal(tmp_path)
    one = journal.note("a", "w", said("task", "did"))
    assert journal.note("a", "w", said("task", "did", "more", "done")) == one
    assert journal.note("a", "w", said("task")) == one  # sent again, or a step back
    assert journal.note("b", "w", said("task", "did")) != one
    assert journal.note("a", "other wire", said("task", "did")) != one
    fork = journal.note("a", "w", said("task", "did", "else"))
    assert fork != one
    assert [turn.text for turn in journal.session(one).turns] == ["task", "did", "more", "done"]
    assert [turn.text for turn in journal.session(fork).turns] == ["task", "did", "else"]
    assert {session.id for session in journal.sessions("b")}.isdisjoint({one, fork})


def test_a_journal_on_disk_outlives_the_proxy_and_a_torn_line(tmp_path):
    call = Turn(Role.ASSISTANT, "", "why", (ToolCall("c", "bash", '{"command": "make"}'),))
    turns = (Turn(Role.USER, "täsk\u2028\ud83d"), call, Turn(Role.TOOL, "ok\n", call_id="c", is_error=True))
    one = Journal(tmp_path).note("a", "w", turns)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    with file.open("ab") as torn:
        torn.write(b'{"role": "user", "con')
    again = Journal(tmp_path)
    assert again.session(one).turns[1:] == turns[1:]
    assert again.note("a", "w", (*again.session(one).turns, Turn(Role.USER, "go on"))) == one
    assert [turn.text for turn in Journal(tmp_path).session(one).turns][2:] == ["ok\n", "go on"]
    with pytest.raises(Missing, match="no session"):
        Journal(tmp_path).session("../x")


def test_the_oldest_session_leaves_memory_first():
    journal = Journal(most_characters=1_500)
    ids = [journal.note("a", "w", said(f"task {at}" + "x" * 300)) for at in range(5)]
    assert journal.session(ids[-1])
    with pytest.raises(Missing):
        journal.session(ids[0])


def test_a_key_in_the_query_is_a_key():
    def digest(query: bytes, *headers: tuple[bytes, bytes]) -> str:
        return caller_digest({"headers": list(headers), "query_string": query})

    assert digest(b"alt=sse&key=k1") == digest(b"", (b"x-goog-api-key", b"k1")) != digest(b"key=k2")
    assert digest(b"") == "none"


def test_a_folder_holds_chat_messages_that_other_commands_read(tmp_path):
    from holdfast.transcript.read import read

    with upstream() as up, proxy(up, replace(SMALL, journal=tmp_path)) as url:
        post(f"{url}/v1/chat/completions", json={"messages": chat_history(3)})
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text().splitlines()[0])["holdfast"]["wire"] == "openai_chat"
    assert [turn.role for turn in read(file).turns][:3] == [Role.USER, Role.ASSISTANT, Role.TOOL]
