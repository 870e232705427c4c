"""Every family: what Holdfast computes over a context is what the plain model computes over the text."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast.context.segments import CompactContext, token_segment
from holdfast.context.surgery import keep_pairs, shift_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput
from tolerance import PASS, close

LENGTH = 40  # five windows of the sliding layers


def plain_logits(pair, ids, positions=None):
    at = None if positions is None else positions[None]
    with torch.no_grad():
        return pair.plain(ids[None], position_ids=at).logits[0]


def captured(pair, ids, start=0):
    """Everything of `ids` as one state segment, and the memory that it came from."""
    past = KVContext(pair.model)
    past.next_position = start
    after, states = pair.engine.capture(past, ids)
    return keep_pairs(states, [None] * len(states.keys)), after


def as_slots(pair, ids):
    """The same, with its heads marked ragged by a bias of zero, so that they stay packed slots."""
    segment, _ = captured(pair, ids)
    layers = tuple(type(s)(s.keys, s.values, s.positions, torch.zeros(len(s.keys)), s.lengths) for s in segment.layers)
    return type(segment)(layers, segment.origins)


def test_prefill_equals_the_plain_model(pair, ids):
    text = ids(LENGTH)
    assert close(pair.engine.next_logits(KVContext(pair.model), text.tolist()), plain_logits(pair, text), PASS)


@pytest.mark.parametrize("cuts", [(1,), (7, 8), (3, 17, 29)])
def test_prefill_in_pieces_equals_the_plain_model(pair, ids, cuts):
    from holdfast.model.forward import logits

    text, live = ids(LENGTH), KVContext(pair.model)
    with torch.no_grad():
        pieces = [live.feed(part) for part in torch.tensor_split(text, cuts)]
        assert close(logits(pair.model, torch.cat(pieces)), plain_logits(pair, text), PASS)
    assert live.next_position == LENGTH


@pytest.mark.parametrize("kept", [5, 30])
def test_capture_keep_all_and_reopen_equals_the_plain_model(pair, ids, kept):
    text = ids(LENGTH)
    segment, _ = captured(pair, text[:kept])
    live = pair.engine.open(CompactContext((segment,), kept))
    assert close(pair.engine.next_logits(live, text[kept:].tolist()), plain_logits(pair, text)[kept:], PASS)


@pytest.mark.parametrize("kept", [5, 30])
def test_packed_slots_equal_the_plain_model(pair, ids, kept):
    text = ids(LENGTH)
    live = pair.engine.open(CompactContext((as_slots(pair, text[:kept]),), kept))
    assert close(pair.engine.next_logits(live, text[kept:].tolist()), plain_logits(pair, text)[kept:], PASS)


def test_tokens_then_states_then_tokens_equals_the_plain_model(pair, ids):
    text, engine = ids(LENGTH), pair.engine
    past = engine.open(CompactContext((token_segment(text[:10], 0),), 10))
    _, states = engine.capture(past, text[10:25])
    middle = keep_pairs(states, [None] * len(states.keys))
    context = CompactContext((token_segment(text[:10], 0), middle, token_segment(text[25:30], 25)), 30)
    assert close(engine.next_logits(engine.open(context), text[30:].tolist()), plain_logits(pair, text)[30:], PASS)


def test_float64_stays_float64_on_the_stock_path(tiny, ids):
    pair, text = tiny("llama", dtype=torch.float64), ids(LENGTH)
    live = KVContext(pair.model)
    with torch.no_grad():
        hidden = torch.cat([live.feed(part) for part in text.split(13)])
        want = pair.plain.get_decoder()(text[None]).last_hidden_state[0]
    assert close(hidden, want, PASS)


def test_captured_states_do_not_depend_on_where_the_span_stood(pair, ids):
    here, _ = captured(pair, ids(20), start=0)
    there, _ = captured(pair, ids(20), start=500)
    for a, b in zip(here.layers, there.layers, strict=True):
        assert close(b.keys, a.keys, 2 * PASS)
        assert close(b.values, a.values, 2 * PASS)
        assert torch.equal(b.positions, a.positions + 500)


def test_a_splice_at_a_moved_position_equals_shifted_positions(pair, ids):
    text = ids(LENGTH)
    segment, _ = captured(pair, text[:25])
    live = pair.engine.open(CompactContext((shift_segment(segment, 300),), 325))
    got = pair.engine.next_logits(live, text[25:].tolist())
    assert close(got, plain_logits(pair, text, torch.arange(LENGTH) + 300)[25:], 2 * PASS)


def test_surprisal_is_the_plain_models_negative_log_probability(pair, ids):
    text = ids(30)
    past = pair.engine.open(CompactContext((token_segment(text[:10], 0),), 10))
    _, states = pair.engine.capture(past, text[10:])
    log_p = plain_logits(pair, text).log_softmax(-1)
    want = -log_p[9:-1].gather(-1, text[10:, None])[:, 0]
    assert close(states.surprisal, want, PASS)


def test_surprisal_of_a_first_token_is_the_mean_of_the_rest(pair, ids):
    _, states = pair.engine.capture(KVContext(pair.model), ids(10))
    assert close(states.surprisal[0], states.surprisal[1:].mean(), PASS)


def test_greedy_generation_equals_transformers_generate(pair, ids):
    text = ids(20)
    with torch.no_grad():
        whole = pair.plain.generate(
            text[None], attention_mask=torch.ones(1, 20, dtype=torch.long), max_new_tokens=24, do_sample=False
        )
    want = [t for t in whole[0, 20:].tolist() if t not in pair.engine.stop_ids]
    live = pair.engine.open(CompactContext((token_segment(text[:12], 0),), 12))
    assert list(pair.engine.generate(live, text[12:].tolist(), 24)) == want


@pytest.mark.parametrize("spliced", [False, True])
def test_batched_answers_equal_answers_one_by_one(pair, ids, spliced):
    context = ids(20)
    segment = as_slots(pair, context) if spliced else token_segment(context, 0)
    live = pair.engine.open(CompactContext((segment,), 20))
    prompts = [ids(n, seed=n).tolist() for n in (3, 11, 1, 6)]
    one_by_one = [list(pair.engine.generate(live, prompt, 12)) for prompt in prompts]
    assert pair.engine.answers(live, prompts, 12) == one_by_one


def test_batched_answers_over_no_context_equal_answers_one_by_one(pair, ids):
    live = KVContext(pair.model)
    prompts = [ids(n, seed=n).tolist() for n in (9, 4)]
    assert pair.engine.answers(live, prompts, 10) == [list(pair.engine.generate(live, p, 10)) for p in prompts]


def test_an_answer_ends_at_the_end_of_turn(tiny, ids):
    pair = tiny("llama")
    live = pair.engine.open(CompactContext((token_segment(ids(10), 0),), 10))
    free = list(pair.engine.generate(live, [5], 8))
    config = copy.copy(pair.model.hf.generation_config)
    try:
        pair.model.hf.generation_config.eos_token_id = [2, free[3]]
        stopped = free[: free.index(free[3])]
        assert list(pair.engine.generate(live, [5], 8)) == stopped
        assert pair.engine.answers(live, [[5]], 8) == [stopped]
    finally:
        pair.model.hf.generation_config = config


def test_scores_equal_teacher_forced_log_probabilities(pair, ids):
    context = ids(20)
    live = pair.engine.open(CompactContext((token_segment(context, 0),), 20))
    asked = [Continuation(tuple(ids(p, seed=p).tolist()), tuple(ids(t, seed=t).tolist())) for p, t in ((3, 5), (9, 2))]
    for got, c in zip(pair.engine.score(live, asked), asked, strict=True):
        row = torch.cat((context, torch.tensor(c.prompt + c.target)))
        log_p = plain_logits(pair, row).log_softmax(-1)
        n = len(c.target)
        want = log_p[-n - 1 : -1].gather(-1, row[-n:, None])[:, 0]
        assert close(got, want, PASS)


def test_sampling_repeats_with_its_seed_and_differs_with_another(pair, ids):
    live = pair.engine.open(CompactContext((token_segment(ids(10), 0),), 10))

    def sample(seed):
        return list(pair.engine.generate(live, [7, 8], 16, Sampling(temperature=1.5, top_p=0.95, seed=seed)))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_a_tiny_top_p_is_greedy(tiny, ids):
    pair = tiny("llama")
    live = pair.engine.open(CompactContext((token_segment(ids(10), 0),), 10))
    greedy = list(pair.engine.generate(live, [7, 8], 16))
    assert list(pair.engine.generate(live, [7, 8], 16, Sampling(temperature=1.0, top_p=1e-6, seed=3))) == greedy


def test_a_fork_does_not_disturb_its_origin(two, ids):
    live = two.engine.open(CompactContext((token_segment(ids(15), 0),), 15))
    before, size = two.engine.next_logits(live, [5, 6, 7]), live.nbytes
    twin, frozen = live.fork(), live.fork(frozen=True)
    with torch.no_grad():
        twin.feed(ids(9, seed=1))
        frozen.feed(ids(4, seed=2))
        twin.append(shift_segment(captured(two, ids(5, seed=3))[0], 40))
    assert (live.next_position, live.nbytes) == (15, size)
    assert torch.equal(two.engine.next_logits(live, [5, 6, 7]), before)


def test_a_rewind_returns_to_identical_logits(two, ids):
    live = two.engine.open(CompactContext((token_segment(ids(15), 0),), 15))
    before = two.engine.next_logits(live, [5, 6, 7])
    with torch.no_grad():
        live.feed(ids(4, seed=1))
        live.feed(ids(5, seed=2))
    live.rewind(9)
    assert live.next_position == 15
    assert torch.equal(two.engine.next_logits(live, [5, 6, 7]), before)


def test_after_a_rewind_to_nothing_a_batch_is_answered_as_before(two, ids):
    live, prompts = KVContext(two.model), [ids(4).tolist(), ids(6).tolist()]
    before = two.engine.answers(live, prompts, 6)
    with torch.no_grad():
        live.feed(ids(5))
    live.rewind(5)
    assert two.engine.answers(live, prompts, 6) == before


def test_after_a_rewind_to_nothing_states_can_be_spliced(two, ids):
    live, segment = KVContext(two.model), as_slots(two, ids(9))
    with torch.no_grad():
        live.feed(ids(5))
        live.rewind(5)
        live.append(segment)
    fresh = two.engine.open(CompactContext((segment,), 9))
    assert torch.equal(two.engine.next_logits(live, [5, 6]), two.engine.next_logits(fresh, [5, 6]))


def test_a_rewind_returns_over_a_gap_in_the_positions(tiny, ids):
    pair = tiny("llama")
    live = pair.engine.open(CompactContext((token_segment(ids(5), 0),), 90))
    with torch.no_grad():
        live.feed(ids(3))
    assert live.next_position == 93
    live.rewind(3)
    assert live.next_position == 90


@pytest.mark.parametrize("count", [-1, 6])
def test_a_rewind_beyond_what_was_fed_is_refused(tiny, ids, count):
    live = KVContext(tiny("llama").model)
    with torch.no_grad():
        live.feed(ids(5))
    with pytest.raises(BadInput, match="0 to 5"):
        live.rewind(count)
    assert live.next_position == 5


def broken_feeds():
    good, one = torch.tensor([5, 6, 7, 8]), torch.tensor([5])
    return {
        "a token outside the vocabulary": (torch.tensor([5, 100_000]), None),
        "a token below the vocabulary": (torch.tensor([5, -3]), None),
        "fewer positions than tokens": (good, torch.arange(20, 23)),
        "one position for many tokens": (good, torch.tensor([20])),
        "more positions than tokens": (good, torch.arange(20, 26)),
        "many positions for one token": (one, torch.arange(20, 23)),
        "no positions": (good, torch.empty(0)),
    }


@pytest.mark.parametrize("case", broken_feeds())
def test_a_failed_feed_leaves_the_memory_as_it_was(two, ids, case):
    live = two.engine.open(CompactContext((token_segment(ids(15), 0),), 15))
    before, size = two.engine.next_logits(live, [5, 6, 7]), live.nbytes
    bad, positions = broken_feeds()[case]
    with torch.no_grad(), pytest.raises(Exception):  # noqa: B017  (whatever torch says)
        live.feed(bad, positions=positions)
    assert (live.next_position, live.nbytes) == (15, size)
    assert torch.equal(two.engine.next_logits(live, [5, 6, 7]), before)


@pytest.mark.parametrize("case", broken_feeds())
def test_a_failed_first_feed_leaves_the_memory_empty(two, case):
    live = KVContext(two.model)
    bad, positions = broken_feeds()[case]
    with torch.no_grad(), pytest.raises(Exception):  # noqa: B017  (whatever torch says)
        live.feed(bad, positions=positions)
    assert (live.next_position, live.nbytes, live.last_hidden) == (0, 0, None)


def test_a_feed_that_its_observer_interrupts_leaves_the_memory_as_it_was(two, ids):
    live = two.engine.open(CompactContext((as_slots(two, ids(15)),), 15))
    before, size = two.engine.next_logits(live, [5, 6, 7]), live.nbytes

    def interrupt(layer, query, mass, key):
        if layer == 1:
            raise KeyboardInterrupt

    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        live.feed(ids(3), observer=interrupt)
    assert (live.next_position, live.nbytes) == (15, size)
    assert torch.equal(two.engine.next_logits(live, [5, 6, 7]), before)


@pytest.mark.parametrize("seen", [slice(0, 8), slice(3, 20), slice(15, 20)])
def test_a_narrowed_memory_is_one_in_which_the_rest_cannot_be_seen(tiny, ids, seen):
    """Against the plain model with a mask; what stays has been computed with everything in sight."""
    pair, text = tiny("llama"), ids(LENGTH)
    live = KVContext(pair.model)
    with torch.no_grad():
        live.feed(text[:30])
    before, size = pair.engine.next_logits(live, [5, 6, 7]), live.nbytes
    narrow = live.fork_narrowed(20, seen)
    assert (narrow.next_position, narrow.last_hidden) == (30, None)
    with pytest.raises(BadInput, match="0 to 0"):
        narrow.rewind(1)
    mask = torch.ones(LENGTH, LENGTH).tril().bool()
    hidden = torch.ones(20, dtype=torch.bool)
    hidden[seen] = False
    mask[30:, 10:30] &= ~hidden
    added = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~mask, -torch.inf)
    with torch.no_grad():
        want = pair.plain(text[None], attention_mask=added).logits[0, 30:]
    assert close(pair.engine.next_logits(narrow, text[30:].tolist()), want, PASS)
    assert narrow.nbytes == size * (10 + seen.stop - seen.start) // 30
    assert (live.nbytes, live.next_position) == (size, 30)
    assert torch.equal(pair.engine.next_logits(live, [5, 6, 7]), before)


def test_reading_nothing_changes_nothing(tiny, ids):
    live = KVContext(tiny("llama").model)
    with torch.no_grad():
        live.feed(ids(5))
        assert live.feed([]).shape == (0, 64)
    assert live.next_position == 5


def test_memory_reported_is_memory_held(two, ids):
    live = two.engine.open(CompactContext((as_slots(two, ids(12)), token_segment(ids(5), 12)), 17))
    held = 0
    for layer in live.cache.layers:
        held += sum(t.nbytes for t in (layer.keys, layer.values) if t is not None)
        held += sum(t.nbytes for t in (layer.slots.keys, layer.slots.values, layer.slots.bias) if t is not None)
    assert live.nbytes == held
