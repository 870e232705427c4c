"""The company of a compressor: projectors, means, fine-tuning without compression, deletion; the worth of a memory for
later actions."""

import json

import pytest
import torch

from conftest import small_session
from holdfast.blocks.render import render
from holdfast.errors import BadOption
from holdfast.learn.corpus import Corpus, Question
from holdfast.learn.credit import list_omissions, measure_omission
from holdfast.learn.icae import Steps
from holdfast.learn.kinds import Recipe, build_setup, load_decoder
from holdfast.learn.loop import Training
from holdfast.learn.pieces import CompressedText, Omit, Text, Verbatim
from holdfast.learn.reconstruct import answer_questions, bleu, log_likelihood, token_accuracy
from holdfast.learn.run import run_training
from holdfast.methods.token_groups import MEANS, MeanEncoder, Projector, ProjectorRecipe, load_projector
from tolerance import close, near

QUESTION = Question("the port of the server is 8123 in the file", "which port?", ("8123",))


@pytest.fixture
def model(tiny):
    return tiny("llama").model


def squad(tmp_path):
    path = tmp_path / "squad.json"
    asked = [{"question": f"which port {n}?", "answers": [{"text": "8123"}]} for n in range(4)]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": QUESTION.context, "qas": asked}]}]}))
    return path


@pytest.mark.parametrize("kind", ["projector", "lora", "full", "icae"])
def test_every_kind_learns_answers_and_is_loaded_as_it_was(model, kind, tmp_path):
    recipe = Recipe(kind, task="questions", memory=4, ratio=4, rank=2, dropout=0.0, width=16)
    training = Training(steps=6, batch=4, rate=1e-2)
    done = run_training(recipe, training, model, [squad(tmp_path)], tmp_path / "run")
    first, *_, last = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()
    ]
    assert last < first
    if kind in ("lora", "full"):
        decoder = load_decoder(done, model)
        setup = build_setup(recipe, model, Corpus((), questions=(QUESTION,)), 0)
        before, after = (log_likelihood(setup.rows, Verbatim(one), one) for one in (model, decoder))
        assert after > before
    else:
        with pytest.raises(BadOption, match="whose decoder is the model itself"):
            load_decoder(done, model)
    if kind == "projector":
        made = load_projector(tmp_path / "run", model)
        assert all(torch.equal(weight, done.weights()[name]) for name, weight in made.parameters().items())


@pytest.mark.parametrize("shape", ["linear", "mlp1", "mlp2", "bert"])
def test_every_projector_begins_at_the_mean_and_can_learn(model, shape):
    ids = torch.arange(10, 21)  # an odd number: the last one is a pair with itself
    made = Projector(model, ProjectorRecipe(shape, norm="pre", width=16, dropout=0.0))
    (memory,), (mean,) = made.encode([ids]), MeanEncoder(model, "hard").encode([ids])
    assert close(
        memory.vectors[:5], torch.stack([model.hf.get_input_embeddings()(p).mean(0) for p in ids[:10].view(5, 2)]), 4
    )
    assert memory.positions[:5].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert len(memory.vectors) == len(mean.vectors) == 6
    with torch.no_grad():
        made.gate.fill_(1.0)
    made.encode([ids])[0].vectors.square().sum().backward()
    assert all(weight.grad is not None for weight in made.parameters().values())
    words = Projector(model, ProjectorRecipe(shape, "post", vocabulary=True, width=16)).encode([ids])[0].vectors
    table = model.hf.get_input_embeddings().weight
    assert words.min() >= table.min()
    assert words.max() <= table.max()  # expected embeddings are means of embeddings


@pytest.mark.parametrize("kind", MEANS)
def test_means_halve_a_text_and_stand_between_their_tokens(model, kind):
    (memory,) = MeanEncoder(model, kind).encode([torch.arange(10, 18)])
    assert memory.vectors.shape == (4, 64)
    assert memory.positions.tolist() == [0.5, 2.5, 4.5, 6.5]
    assert torch.isfinite(memory.vectors).all()


def test_a_memory_is_worth_what_its_omission_costs(model):
    rendered = render(small_session(), model.tokenizer)
    found = list(list_omissions([rendered], Steps(long=20, window=4000), after=(1, 2)))
    assert {omission.after for omission in found} == {1, 2}
    for omission in found:
        assert len(omission.without) == len(omission.whole) - 1
        scored = [piece for piece in omission.without if isinstance(piece, Text) and piece.scored]
        assert [len(piece.ids) for piece in scored] == [omission.tokens]
    one = replace_memories(found[0].whole)
    text, nothing = Verbatim(model), Omit(model)
    gain = log_likelihood([found[0].whole], text, model) - log_likelihood([found[0].without], text, model)
    assert measure_omission(found[0], text, model) == near(gain / found[0].tokens)
    assert log_likelihood([one], text, model) == near(log_likelihood([found[0].whole], nothing, model))
    right, count = token_accuracy([found[0].whole], text, model)
    assert 0 <= right <= count == found[0].tokens


def replace_memories(row):
    return tuple(piece for piece in row if not isinstance(piece, CompressedText))


def test_answers_end_where_the_line_or_the_turn_ends(model):
    setup = build_setup(Recipe("lora", task="questions", rank=1), model, Corpus((), questions=(QUESTION,)), 0)
    (said,) = answer_questions(setup.rows, Verbatim(model), model, frozenset(range(100)), limit=6)
    assert "\n" not in said
    assert bleu(["the port of the server"], ["the port of the server"]) == near(1.0)
