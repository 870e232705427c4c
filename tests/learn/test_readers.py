"""Restore tokens and anchors: trained by what the session says next, loaded as methods, judged on other sessions."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from conftest import small_session
from counted_crates import crates, long_session
from holdfast.compaction.compact import compact, session_digest
from holdfast.compaction.plan import Plan
from holdfast.context.segments import StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadInput, BadOption, UnsupportedModel
from holdfast.eval.run import Run, measure
from holdfast.learn.corpus import Corpus, read_corpus
from holdfast.learn.kinds import Recipe, build_setup
from holdfast.learn.loop import Training, train
from holdfast.learn.run import run_training
from holdfast.learn.states import SpanRows
from holdfast.methods.state_readers import AnchorTokens, ReaderRecipe, RestoreTokens
from tolerance import PASS, close

RECIPES = {
    "restore": Recipe(
        "restore", memory=2, rank=2, alpha=4, window=64, later=20, past=10, ratios="4+6", select="informed"
    ),
    "anchors": Recipe("anchors", chunk=40, rank=2, alpha=4, window=64, later=20, past=10, ratios="4", dropout=0.0),
}
ABOUT = {"kind": "restore", "model": "tiny", "model_digest": "", "recipe": {}, "data": {}}


def stream(n=200, seed=0):
    return tuple(torch.randint(3, 300, (n,), generator=torch.Generator().manual_seed(seed)).tolist())


@pytest.mark.parametrize("kind", list(RECIPES))
def test_a_step_down_the_gradient_brings_the_next_words_nearer_to_the_full_contexts(tiny, kind):
    """Which also says that the gradient reaches every parameter through what the method really does."""
    setup = build_setup(replace(RECIPES[kind], dropout=0.0), tiny("llama").model, Corpus((stream(),)), 0)
    row = [setup.rows[0]]
    parameters = setup.objective.parameters()
    with torch.no_grad():
        for name, weight in parameters.items():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    loss = setup.objective.loss(row)
    loss.total.backward()
    assert loss.scored == 20
    idle = {name for name, weight in parameters.items() if weight.grad is None}
    assert all("layers.2.self_attn.q_proj" in name for name in idle)  # nothing reads what the last layer attends to
    reached = [weight for name, weight in parameters.items() if name not in idle]
    norms = [float(weight.grad.norm()) for weight in reached]
    assert all(norm > 0 for norm in norms)
    with torch.no_grad():
        square = sum(norm**2 for norm in norms)
        for weight in reached:
            weight.sub_(weight.grad * 0.01 * float(loss.total.detach()) / square)
    assert float(setup.objective.loss(row).total.detach()) < float(loss.total.detach())


@pytest.mark.parametrize("kind", list(RECIPES))
def test_what_was_trained_is_loaded_as_a_method(tiny, kind, tmp_path):
    pair = tiny("llama")
    (tmp_path / "words.txt").write_text("the function read the file in order. " * 20)
    training = Training(steps=2, batch=2, rate=1e-2)
    run_training(RECIPES[kind], training, pair.model, [tmp_path / "words.txt"], tmp_path / "run")
    options = ",select=informed" if kind == "restore" else ",choose=surprisal"
    session = small_session()
    made = compact(session, pair.engine, Plan(latent=f"{kind}:weights={tmp_path / 'run'}{options}", ratio=4))
    plain = compact(session, pair.engine, Plan(latent="informed", ratio=4))
    assert any(isinstance(segment, StateSegment) for segment in made.segments)
    assert made.evidence["bytes"] <= plain.evidence["bytes"]
    other = "anchors" if kind == "restore" else "restore"
    with pytest.raises(BadOption, match=f"holds a trained {kind}"):
        compact(session, pair.engine, Plan(latent=f"{other}:weights={tmp_path / 'run'}", ratio=4))


def test_an_anchor_sees_what_stands_behind_it_and_an_untrained_token_reads_the_whole(tiny):
    model = tiny("llama").model
    reader, ids = AnchorTokens(model, ReaderRecipe(chunk=40, rank=2)), torch.tensor(stream(30))
    changed = torch.cat((ids[:-1], ids[-1:] + 1))
    one, two = (reader.read(x, 7, torch.tensor([4, 20])) for x in (ids, changed))
    assert one[0].positions.tolist() == [11, 27]
    assert not close(one[0].keys[-1], two[0].keys[-1], PASS)
    memory = KVContext(model)
    memory.feed(ids)
    tokens = RestoreTokens(model, ReaderRecipe(memory=3, rank=2)).read(memory, 30)
    assert tokens.keys[0].shape[1] == 3
    assert 28 < float(tokens.positions.min()) < float(tokens.positions.max()) < 29
    assert memory.next_position == 30


def test_anchors_refuse_layers_that_slide(tiny):
    with pytest.raises(UnsupportedModel, match="attends to its last"):
        AnchorTokens(tiny("gemma3_text").model, ReaderRecipe())


def test_cuts_that_no_session_has_are_refused():
    with pytest.raises(BadInput, match="no session has 90 tokens"):
        SpanRows((stream(80),), 10, 60, 20, "8")
    with pytest.raises(BadOption, match="numbers joined by"):
        SpanRows((stream(),), 10, 60, 20, "8,16")


def test_a_method_is_not_judged_on_a_session_that_it_was_trained_on(tiny, tmp_path):
    pair, path = tiny("llama"), tmp_path / "s.json"
    path.write_text(json.dumps([{"role": t.role.value, "content": t.text} for t in long_session().turns]))
    corpus = read_corpus([path], pair.model.tokenizer)
    setup = build_setup(RECIPES["restore"], pair.model, corpus, 0)
    about = ABOUT | {"model_digest": pair.model.digest, "data": corpus.about(), "recipe": asdict(RECIPES["restore"])}
    done = train(setup.objective, setup.rows, Training(steps=1, batch=1), tmp_path / "run", about)
    assert done.sessions == {session_digest(corpus.sessions[0])}
    latent = f"restore:weights={tmp_path / 'run'},select=informed"
    run = Run((path,), (crates(3),), (latent,), (4.0,), window=400, answer_tokens=0, action_tokens=0, later=False)
    with pytest.raises(BadInput, match=r"was trained on s.json.* --allow-trained"):
        measure(run, pair.engine, tmp_path / "rows.jsonl", note=lambda _: None)
    assert measure(replace(run, allow_trained=True), pair.engine, tmp_path / "rows.jsonl", note=lambda _: None) == 3
