"""Rendering: the blocks are the whole template, cut by who said what."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import TemplateError

from holdfast.blocks import message_offsets, messages
from holdfast.blocks.block import Kind
from holdfast.blocks.messages import probe_abilities
from holdfast.blocks.render import question_ids, render
from holdfast.errors import BadInput
from holdfast.transcript.task import find_first_request
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM = (  # puts a system message in front where there is none
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
GEMMA = (  # trims, has no system role, and insists that user and model alternate
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (  # headers, trims, the first message carries the begin of text
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = '<|bot|>' + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (  # the first generation: system text goes in front of the first user turn, strict alternation
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set system = '' %}{% set loop_messages = messages %}{% endif %}"
    "{{ '<s>' }}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('After the optional system message, conversation roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
QWEN3 = (  # tools, reasoning only after the last real question, an empty thought before a final answer
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0].role == 'system' %}"
    "{{- messages[0].content + '\n\n' }}"
    "{%- endif %}{{- '# Tools\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step_tool and message.role == 'user' and not(message.content.startswith('<tool_response>')"
    " and message.content.endswith('</tool_response>')) %}"
    "{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set thought = message.reasoning_content or '' %}"
    "{%- if loop.index0 > ns.last_query_index and (loop.last or thought) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + message.content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + message.content }}{%- endif %}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- if (loop.first and message.content) or not loop.first %}{{- '\n' }}{%- endif %}"
    "{{- '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
MISTRAL_TOOLS = (  # tools by id, user and plain assistant turns alternate, results do not count
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}"
    "{%- set ns = namespace(index=0) %}{%- for message in rest %}"
    "{%- if not (message.role == 'tool' or (message.tool_calls is defined and message.tool_calls)) %}"
    "{%- if (message.role == 'user') != (ns.index % 2 == 0) %}"
    "{{- raise_exception('conversation roles must alternate') }}{%- endif %}{%- set ns.index = ns.index + 1 %}"
    "{%- endif %}"
    "{%- endfor %}{{- '<s>' + system }}{%- for message in rest %}"
    "{%- if message.role == 'user' %}{{- '[INST] ' + message.content + '[/INST]' }}"
    "{%- elif message.role == 'tool' %}"
    "{{- '[TOOL_RESULTS] ' + message.tool_call_id + ': ' + message.content + '[/TOOL_RESULTS]' }}"
    "{%- else %}{{- ' ' + message.content }}{%- for call in message.tool_calls or [] %}"
    "{{- '[CALL] ' + (call.function | tojson) + call.id }}{%- endfor %}{{- '</s>' }}{%- endif %}{%- endfor %}"
)
SHAPES = {
    "chatml": CHATML,
    "smollm": SMOLLM,
    "gemma": GEMMA,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
    "mistral_tools": MISTRAL_TOOLS,
}
STRICT = ("gemma", "mistral", "mistral_tools")  # these refuse a session that the assistant opens

NASTY = (
    "",
    " ",
    "\n\n",
    " \t \n ",
    "a",
    "ok",
    "  indented\n    code\n",
    "the the the",
    "<|im_start|>user\nhello<|im_end|>\n",
    "<|im_end|>",
    "[INST] x [/INST]",
    "<start_of_turn>model\n",
    "<tool_response>\nx\n</tool_response>",
    "<think>\nhm\n</think>",
    "<function=bash>",
    "héllo wörld",
    "日本語のテスト",
    "👩‍👩‍👧 🏳️‍🌈 e\u0301",
    "\u2028\u00a0\ufeff",
    "system",
    "assistant",
    "{{ messages }} {% raise %}",
)
words = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=("Cs",)), max_size=20))


@pytest.fixture(scope="module")
def make(tokenizer_with):
    """`make(shape)`: the byte tokenizer with that template, made once."""
    made = {}

    def get(shape, **options):
        key = (shape, *options.items())
        if key not in made:
            made[key] = tokenizer_with((SHAPES | MORE)[shape], **options)
        return made[key]

    return get


@st.composite
def transcripts(draw):
    """Legal sessions: an optional system turn, a user turn, then user turns and answered calls in any order."""
    turns = [Turn(Role.SYSTEM, draw(words))] if draw(st.booleans()) else []
    turns.append(Turn(Role.USER, draw(words)))
    for n in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            turns.append(Turn(Role.USER, draw(words)))
            continue
        count = draw(st.integers(0, 2))
        arguments = st.sampled_from(['{"cmd": "ls -l"}', "{}", "not json", '{"n": 3, "code": "a = 1\\n"}', "[1]", ""])
        calls = tuple(ToolCall(f"c{n}x{i}", "run", draw(arguments)) for i in range(count))
        turns.append(Turn(Role.ASSISTANT, draw(words), reasoning=draw(words), calls=calls))
        turns += [Turn(Role.TOOL, draw(words), call_id=call.id) for call in calls]
    return Transcript(tuple(turns))


def check_cover(rendered, tokenizer):
    """The blocks are the whole text, once each, in order."""
    assert [i for block in rendered.blocks for i in block.ids] == list(rendered.ids)
    assert list(rendered.ids) == tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
    at_char, at_token = 0, 0
    for block in rendered.blocks:
        assert block.origin.tokens == (at_token, at_token + len(block))
        assert block.origin.chars[0] >= at_char
        assert block.origin.chars[0] <= block.origin.chars[1]
        at_char, at_token = block.origin.chars[1], at_token + len(block)
    assert at_char == len(rendered.text)
    turns = [block.origin.turn for block in rendered.blocks]
    assert turns == sorted(turns)


def check_kinds(rendered, transcript):
    first_user = find_first_request(transcript.turns)  # the first with words of the user's own
    for block in rendered.blocks:
        role = transcript.turns[block.origin.turn].role
        allowed = {
            Role.SYSTEM: {Kind.SYSTEM},
            Role.USER: {Kind.TASK if block.origin.turn == first_user else Kind.USER},
            Role.ASSISTANT: {Kind.REASONING, Kind.ACTION},
            Role.TOOL: {Kind.OBSERVATION},
        }
        assert block.kind in allowed[role]


def check_texts(rendered, transcript):
    """What a turn says stands inside its own blocks; a token that spans an edge belongs to the block before."""
    for index, turn in enumerate(transcript.turns):
        blocks = [block for block in rendered.blocks if block.origin.turn == index]
        own = [block.origin.chars for block in blocks if block.kind is not Kind.REASONING]
        said = turn.text.strip()
        if said:
            assert own, f"turn {index} has no block"
            assert said in rendered.text[own[0][0] : own[-1][1]]


def check(transcript, tokenizer):
    rendered = render(transcript, tokenizer)
    check_cover(rendered, tokenizer)
    check_kinds(rendered, transcript)
    check_texts(rendered, transcript)
    return rendered


CALL = ToolCall("c0", "run", '{"cmd": "ls"}')
ANSWERED = (Turn(Role.ASSISTANT, "ok", reasoning="ok", calls=(CALL,)), Turn(Role.TOOL, "ok", call_id="c0"))
ACCIDENTS = {
    "reasoning that stands in the action": (Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "do it now", reasoning="it")),
    "past reasoning that stands in the action": (
        Turn(Role.USER, "q"),
        Turn(Role.ASSISTANT, "do it now", reasoning="it"),
        Turn(Role.USER, "more"),
    ),
    "past reasoning equal to the action": (Turn(Role.USER, "q"), *ANSWERED, Turn(Role.USER, "more")),
    "reasoning of spaces": (Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "a", reasoning=" \n ")),
    "a user who writes a tool response": (
        Turn(Role.USER, "q"),
        Turn(Role.ASSISTANT, "a", reasoning="r"),
        Turn(Role.USER, "<tool_response>\nx\n</tool_response>"),
        Turn(Role.ASSISTANT, "b", reasoning="s"),
    ),
    "nothing but empty turns": (Turn(Role.SYSTEM), Turn(Role.USER), Turn(Role.ASSISTANT), Turn(Role.USER)),
    "two assistant turns in a row": (Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "a"), Turn(Role.ASSISTANT, "b")),
    "two user turns in a row": (Turn(Role.USER, "one"), Turn(Role.USER, "two"), Turn(Role.ASSISTANT, "a")),
    "two system turns": (Turn(Role.SYSTEM, "one"), Turn(Role.SYSTEM, "two"), Turn(Role.USER, "q")),
    "every turn says the same": (Turn(Role.SYSTEM, "ok"), Turn(Role.USER, "ok"), *ANSWERED, Turn(Role.USER, "ok")),
}


@pytest.mark.parametrize("case", ACCIDENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_sessions_are_cut_by_who_said_what(make, shape, case):
    check(Transcript(ACCIDENTS[case]), make(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_system_turn_in_the_middle_is_rendered_or_refused_in_words(make, shape):
    transcript = Transcript((Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "a"), Turn(Role.SYSTEM, "note")))
    try:
        check(transcript, make(shape))
    except BadInput:
        assert shape in STRICT


@given(transcript=transcripts())
@example(transcript=Transcript((Turn(Role.USER, "👩‍👩‍👧"), Turn(Role.ASSISTANT, "👩"), Turn(Role.USER, "👧"))))
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_the_whole_template_cut_by_who_said_what(make, shape, transcript):
    check(transcript, make(shape))


@given(transcript=transcripts())
def test_a_tokenizer_whose_offsets_leave_out_spaces_is_cut_the_same_way(make, transcript):
    tokenizer = make("chatml", trim_offsets=True)
    check_cover(render(transcript, tokenizer), tokenizer)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_session_of_every_kind_is_cut_into_every_kind(make, shape, session):
    rendered = check(session, make(shape))
    kinds = [(b.origin.turn, b.kind) for b in rendered.blocks]
    assert (2, Kind.ACTION) in kinds
    assert {Kind.SYSTEM, Kind.TASK, Kind.USER, Kind.ACTION, Kind.OBSERVATION} <= {kind for _, kind in kinds}
    for call in (c for turn in session.turns for c in turn.calls):
        assert json.loads(call.arguments)["path"] in rendered.text
    assert "8123" in rendered.text


def test_reasoning_and_action_are_told_apart(make, session):
    rendered = render(session, make("chatml"))
    said = {b.kind: rendered.text[slice(*b.origin.chars)] for b in rendered.blocks if b.origin.turn == 2}
    assert "The port is in a file." in said[Kind.REASONING]
    assert "Reading." in said[Kind.ACTION]
    assert "The port is in a file." not in said[Kind.ACTION]


def test_a_template_that_drops_past_reasoning_gives_no_block_for_it(make, session):
    rendered = render(session, make("qwen3"))
    assert "The port is in a file." not in rendered.text
    assert not [b for b in rendered.blocks if b.kind is Kind.REASONING]


def test_with_a_template_that_only_appends_the_text_is_the_template_itself(make):
    turns = (Turn(Role.SYSTEM, "s"), Turn(Role.USER, " q "), Turn(Role.ASSISTANT, "a"), Turn(Role.USER, "r"))
    wires = [{"role": turn.role.value, "content": turn.text} for turn in turns]
    for shape in ("chatml", "smollm", "llama3", "mistral", "qwen3", "mistral_tools"):
        tokenizer = make(shape)
        assert render(Transcript(turns), tokenizer).text == tokenizer.apply_chat_template(wires, tokenize=False)


def test_a_block_begins_with_its_own_header(make, session):
    rendered = render(session, make("chatml"))
    for block in rendered.blocks:
        if block.kind not in (Kind.ACTION, Kind.REASONING):
            assert rendered.text[block.origin.chars[0] :].startswith("<|im_start|>")


@pytest.mark.parametrize(
    ("shape", "tools", "system", "repeats"),
    [
        ("chatml", False, True, True),
        ("gemma", False, False, False),
        ("llama3", False, True, True),
        ("mistral", False, True, False),
        ("qwen3", True, True, True),
        ("mistral_tools", True, True, False),
    ],
)
def test_what_a_template_can_express_is_found_by_trying(make, shape, tools, system, repeats):
    can = probe_abilities(make(shape))
    assert (can.tools, can.system, can.repeats) == (tools, system, repeats)


@pytest.mark.parametrize("shape", SHAPES)
def test_merged_turns_lose_no_call_and_no_result(make, shape):
    calls = [ToolCall(f"id{n}", f"tool{n}", f'{{"k": "argument{n}"}}') for n in range(4)]
    turns = (
        Turn(Role.USER, "go"),
        Turn(Role.ASSISTANT, "first", calls=(calls[0],)),
        Turn(Role.TOOL, "result0", call_id="id0"),
        Turn(Role.ASSISTANT, "second", calls=(calls[1], calls[2])),
        Turn(Role.TOOL, "result1", call_id="id1"),
        Turn(Role.TOOL, "result2", call_id="id2"),
        Turn(Role.ASSISTANT, "third"),
        Turn(Role.ASSISTANT, "fourth", calls=(calls[3],)),
        Turn(Role.TOOL, "result3", call_id="id3"),
    )
    text = check(Transcript(turns), make(shape)).text
    for n in range(4):
        assert f"tool{n}" in text
        assert f"argument{n}" in text
        assert f"result{n}" in text
    if shape == "mistral_tools":  # this one writes ids: each result keeps its own
        assert all(f"[TOOL_RESULTS] id{n}: result{n}" in text for n in range(4))


@pytest.mark.parametrize("shape", SHAPES)
def test_two_assistant_turns_keep_the_calls_of_both(make, shape):
    calls = [ToolCall(f"id{n}", f"tool{n}", "{}") for n in range(2)]
    turns = (
        Turn(Role.USER, "go"),
        Turn(Role.ASSISTANT, "first", calls=(calls[0],)),
        Turn(Role.ASSISTANT, "second", calls=(calls[1],)),
        Turn(Role.TOOL, "result0", call_id="id0"),
        Turn(Role.TOOL, "result1", call_id="id1"),
    )
    text = check(Transcript(turns), make(shape)).text
    assert "tool0" in text
    assert "tool1" in text


@pytest.mark.parametrize("shape", SHAPES)
def test_a_session_that_the_assistant_opens_is_rendered_or_refused_in_words(make, shape):
    transcript = Transcript((Turn(Role.SYSTEM, "s"), Turn(Role.ASSISTANT, "hello"), Turn(Role.USER, "q")))
    if shape in STRICT:
        with pytest.raises(BadInput):
            render(transcript, make(shape))
    else:
        check(transcript, make(shape))


def test_tool_definitions_are_given_to_a_template_that_shows_them(make, session):
    tools = [{"type": "function", "function": {"name": "read_file", "parameters": {}}}]
    with_tools = Transcript(session.turns, meta={"tools": tools})
    assert "# Tools" in check(with_tools, make("qwen3")).text
    assert render(with_tools, make("chatml")).text == render(session, make("chatml")).text


def test_a_tokenizer_without_a_template_is_refused(tokenizer_with, session):
    with pytest.raises(BadInput, match="no chat template"):
        render(session, tokenizer_with(None))


def test_an_empty_session_is_refused(make):
    with pytest.raises(BadInput, match="no turns"):
        render(Transcript(()), make("chatml"))


def test_a_characters_token_is_found(make, session):
    rendered = render(session, make("chatml"))
    at = rendered.text.index("8123")
    token = rendered.token_at(at)
    assert rendered.offsets[token] <= at < rendered.offsets[token + 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_question_is_one_more_user_turn_up_to_the_answer(make, shape):
    tokenizer = make(shape)
    before = [{"role": "user", "content": "first question"}, {"role": "assistant", "content": "first answer"}]
    wires = [*before, {"role": "user", "content": "what now?"}]
    whole = tokenizer.apply_chat_template(wires, tokenize=False, add_generation_prompt=True)
    asked = tokenizer.decode(question_ids(tokenizer, "what now?"))
    assert whole.endswith(asked)
    # nothing of the turns before it, be it only how the last answer is closed, but all of its own header
    rest = whole.removesuffix(asked)
    assert rest.rstrip().endswith(("first answer", "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "</s>"))
    assert "first answer" in rest
    if shape in ("chatml", "smollm", "qwen3"):
        assert asked == "<|im_start|>user\nwhat now?<|im_end|>\n<|im_start|>assistant\n"
    if shape == "gemma":
        assert asked == "<start_of_turn>user\nwhat now?<end_of_turn>\n<start_of_turn>model\n"


def test_a_questions_ids_follow_a_rendered_session_without_a_seam(make):
    tokenizer = make("chatml")
    turns = (Turn(Role.USER, "q"), Turn(Role.ASSISTANT, "a"))
    more = render(Transcript((*turns, Turn(Role.USER, "what now?"))), tokenizer).ids
    prompt = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert [*render(Transcript(turns), tokenizer).ids, *question_ids(tokenizer, "what now?")] == [*more, *prompt]


QWEN2 = (  # content only where there is any, results in a row share one header; reasoning is never shown
    "{%- for message in messages %}{%- if message.role == 'assistant' %}{{- '<|im_start|>assistant' }}"
    "{%- if message.content %}{{- '\n' + message.content }}{%- endif %}{%- for call in message.tool_calls or [] %}"
    "{{- '\n<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
)
MORE = {"qwen2": QWEN2}


class Counting:
    """A tokenizer that counts how often its template is applied."""

    def __init__(self, tokenizer):
        self.tokenizer, self.applied, self.chat_template = tokenizer, 0, tokenizer.chat_template

    def apply_chat_template(self, *args, **options):
        self.applied += 1
        return self.tokenizer.apply_chat_template(*args, **options)

    def __call__(self, *args, **options):
        return self.tokenizer(*args, **options)


def quick_and_reference(transcript, tokenizer):
    """Places of a session's messages by the quick path (None where it declines) and by the reference."""
    can = probe_abilities(tokenizer)
    apply = messages.applier(tokenizer, transcript if can.tools else None)
    wires = [message.wire for message in messages.chat_messages(transcript, can)]
    text = apply(wires)
    return message_offsets.quick_message_offsets(wires, text, apply), message_offsets.message_offsets(
        wires, text, apply
    )


