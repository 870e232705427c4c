"""Training: who sees whom, nothing leaks between packed samples, two stages on one loop, resumed to the same bits."""

import json

import pytest
import torch

from conftest import build_pair
from holdfast.errors import BadInput, BadOption
from holdfast.learn.loop import Training
from holdfast.mementos.cispo import advantages, cispo_loss
from holdfast.mementos.delimiters import Delimiters
from holdfast.mementos.export import MementoText
from holdfast.mementos.training import (
    MementoObjective,
    Stages,
    add_delimiters,
    encode_sample,
    judge_rows,
    pack_logits,
    pack_rows,
    train_stages,
)
from tolerance import PASS, close

MARKS = Delimiters()


def samples(count=6):
    bodies = [MARKS.frame(f"we add {n} and {n}, that is {2 * n}.", f"sum {2 * n}") for n in range(count)]
    return [
        MementoText(task_id=str(n), prompt="Add.", completion=f"<think>{b}{b}</think>{n}") for n, b in enumerate(bodies)
    ]


@pytest.fixture(scope="module")
def twin():
    return add_delimiters(build_pair("llama").engine.model, MARKS)


def rows(twin):
    return [encode_sample(sample, twin.tokenizer, MARKS, 400) for sample in samples()]


def test_a_delimiter_is_one_token_near_its_words_and_the_model_itself_is_untouched(twin):
    ids = twin.tokenizer("".join(MARKS.texts), add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    weight = twin.hf.get_input_embeddings().weight
    own = twin.tokenizer(" start begin block step", add_special_tokens=False)["input_ids"]
    assert (weight[ids[0]] - weight[own].mean(0)).abs().max() < weight[own].abs().max()
    assert build_pair("llama").engine.model.hf.get_input_embeddings().weight.requires_grad is False


def test_a_block_is_seen_up_to_its_mementos_end_and_not_beyond(twin):
    row = rows(twin)[0]
    mask = row.mask()
    first, second = row.spans
    assert mask[first.memento[1] - 1, first.block[0]]
    assert not mask[first.memento[1] :, slice(*first.block)].any()
    assert mask[second.block[0], slice(*first.memento)].all()
    assert not mask.triu(1).any()


@pytest.mark.parametrize("masked", [False, True])
def test_packed_samples_see_nothing_of_each_other(twin, masked):
    every = rows(twin)
    (pack,) = pack_rows(every[:3], 2000)
    together, at = pack_logits(twin, pack, masked), 0
    for row in pack:
        alone = pack_logits(twin, (row,), masked)
        assert close(together[at : at + len(row.ids)], alone, PASS)
        at += len(row.ids)
    assert max(sum(len(row.ids) for row in pack) for pack in pack_rows(every, 500)) <= 500


def test_every_token_of_the_completion_is_scored_and_no_other(twin):
    row = rows(twin)[0]
    loss = MementoObjective(twin, True).loss([(row,)])
    assert loss.scored == len(row.ids) - row.first


def test_two_stages_run_on_the_one_loop_and_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    model = build_pair("llama").engine.model

    def run(name, steps, *stages):
        training = Training(steps=steps, batch=1, rate=1e-3, save_every=2)
        return train_stages(model, samples(), tmp_path / name, training, Stages(stages, 300, 2))

    whole, done = run("a", 4, "full", "masked")
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == ["1-full", "2-masked"]
    log = (tmp_path / "a" / "2-masked" / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]
    assert done.step == 4
    straight, _ = run("b", 4, "full")
    run("c", 2, "full")
    again, _ = run("c", 4, "full")
    assert all(torch.equal(a, b) for a, b in zip(again.hf.parameters(), straight.hf.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(whole.hf.parameters(), straight.hf.parameters(), strict=True))
    told = judge_rows(whole, rows(whole)[:2])
    assert 0 < told["full"] != told["masked"] > 0
    with pytest.raises(BadOption, match="stages are of"):
        Stages(("half",))


def test_rows_that_hold_no_memento_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no row of 20 tokens .*--length"):
        train_stages(build_pair("llama").engine.model, samples(), tmp_path, Training(1), Stages(length=20))


def test_the_reinforcement_loss_clips_weights_and_keeps_every_gradient():
    now = torch.tensor([[-1.0, -0.1]], requires_grad=True)
    then, scored = torch.tensor([[-3.0, -0.1]]), torch.tensor([[True, True]])
    loss = cispo_loss(now, then, now.detach(), torch.tensor([1.0]), scored, kl=0.0)
    assert loss.item() == pytest.approx((1.2 * 1.0 + 1.0 * 0.1) / 2)
    (gradient,) = torch.autograd.grad(loss, now)
    assert gradient.tolist() == [pytest.approx([-0.6, -0.5])]
    assert cispo_loss(now, then, now.detach() - 1, torch.tensor([0.0]), scored).item() > 0
    told = advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert told.tolist() == [[1.0, -1.0], [0.0, 0.0]]
