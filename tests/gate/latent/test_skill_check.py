"""The unrelated control: what a memory must leave alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from gated import gated, past_of, snapshot, unchanged, work_of
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.gate.latent.gate import Gate, measure_skills
from holdfast.gate.latent.skill_check import CONTROL, measure_skill
from tolerance import near


def test_every_question_and_answer_has_tokens(tiny):
    tokenizer = tiny("llama").model.tokenizer
    for asked, answer in CONTROL:
        assert tokenizer(asked)["input_ids"]
        assert tokenizer(answer)["input_ids"]


def test_the_control_is_what_the_plain_model_says(pair):
    live = past_of(pair.engine)
    before, tokenizer = snapshot(live), pair.model.tokenizer
    head = tokenizer("You edit code.", add_special_tokens=False)["input_ids"]
    want = []
    for asked, answer in CONTROL:
        prompt, target = (tokenizer(x, add_special_tokens=False)["input_ids"] for x in ("\n\n" + asked, answer))
        with torch.no_grad():
            logits = pair.plain(torch.tensor([[*head, *prompt, *target]])).logits[0, -len(target) - 1 : -1]
        want.append(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0])
    assert measure_skill(pair.engine, live) == near(float(torch.cat(want).mean()))
    assert unchanged(live, before)


def test_a_memory_that_took_over_is_seen(two):
    work = work_of(two.engine, "kvzip", 4)
    states = work.study.prefill.states
    whole = keep_pairs(states, [None] * len(states.keys))
    crammed = replace(whole, layers=tuple(replace(s, values=s.values * 100) for s in whole.layers))
    before = measure_skills(two.engine, work.prefill().after, work.build_memory((whole,)))
    after = measure_skills(two.engine, work.prefill().after, work.build_memory((crammed,)))
    assert before["full"] == near(before["compact"])
    assert before["full"] == after["full"]
    assert abs(after["compact"] - after["full"]) > 0.02


def test_the_control_stands_in_the_report_of_the_memory_that_was_kept(two):
    work = work_of(two.engine, "kvzip", 6)
    made, report = gated(Gate(), work)
    assert report.skills == measure_skills(two.engine, work.prefill().after, work.build_memory(made))
    assert all(x <= 0 for x in report.skills.values())


def test_an_empty_memory_has_skills(two):
    assert measure_skill(two.engine, KVContext(two.model)) < 0