@st.composite
def long_transcripts(draw):
    """Sessions whose rounds repeat, so that the quick path has something to predict."""
    system = (Turn(Role.SYSTEM, draw(words)),) if draw(st.booleans()) else ()
    rounds = [turn for _ in range(draw(st.integers(2, 4))) for turn in draw(transcripts()).turns]
    rounds = [turn for turn in rounds if turn.role is not Role.SYSTEM]
    return Transcript((*system, *rounds))


@given(transcript=st.one_of(long_transcripts(), transcripts()))
@pytest.mark.parametrize("shape", [*SHAPES, *MORE])
def test_the_quick_path_places_messages_where_the_reference_does(make, transcript, shape):
    try:
        quick, reference = quick_and_reference(transcript, make(shape))
    except TemplateError:  # strict ones refuse some orders: the session is then rendered in words
        return
    assert quick is None or quick == reference


def agent(turns):
    """A session of about `turns` turns: a question now and then, else a call and its result."""
    said = [Turn(Role.SYSTEM, "s"), Turn(Role.USER, "go")]
    for n in range((turns - 2) // 2):
        if n % 5 == 4:
            said += [Turn(Role.ASSISTANT, f"done {n}"), Turn(Role.USER, f"more {n}")]
        else:
            said.append(Turn(Role.ASSISTANT, "" if n % 2 else f"step {n}", calls=(ToolCall(f"c{n}", "run", "{}"),)))
            said.append(Turn(Role.TOOL, f"result {n}", call_id=f"c{n}"))
    return Transcript(tuple(said))


@pytest.mark.parametrize("shape", ["chatml", "smollm", "gemma", "llama3", "mistral", "qwen2"])
def test_a_template_that_only_appends_is_applied_no_oftener_for_a_longer_session(make, shape):
    applied = []
    for turns in (20, 60, 200):
        tokenizer = Counting(make(shape))
        render(agent(turns), tokenizer)
        applied.append(tokenizer.applied)
        assert quick_and_reference(agent(turns), make(shape))[0]
    assert max(applied) <= 64
    assert applied[2] <= applied[1]


def test_a_template_that_goes_back_on_what_it_wrote_is_left_to_the_reference(make):
    assert quick_and_reference(agent(60), make("qwen3"))[0] is None
