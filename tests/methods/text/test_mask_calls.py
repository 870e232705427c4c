"""What masking the arguments of calls keeps, in which order it works, and how the rest comes back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_sessions import exchange, session

from holdfast.errors import BadOption
from holdfast.methods.registry import build_text
from holdfast.methods.text.base import Room
from holdfast.methods.text.mask_calls import MaskCalls
from holdfast.transcript.draft import new_draft
from holdfast.transcript.read import parse
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn
from holdfast.transcript.write import write

CODE = "import json\n" + "value = json.loads(text)\n" * 60
TIGHT = Room(1, keep_recent=0)


def arguments(made):
    return [call.arguments for turn in made.turns for call in turn.calls]


def masked(transcript, room=TIGHT, **options):
    return MaskCalls(**options).rewrite(new_draft(transcript), room)


def wrote(number, path, text=CODE):
    return exchange(number, "Write", {"file_path": path, "content": text}, "ok")


def test_a_written_file_becomes_one_line_and_its_path_stays():
    (made,) = arguments(masked(session(wrote(1, "src/a.py"))))
    size = estimate_tokens(CODE)
    assert json.loads(made) == {
        "file_path": "src/a.py",
        "content": f"[holdfast: 62 lines, {size} tokens; begins `import json`; back by: holdfast expand 2]",
    }


def test_of_a_command_the_first_line_stays():
    command = f"cd app && cat > b.py <<'EOF'\n{CODE}EOF\npytest -q"
    (made,) = arguments(masked(session(exchange(1, "bash", {"command": command, "timeout": 9}, "ok"))))
    first, told = json.loads(made)["command"].split("\n")
    assert first == "cd app && cat > b.py <<'EOF'"
    assert told == f"[holdfast: 64 lines, {estimate_tokens(command)} tokens; back by: holdfast expand 2]"
    assert json.loads(made)["timeout"] == 9


def test_a_command_of_one_endless_line_is_cut():
    (made,) = arguments(masked(session(exchange(1, "bash", {"command": "echo " + "word " * 900}, "ok"))))
    assert estimate_tokens(json.loads(made)["command"]) < 80


def test_files_that_only_the_text_of_a_patch_names_are_named():
    patch = f"*** Begin Patch\n*** Update File: src/a.py\n{CODE}*** Add File: b.py\n+x\n*** End Patch"
    for given_ in (patch, {"input": patch}):
        (made,) = arguments(masked(session(exchange(1, "apply_patch", given_, "ok"))))
        assert "writes src/a.py, b.py; begins `*** Begin Patch`" in made


def test_long_strings_inside_lists_are_masked_and_short_ones_stay():
    edits = [{"old_string": "x", "new_string": CODE}, {"old_string": "y", "new_string": "z"}]
    given_ = {"file_path": "a.py", "edits": edits, "all": True, "n": 1.50}
    (made,) = arguments(masked(session(exchange(1, "MultiEdit", given_, "ok"))))
    value = json.loads(made)
    assert value["edits"][0]["new_string"].startswith("[holdfast: ")
    value["edits"][0]["new_string"] = CODE
    assert value == given_


def test_what_is_not_masked_stays_character_for_character():
    odd = '{ "n":1.50, "a" : 1e3,"b":"\\u00e9",  "content":' + json.dumps(CODE) + ', "a":null }'
    (made,) = arguments(masked(session(exchange(1, "Write", odd, "ok"))))
    before, after = odd.split(json.dumps(CODE))
    assert made.startswith(before)
    assert made.endswith(after)


@pytest.mark.parametrize("broken", ['{"content": "' + CODE, "[" + json.dumps(CODE) + "]", json.dumps({"content": "x"})])
def test_broken_or_short_arguments_stay(broken):
    transcript = session(exchange(1, "Write", broken, "ok"))
    held = new_draft(transcript)
    assert MaskCalls().rewrite(held, TIGHT) is held


def test_superseded_writes_go_first_and_the_newest_state_of_a_file_last():
    command = exchange(3, "bash", {"command": f"node <<'EOF'\n{CODE}EOF"}, "ok")
    transcript = session(wrote(1, "b.py"), wrote(2, "a.py"), command, wrote(4, "./a.py"))
    held, order = new_draft(transcript), []
    while True:
        made = MaskCalls().rewrite(held, Room(held.size(estimate_tokens) - 1, keep_recent=0))
        if made is held:
            break
        order += [at for at, pair in enumerate(zip(held.turns, made.turns, strict=True)) if pair[0] != pair[1]]
        held = made
    assert order == [3, 5, 1, 7]


def test_a_write_that_failed_is_not_the_newest_state():
    failed = exchange(2, "Write", {"file_path": "a.py", "content": CODE}, "denied", is_error=True)
    transcript = session(wrote(1, "a.py"), failed)
    made = masked(transcript, Room(new_draft(transcript).size(estimate_tokens) - 1, keep_recent=0))
    assert [CODE[:20] in json.loads(text)["content"] for text in arguments(made)] == [True, False]


def test_it_stops_when_the_session_fits():
    transcript = session(*(wrote(n, f"{n}.py") for n in range(4)))
    made = masked(transcript, Room(new_draft(transcript).size(estimate_tokens) - 10, keep_recent=0))
    assert ["holdfast" in text for text in arguments(made)] == [True, False, False, False]


def test_the_newest_exchanges_stay():
    held = new_draft(session(wrote(1, "a.py")))
    assert MaskCalls().rewrite(held, Room(1, keep_recent=1)) is held


def test_a_fenced_command_is_masked_in_the_text_too_and_reads_back():
    command = f"cat > b.py <<'EOF'\n{CODE}EOF"
    rows = [
        {"role": "user", "content": "Fix it"},
        {"role": "assistant", "content": f"I write it.\n\n```bash\n{command}\n```"},
        {"role": "user", "content": "<returncode>0</returncode>\n<output>\n</output>"},
        {"role": "assistant", "content": "Done."},
    ]
    text = json.dumps(rows)
    made = masked(parse(text))
    assert CODE not in made.turns[1].text
    back = parse(write(text, made)).turns
    assert [turn.calls for turn in back] == [turn.calls for turn in made.turns]
    assert back[1].text == made.turns[1].text


def test_a_call_in_the_text_is_masked_there():
    call = f"<function=create>\n<parameter=path>a.py</parameter>\n<parameter=file_text>{CODE}</parameter>\n</function>"
    transcript = Transcript((Turn(Role.USER, "Fix it"), Turn(Role.ASSISTANT, f"Now:\n{call}")))
    text = masked(transcript).turns[1].text
    assert text.startswith(
        "Now:\n<function=create>\n<parameter=path>a.py</parameter>\n<parameter=file_text>[holdfast: "
    )
    assert text.endswith("holdfast expand 2]</parameter>\n</function>")


def test_what_the_agent_says_without_a_call_stays():
    held = new_draft(Transcript((Turn(Role.USER, CODE), Turn(Role.ASSISTANT, f"<parameter=x>{CODE}</parameter>"))))
    assert MaskCalls().rewrite(held, TIGHT) is held


@given(st.text(min_size=1, max_size=60).map(lambda part: part * 40), st.booleans())
def test_any_text_in_arguments_leaves_them_an_object_with_the_same_keys(text, ascii_):
    given_ = json.dumps({"path": "a.py", "content": text, "command": text}, ensure_ascii=ascii_)
    made = arguments(masked(session(exchange(1, "Write", given_, "ok")), over=4))[0]
    value = json.loads(made)
    assert list(value) == ["path", "content", "command"]
    assert value["path"] == "a.py"
    assert made.isascii() or not ascii_
    assert len(value["content"].splitlines()) == 1 or value["content"] == text


def test_a_negative_limit_is_refused():
    with pytest.raises(BadOption):
        build_text("mask_calls:over=-1")
