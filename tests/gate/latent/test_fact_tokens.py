"""Atoms: what counts as one, which of two wins, where it stands in text and tokens, and that any text is searched."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import render
from holdfast.facts.extract import extract_facts
from holdfast.facts.fact import FactKind
from holdfast.gate.latent.fact_tokens import locate_facts
from holdfast.gate.latent.token_text import TokenDecoder
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

NARROW = {
    FactKind.URL,
    FactKind.PATH,
    FactKind.HASH,
    FactKind.VERSION,
    FactKind.IDENTIFIER,
    FactKind.NUMBER,
}
PROSE = """The morning was cold, and she walked slowly along the river. Nobody knew why the old mill had closed; perhaps
the owner's children didn't want it. He and/or his wife would read/write letters every day, e.g. to the well-known
engineer who built it. A state-of-the-art engine wasn't cheap (it never is), but it's the first of two that ran here:
one in spring, one in autumn. Years later, the McAllisters' mill became a school. I think that was all."""


def found(text: str, speaker: Role | None = None) -> list[tuple[str, str]]:
    return [(atom.kind.value, atom.text) for atom in extract_facts(text, speaker)]


@pytest.mark.parametrize(
    ("text", "kind", "literal"),
    [
        ("open src/app.py now", "path", "src/app.py"),
        ("see AppSidebar.tsx:93.", "path", "AppSidebar.tsx:93"),
        ("run tests/test_a.py::TestX::test_y[a-1], then", "path", "tests/test_a.py::TestX::test_y[a-1]"),
        ("in `doc/ünï/данные.json`", "path", "doc/ünï/данные.json"),
        (r"at C:\new\table\app.py now", "path", r"C:\new\table\app.py"),
        (r'{"path": "C:\\Users\\new\\a.txt"}', "path", r"C:\\Users\\new\\a.txt"),
        (r"in src\gate\facts.py today", "path", r"src\gate\facts.py"),
        ("moves to testkit/, outside", "path", "testkit/"),
        ("a `.part` file", "path", ".part"),
        ("\x1b[31msrc/a.js\x1b[0m", "path", "src/a.js"),
        (r"\u001b[1msrc/a.js\u001b[0m", "path", "src/a.js"),
        (r'{"code": "import x\nfrom_here = 1"}', "identifier", "from_here"),
        ("in a column `due_epoch_day`", "identifier", "due_epoch_day"),
        ("class ApiError extends Error", "identifier", "ApiError"),
        ("call Buffer.byteLength here", "identifier", "Buffer.byteLength"),
        ("const PORT = 3", "identifier", "PORT"),
        ("def loc(self):", "identifier", "loc"),
        ("one helper, `mine()`", "identifier", "mine()"),
        ("DECK-61 comes after it", "identifier", "DECK-61"),
        ("install llvm-14-dev", "identifier", "llvm-14-dev"),
        ("pin 1.10.3.", "version", "1.10.3"),
        ("(1:14.0.0-1ubuntu1.1)", "version", "1:14.0.0-1ubuntu1.1"),
        ('"^2.4"', "version", "2.4"),
        ("Python 3.11 only", "version", "3.11"),
        ("port 4817.", "number", "4817"),
        ("Tokens: 31,921 sent", "number", "31,921"),
        ("lives 9 hours", "number", "9 hours"),
        ("const LIFE = '9h'", "number", "9h"),
        ("of shape (37, 1)", "number", "(37, 1)"),
        ("at 15:30 daily", "number", "15:30"),
        ("item 6 has to", "number", "item 6"),
        ("Commit a7b108a feat", "hash", "a7b108a"),
        ("id 2c88c385-751b-40af-8dc2-b7fb7e69fd20", "hash", "2c88c385-751b-40af-8dc2-b7fb7e69fd20"),
        ("see https://a.org/x?y=1#z).", "url", "https://a.org/x?y=1#z"),
        ("on 127.0.0.1:8080", "url", "127.0.0.1:8080"),
        ('says "Nothing here."', "quoted", "Nothing here."),
        (r'{"x": "say \"Nothing here\""}', "quoted", "Nothing here"),
        ("SyntaxError: Named export 'x' not found.", "error", "SyntaxError: Named export 'x' not found."),
        ("src/a.c:3:4: fatal error: no x.h", "error", "src/a.c:3:4: fatal error: no x.h"),
        ("E       assert 12 == 13", "error", "E       assert 12 == 13"),
        ("bash: foo: command not found", "error", "bash: foo: command not found"),
        ("\x1b[31mError: could not load\x1b[0m", "error", "Error: could not load"),
        ("$ npm test\nok", "command", "npm test"),
        (r'{"command": "cd a && ls\nmake"}', "command", "make"),
        ('"cmd": ["bash", "-lc", "rg foo"]', "command", "rg foo"),
        ("<parameter=command>\ngit reset --hard\n</parameter>", "command", "git reset --hard"),
        ("```bash\npip install x\n```", "command", "pip install x"),
    ],
)
def test_literals_of_every_kind_are_found(text, kind, literal):
    assert (kind, literal) in found(text)


