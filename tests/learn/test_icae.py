"""ICAE from training to use: one encoder for both, one set of weights, padding that changes nothing."""

from dataclasses import replace

import pytest
import torch

from conftest import FAMILIES
from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan
from holdfast.context.segments import SoftSegment
from holdfast.errors import BadInput, BadOption, UnsupportedModel
from holdfast.learn.corpus import Corpus, Question, read_corpus
from holdfast.learn.icae import Steps, question_rows, step_rows
from holdfast.learn.kinds import Recipe, build_setup
from holdfast.learn.loop import Training
from holdfast.learn.pieces import CompressedText, Mark, Omit, Text, Verbatim, assemble, predicting_states
from holdfast.learn.reconstruct import continue_rows, exact_match, f1, log_likelihood
from holdfast.learn.run import run_training
from holdfast.learn.soft import SoftObjective
from holdfast.methods.memory_tokens import Icae, IcaeRecipe, read_batch, split_evenly
from holdfast.methods.registry import build
from holdfast.model.adapter import Lora, add_adapter
from holdfast.model.forward import embed
from holdfast.model.rope import place_slots
from holdfast.vllm.completions import RemoteEngine
from tolerance import PASS, close

RECIPE = Recipe(memory=4, ratio=4, rank=4, alpha=8, dropout=0.0)
TRAINING = Training(steps=3, batch=4, save_every=2, rate=1e-2)


@pytest.fixture
def model(tiny):
    return tiny("llama").model


def encoder(model, **changes):
    """An encoder whose adapter does something."""
    made = Icae(model, replace(IcaeRecipe(memory=4, ratio=4, rank=4, alpha=8, dropout=0.0), **changes))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for name, weight in made.parameters().items():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return made


def ids(n, seed=0):
    return tuple(torch.randint(3, 300, (n,), generator=torch.Generator().manual_seed(seed)).tolist())


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "words.txt"
    path.write_text("the function read the file in order. " * 60)
    return path


