"""The loop: what is resumed equals what was never interrupted, and nothing that goes wrong costs a checkpoint."""

import json
import os
import random
import resource
import signal
import socket
import warnings

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn

from holdfast.errors import BadInput, BadOption, Failed
from holdfast.learn.loop import Loss, Training, train
from holdfast.model.checkpoint import WEIGHTS, read_checkpoint, step_folders
from tolerance import close

ABOUT = {"kind": "line", "model": "none", "model_digest": "0", "recipe": {}, "data": {"digest": "d"}}
ROWS = [(x / 10, 3 * x / 10 - 1) for x in range(11)]  # 11 rows in batches of 4: epochs end within steps


class Line:
    """A line with noise and dropout, so that every generator matters."""

    def __init__(self, noise=0.1, bad_at=0):
        torch.manual_seed(7)
        self.layer, self.noise, self.calls, self.bad_at = nn.Linear(1, 1), noise, 0, bad_at

    def parameters(self):
        return dict(self.layer.named_parameters())

    def loss(self, rows):
        self.calls += 1
        x, y = torch.tensor(rows).T[:, :, None] if rows else torch.empty(2, 0, 1)
        draw = self.noise * (torch.randn(()) + random.random() + np.random.rand())
        error = (self.layer(x) - y + draw).square().sum()
        return Loss(error * (float("nan") if self.calls == self.bad_at else 1), len(rows), len(rows))


def settings(**changes):
    return Training(**({"steps": 9, "batch": 4, "accumulate": 2, "rate": 0.1, "save_every": 2, "warmup": 2} | changes))


def run(folder, line=None, **changes):
    random.seed(1)
    np.random.seed(1)
    return train(line or Line(), ROWS, settings(schedule="cosine", **changes), folder, ABOUT)


def losses(folder):
    return {row["step"]: row["loss"] for row in map(json.loads, (folder / "losses.jsonl").read_text().splitlines())}


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Failed, match="step 6: loss nan"):  # 2 batches a step
        run(tmp_path / "cut", Line(bad_at=11))
    assert read_checkpoint(tmp_path / "cut").step == 4
    random.seed(99)  # a new process begins elsewhere
    again = train(Line(), ROWS, settings(schedule="cosine"), tmp_path / "cut", ABOUT)
    assert again.step == whole.step == 9
    assert (again.folder / WEIGHTS).read_bytes() == (whole.folder / WEIGHTS).read_bytes()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [p.name for p in step_folders(tmp_path / "cut")] == ["step-00000008", "step-00000009"]


def test_a_finished_run_takes_no_further_step(tmp_path):
    before = run(tmp_path).weights()
    assert all(torch.equal(x, before[name]) for name, x in run(tmp_path).weights().items())
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 9


def test_accumulated_batches_weigh_every_scored_token_alike(tmp_path):
    """Batches of 2 + 2 rows and of 4 are the same step."""
    one = train(Line(0), ROWS, settings(steps=1, batch=4, accumulate=1), tmp_path / "one", ABOUT)
    two = train(Line(0), ROWS, settings(steps=1, batch=2, accumulate=2), tmp_path / "two", ABOUT)
    assert all(close(x, one.weights()[name], 16) for name, x in two.weights().items())


def test_a_damaged_checkpoint_is_passed_over_and_made_again(tmp_path):
    whole = run(tmp_path)
    before = whole.weights()
    cut = whole.folder / "state.pt"
    cut.write_bytes(cut.read_bytes()[:-7])
    with pytest.raises(BadOption, match="cut or was changed"):
        read_checkpoint(tmp_path).read("state.pt")
    assert all(torch.equal(x, before[name]) for name, x in run(tmp_path).weights().items())
    assert read_checkpoint(tmp_path).read("state.pt")


@pytest.mark.parametrize(
    ("changes", "about"), [({"rate": 0.2}, {}), ({}, {"data": {"digest": "other"}}), ({"seed": 1}, {})]
)
def test_another_recipe_is_refused_in_a_folder_that_holds_a_run(tmp_path, changes, about):
    run(tmp_path, steps=1)
    with pytest.raises(BadOption, match="holds a run whose"):
        train(Line(), ROWS, settings(steps=1, schedule="cosine", **changes), tmp_path, ABOUT | about)


def test_too_few_rows_and_nothing_to_train_are_refused(tmp_path):
    with pytest.raises(BadInput, match="3 rows do not fill a batch of 4"):
        train(Line(), ROWS[:3], settings(), tmp_path, ABOUT)
    line = Line()
    line.parameters = dict
    with pytest.raises(BadOption, match="nothing is trained"):
        train(line, ROWS, settings(), tmp_path, ABOUT)


def test_a_full_disk_keeps_the_checkpoints_that_are_whole(tmp_path):
    run(tmp_path, steps=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes that a file may have
        with pytest.raises(Failed, match=r"cannot write the checkpoint of step 4 .* the older ones are whole"):
            run(tmp_path, steps=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_checkpoint(tmp_path).step == 2
    assert run(tmp_path, steps=4).step == 4


class Interrupted(Line):
    def loss(self, rows):
        if self.calls == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(rows)


def test_ctrl_c_ends_the_step_and_saves_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(), ROWS, settings(save_every=3), tmp_path, ABOUT)
    assert read_checkpoint(tmp_path).step == 5  # it came within step 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def fork_worker(rank, port, folder):
    """Starts one of two processes of a run, which shares what is loaded here; returns its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fork has one thread of this process alone
        child = os.fork()
    if child:
        return child
    try:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        os.environ |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        PartialState._reset_state()
        train(Line(0), ROWS, settings(save_every=3), folder, ABOUT)
        os._exit(0)
    finally:
        os._exit(1)


def test_two_processes_do_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [fork_worker(rank, port, tmp_path / "two") for rank in range(2)]
    assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
    one = train(Line(0), ROWS, settings(save_every=3), tmp_path / "one", ABOUT)
    two = read_checkpoint(tmp_path / "two")
    assert two.step == one.step == 9
    assert all(close(x, one.weights()[name], 256) for name, x in two.weights().items())


def test_a_second_run_into_one_folder_is_refused(tmp_path):
    from holdfast.storage.files import Lines

    with Lines(tmp_path / "losses.jsonl") as other:
        other.lock()
        with pytest.raises(Failed, match="another holdfast is writing"):
            run(tmp_path)