def test_ordinary_prose_has_almost_no_atoms():
    assert len(extract_facts(PROSE, Role.ASSISTANT)) <= 1


@pytest.mark.parametrize(
    "text", ["one of 7", "<|im_start|>user\nhi", "and/or", "e.g. i.e.", "</div>", "it's his 'n hers"]
)
def test_what_is_no_atom(text):
    assert found(text) == []


def test_line_numbers_of_a_listing_are_left_out_and_those_of_hits_are_kept():
    listing = "".join(f"{n:6d}\t\n" for n in range(98, 112))
    assert found(listing) == []
    assert ("number", "1220") in found("1220:class A(B):\n1400:class C(D):\n")


def test_only_a_user_gives_instructions():
    text = "Do not touch migrations/. Please keep it small. It rains. Did you never ask?"
    assert [pair for pair in found(text, Role.USER) if pair[0] != "path"] == [
        ("prohibition", "Do not touch migrations/."),
        ("instruction", "Please keep it small."),
    ]
    assert {kind for kind, _ in found(text, Role.TOOL)} == {"path"}


def rules(text):
    return [text for kind, text in found(text, Role.USER) if kind in ("prohibition", "instruction")]


@pytest.mark.parametrize(
    "text",
    [
        "Budget cap is $500. Never exceed without explicit approval.",
        "The API key is in .env. Do not commit.",
        "These files are generated. Please don't edit them, ever.",
        "The staging database is shared. Always keep it. Thanks.",
    ],
)
def test_a_rule_that_does_not_say_what_it_is_about_takes_the_sentence_before_it_along(text):
    assert rules(f"It rains today. {text}") == [text.removesuffix(" Thanks.")]


def test_on_another_line_the_sentence_before_is_a_rule_of_its_own():
    assert rules("Facts of today:\n\n- Budget cap is $500.\n- Never exceed.") == [
        "Budget cap is $500.",
        "Never exceed.",
    ]
    long = f"Budget {'and ' * 293} cap is $500."
    assert rules(f"{long} Never exceed.") == [long, "Never exceed."]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The budget is $500. Never exceed the cap.", "Never exceed the cap."),
        ("The key is in .env.\n\nNever commit it.", "Never commit it."),
        ("Thanks! Never commit it.", "Never commit it."),
        ("```\nx is a key\n```\nNever commit it.", "Never commit it."),
        ("The code is old. Always ask before a merge.", "Always ask before a merge."),
    ],
)
def test_a_rule_with_an_object_or_without_a_sentence_beside_it_stands_alone(text, rule):
    assert rules(text) == [rule]


def test_a_rule_before_it_is_not_taken_along():
    assert rules("Keep the budget under $500. Never exceed.") == ["Keep the budget under $500.", "Never exceed."]


@pytest.mark.parametrize(
    "text",
    [
        "I prefer tabs.",
        "User prefers tabs over spaces.",
        "The user likes short commit messages.",
        "We always use pnpm.",
        "I'd rather have small commits.",
        "My strong preference is pytest.",
        "We really dislike mocks.",
        "Prefer composition over inheritance.",
    ],
)
def test_what_a_user_prefers_is_an_instruction(text):
    assert found(text, Role.USER) == [("instruction", text)]
    assert found(text, Role.TOOL) == []


@pytest.mark.parametrize(
    "text",
    [
        "The parser prefers the longest match.",
        "I would like to be able to set a default.",
        "It looks like a bug in the resolver.",
        "This is what users like me see.",
        "Never mind.",
    ],
)
def test_what_only_tells_is_no_instruction(text):
    assert rules(text) == []


def test_the_longest_narrow_atom_wins_and_wide_ones_hold_others():
    assert found("src/app.js:12") == [("path", "src/app.js:12")]
    assert found('"src/app.js"') == [("path", "src/app.js")]
    assert found("$ cat src/a.py 'two words'") == [
        ("command", "cat src/a.py 'two words'"),
        ("path", "src/a.py"),
        ("quoted", "two words"),
    ]


def test_a_script_ends_where_a_here_document_begins():
    text = '{"command": "mkdir a && cat > a/b.js <<\'E\'\\nlet x_y\\nE\\nls a"}'
    assert [text for kind, text in found(text) if kind == "command"] == ["mkdir a && cat > a/b.js <<'E'"]


def test_the_same_literal_twice_is_two_atoms():
    assert [atom.chars for atom in extract_facts("due_day, due_day")] == [(0, 7), (9, 16)]


PIECES = st.sampled_from(
    [
        *"ab1/\\.:'\"`$_-([{<#=@~ \n\t\x1b\x1e\udc80é😀",
        "\\n",
        '\\"',
        "src/a.py",
        "Error: ",
        "$ ",
        "```bash\n",
        "1.2",
        "do not ",
    ]
)