@pytest.fixture(scope="module")
def trained(tiny, corpus_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "icae"
    run_training(RECIPE, TRAINING, tiny("llama").model, [corpus_file], folder)
    return folder


def test_a_trained_encoder_is_loaded_as_a_method(trained, tiny, session):
    pair = tiny("llama")
    made = compact(session, pair.engine, Plan(latent=f"icae:weights={trained}", ratio=4))
    soft = [segment for segment in made.segments if isinstance(segment, SoftSegment)]
    assert soft
    assert all(len(segment) <= sum(o.tokens[1] - o.tokens[0] for o in segment.origins) / 4 for segment in soft)
    prefix = RemoteEngine("http://127.0.0.1/v1", "tiny", pair.model).open(made, renumber=True)
    assert len(prefix.embeds) == sum(map(len, made.segments))  # what vLLM takes as prompt embeddings
    untrained = compact(session, pair.engine, Plan(latent="icae_untrained", ratio=4))
    assert [len(s) for s in untrained.segments] == [len(s) for s in made.segments]
    with pytest.raises(BadOption, match="not for this model"):
        compact(session, tiny("qwen2").engine, Plan(latent=f"icae:weights={trained}", ratio=4))
    with pytest.raises(BadOption, match="weights=FOLDER"):
        build("icae")


def test_training_lowers_the_loss_and_leaves_the_model_as_it_was(tiny, corpus_file, tmp_path):
    model = tiny("llama").model
    before = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    run_training(replace(RECIPE, reconstruct=1.0), replace(TRAINING, steps=12), model, [corpus_file], tmp_path / "run")
    rows = [line.split('"loss": ')[1] for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    first, last = float(rows[0].split(",")[0]), float(rows[-1].split(",")[0])
    assert last < first
    assert all(torch.equal(weight, before[name]) for name, weight in model.hf.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_twin_shares_every_weight_and_begins_as_the_model(tiny, family):
    model = tiny(family).model
    twin = add_adapter(model, Lora(rank=2))
    held = {p.data_ptr() for p in model.hf.parameters()}
    assert all(p.data_ptr() in held for n, p in twin.hf.named_parameters() if "lora_" not in n)
    inputs, places = embed(model, torch.tensor([ids(9)])), torch.arange(9.0)[None]
    with torch.no_grad():
        assert torch.equal(read_batch(twin, inputs, places), read_batch(model, inputs, places))


def test_a_model_without_such_projections_is_refused(model):
    twin = add_adapter(model, Lora(rank=2))  # its projections are no longer plain matrices
    with pytest.raises(UnsupportedModel, match="none of the projections"):
        add_adapter(twin, Lora(rank=2))


@pytest.mark.parametrize("epl", [True, False])
def test_a_batch_equals_its_rows_one_by_one(model, epl):
    made = encoder(model, epl=epl)
    rows = [
        (CompressedText(ids(16)), Mark("ae"), Text((*ids(16), 2), True)),
        (CompressedText(ids(41, 1)), Mark("lm"), Text(ids(8, 2)), Text(ids(5, 3), True)),
        (
            Text(ids(3, 4)),
            CompressedText(ids(5, 5)),
            Text(ids(2, 6)),
            CompressedText(ids(23, 7)),
            Text(ids(4, 8), True),
        ),
    ]
    objective = SoftObjective(model, made, model, distil=0.5)

    def grads(batches):
        total = 0.0
        for batch in batches:
            loss = objective.loss(batch)
            loss.total.backward()
            total += loss.total.detach()
        found = {n: p.grad.clone() for n, p in made.parameters().items() if p.grad is not None}
        for p in made.parameters().values():
            p.grad = None
        return total, found

    one, all_at_once = grads([[row] for row in rows]), grads([rows])
    assert close(all_at_once[0], one[0], PASS * 8)
    assert all(close(g, one[1][n], PASS * 64) for n, g in all_at_once[1].items())
    recomputing = replace(objective, recompute=True)
    objective = recomputing
    assert all(torch.equal(g, all_at_once[1][n]) for n, g in grads([rows])[1].items())


def test_memory_tokens_stand_where_what_they_replace_stood(model):
    assert place_slots(0, 15, 4).tolist() == [2, 6, 10, 14]  # round(1.5), round(5.5), … to even
    (memory,) = encoder(model).encode([torch.tensor(ids(40))])  # segments of 14, 13 and 13 tokens
    assert (len(memory.vectors), memory.advance) == (12, 40)
    assert memory.positions.tolist() == sorted(memory.positions.tolist())
    assert memory.positions[0] >= 0
    assert memory.positions[-1] < 40
    (plain,) = encoder(model, epl=False).encode([torch.tensor(ids(40))])
    assert (plain.positions.tolist(), plain.advance) == (list(range(12)), 12)
    assert [len(part) for part in split_evenly(torch.arange(40), 16)] == [14, 13, 13]


def test_text_through_the_pieces_is_what_the_model_reads(model):
    rows = [(Text(ids(6)), CompressedText(ids(9, 1)), Text(ids(5, 2), True))]
    hidden, targets = predicting_states(assemble(rows, Verbatim(model), model), model)
    whole = embed(model, torch.tensor([[*ids(6), *ids(9, 1), *ids(5, 2)]]))
    want = read_batch(model, whole, torch.arange(1.0, 21.0)[None])[0, 14:19]
    assert targets.tolist() == list(ids(5, 2))
    assert torch.equal(hidden, want)
    left_out = assemble(rows, Omit(model), model)
    assert left_out.inputs.shape[1] == 11


def test_greedy_decoding_agrees_with_what_is_scored(model):
    made = encoder(model)
    row = (Text(ids(3)), CompressedText(ids(20)), Mark("ft"))
    (said,) = continue_rows([row], made, model, 5, stop=-1)
    (first, _) = continue_rows([row, (CompressedText(ids(7)), Mark("ft"))], made, model, 5, stop=-1)
    assert first == said
    best = log_likelihood([(*row, Text(tuple(said[:1]), True))], made, model)
    assert all(best >= log_likelihood([(*row, Text((n,), True))], made, model) for n in range(3, 300, 37))


def test_memories_beyond_the_credit_get_no_gradient(model):
    made = encoder(model, gain=False)
    made.marks = None  # steps of sessions have none

    def grad(*learn):
        row = (
            CompressedText(ids(9), learn[0]),
            Text(ids(3, 1)),
            CompressedText(ids(9, 2), learn[1]),
            Text(ids(4, 3), True),
        )
        loss = SoftObjective(model, made, model).loss([row])
        found = torch.autograd.grad(loss.total, made.memory)[0]
        return loss.total.detach(), found

    (loss, both), (same, newest) = grad(True, True), grad(False, True)
    assert torch.equal(loss, same)
    assert not torch.equal(both, newest)


def test_steps_of_a_session_score_actions_behind_long_observations(tiny, session):
    from holdfast.blocks.render import render

    rendered = render(session, tiny("llama").model.tokenizer)
    rows = step_rows([rendered], Steps(long=20, window=4000))
    scored = [piece for row in rows for piece in row if isinstance(piece, Text) and piece.scored]
    actions = [b.ids for b in rendered.blocks if b.kind == "action"]
    assert {piece.ids for piece in scored} <= set(actions)
    newest = [
        [p.learn for p in row if isinstance(p, CompressedText)] for row in step_rows([rendered], Steps(1, long=20))
    ]
    assert all(flags[-1] and sum(flags) == 1 for flags in newest)
    both = step_rows([rendered], Steps(prefix="cumulative", long=20))
    assert all(sum(map(len, map(ids_of, b))) > sum(map(len, map(ids_of, a))) for a, b in zip(rows, both, strict=False))
    with pytest.raises(BadInput, match="no session has an action behind"):
        step_rows([rendered], Steps(long=5000))


def ids_of(piece):
    return piece.ids


def test_questions_score_their_answer(model):
    asked = Corpus((), questions=(Question("the port is in a file", "where?", ("a file",)),))
    (row,) = question_rows(asked, model.tokenizer, 2)
    assert isinstance(row[0], CompressedText)
    assert row[-1].ids[-1] == 2
    assert exact_match("A  File!", ["the file"]) == 1
    assert f1("in a big file", ["the file"]) == pytest.approx(2 * 1 / 4)


def test_data_that_cannot_be_trained_on_are_refused(tiny, tmp_path):
    model = tiny("llama").model
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("the file")
    (tmp_path / "odd.json").write_text('{"a": 1}')
    with pytest.raises(BadInput, match="nothing to train on"):
        read_corpus([tmp_path / "empty.txt"], model.tokenizer)
    with pytest.raises(BadInput, match="no session"):
        read_corpus([tmp_path / "odd.json"], model.tokenizer)
    with pytest.raises(BadInput, match="does not exist"):
        read_corpus([tmp_path / "none"], model.tokenizer)
    with pytest.raises(BadInput, match="no text has 88 tokens"):
        run_training(RECIPE, TRAINING, model, [tmp_path / "short.txt"], tmp_path / "run")
    with pytest.raises(BadOption, match="nothing to train is called"):
        Recipe(kind="magic")


def test_shapes_of_the_recipe_reach_the_encoder(model):
    recipe = replace(RECIPE, head=True, targets="all", gain=False)
    objective = build_setup(recipe, model, Corpus((ids(400),)), 0).objective
    names = set(objective.parameters())
    assert {"memory", "marks", "head.0.weight"} <= names
    assert "gain" not in names
    assert any("down_proj" in name for name in names)