@given(st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=80).map("".join)), st.sampled_from([None, *Role]))
def test_atoms_of_any_text_are_exact_ordered_and_nest_by_the_rule(text, speaker):
    everything = extract_facts(text, speaker)
    assert [a.chars[0] for a in everything] == sorted(a.chars[0] for a in everything)
    for atom in everything:
        assert atom.text == text[slice(*atom.chars)] != ""
    for one, two in itertools.pairwise(a for a in everything if a.kind in NARROW):
        assert one.chars[1] <= two.chars[0]
    assert len({a.chars for a in everything}) == len(everything)


@pytest.mark.parametrize(
    "unit", ["a", "é", "/", ".", "-", "1", " ", "'", '"', "`", "\\", "\x1b", "\udc80", "../../", "a.", "a_"]
)
@pytest.mark.parametrize("end", ["", "!"])
def test_long_runs_are_no_atoms_and_are_passed_over(unit, end):
    assert extract_facts(unit * (200_000 // len(unit)) + end, Role.USER) == ()


@pytest.mark.parametrize(
    "unit",
    [
        "'a",
        '"a',
        "a::b[",
        "(1,",
        "a-1",
        "\\n",
        '\\"',
        "Error: ",
        '"command": "',
        "<parameter=command>",
        "a@",
        "E  x\n",
        "12\t\n",
    ],
)
def test_repeated_openings_are_searched_in_linear_time(unit):
    extract_facts((unit * 200_000)[:200_000], Role.USER)  # with a quadratic pattern this takes minutes


def session(code: str) -> Transcript:
    return Transcript(
        (
            Turn(Role.SYSTEM, "You edit code."),
            Turn(Role.USER, f"Never touch {code}. Where is the port?"),
            Turn(Role.ASSISTANT, "Reading.", "It is in a file.", (ToolCall("c1", "run", '{"command": "cat app.py"}'),)),
            Turn(Role.TOOL, f"PORT = 8123\n€€ {code} 😀 src/ünï.py:12 日本語/ф.md\n", call_id="c1"),
        )
    )


def test_located_atoms_are_held_by_their_tokens(tokenizer_with):
    tokenizer = tokenizer_with()
    rendered = render(session("due_day"), tokenizer)
    located = locate_facts(rendered.blocks, tokenizer)
    for place in located:
        first, last = place.tokens
        start, stop = rendered.offsets[first], [*rendered.offsets, len(rendered.text)][last]
        assert place.fact.text in rendered.text[start : max(stop, start + 1)]
        assert place.fact.text in tokenizer.decode(rendered.ids[first:last])
        if first + 1 < last:
            assert place.fact.text not in tokenizer.decode(rendered.ids[first + 1 : last])
            assert place.fact.text not in tokenizer.decode(rendered.ids[first : last - 1])
    got = {(place.turn, place.fact.kind.value, place.fact.text) for place in located}
    assert {
        (1, "prohibition", "Never touch due_day."),
        (2, "command", "cat app.py"),
        (3, "number", "8123"),
        (3, "identifier", "due_day"),
        (3, "path", "src/ünï.py:12"),
        (3, "path", "日本語/ф.md"),
    } <= got


def test_atoms_of_blocks_cut_out_of_a_session_keep_their_tokens(tokenizer_with):
    tokenizer = tokenizer_with()
    blocks = render(session("due_day"), tokenizer).blocks
    assert locate_facts(blocks[2:], tokenizer) == tuple(p for p in locate_facts(blocks, tokenizer) if p.turn >= 2)
    assert locate_facts((), tokenizer) == ()


@given(st.text(max_size=60), st.integers(0, 30), st.integers(0, 30))
def test_tokens_give_back_their_text_wherever_they_are_cut(tokenizer_with, text, skip, drop):
    tokenizer = tokenizer_with()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = TokenDecoder(tokenizer).decode(ids)
    assert whole.text == text
    assert whole.ends[-1:] in ([], [len(text)])
    part = TokenDecoder(tokenizer).decode(ids[skip : len(ids) - drop])
    assert part.text.strip("\ufffd") in text
    assert all(0 <= a <= b <= len(part.text) for a, b in zip(part.starts, part.ends, strict=True))


def test_a_block_cut_within_a_character_is_searched(tokenizer_with):
    tokenizer = tokenizer_with()
    ids = tuple(tokenizer("😀 due_day 😀", add_special_tokens=False)["input_ids"])
    block = Block(ids[1:-1], Origin(4, Kind.OBSERVATION, (0, 9), (100, 98 + len(ids))))
    (place,) = locate_facts([block], tokenizer)
    inside = [token - 99 for token in range(*place.tokens)]
    assert (place.turn, tokenizer.decode([ids[n] for n in inside])) == (4, "due_day")


def test_word_piece_and_byte_fallback_names_are_read():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "▁a", "a", "▁due_day", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=[], unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    ids = [4 + byte for byte in "€".encode()] + [3]
    assert TokenDecoder(tokenizer).decode(ids) == ("€ due_day", [0, 0, 0, 1], [1, 1, 1, 9])
    assert re.fullmatch("\ufffd+ due_day", TokenDecoder(tokenizer).decode(ids[1:]).text)
