from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.catalogue import PlainCatalogue
from model.clicks import Sessions as ClickSessions
from model.companion import Companion, Mixing, histories_of
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.mixing import Mixer
from model.recommender import Forward, Played, Recommender
from model.transitions import Transitions
from model.vocabulary import Vocabulary

ITEMS, K = 150, 7
# Batches of another size multiply matrices in another order; states stay within one and float32 has 7 digits.
TOLERANCE = 1e-5
SHAPES = [
    GRU4RecSettings(embedding_size=8, hidden_sizes=(8,)),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(5, 6), feedforward_sizes=(8,), skip=False, item_bias=False),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(8,), item_input="separate", reset_gate="after"),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(6, 8), skip=False, item_input="one_hot", activation="elu"),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(8,), skip_weight=2.0, trace_decay=0.5),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(8,), cosine_scale=10.0),
]


def companion_of(items: int) -> Companion:
    offsets = np.arange(0, 201, 5)
    clicked = np.random.default_rng(5).integers(0, items, 200)
    transitions = Transitions(items)
    transitions.add(ClickSessions(items=clicked, offsets=offsets, start_ms=offsets[:-1], end_ms=offsets[:-1]))
    return Companion(transitions.neighbours(), Mixing())


def recommender_of(shape: GRU4RecSettings, items: int = ITEMS, *, with_companion: bool = False) -> Recommender:
    generator = torch.Generator().manual_seed(1)
    network = GRU4Rec.initialised(shape, items, generator)
    for tensor in network.parameters.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.5)
    companion = companion_of(items) if with_companion else None
    return Recommender(network, Vocabulary([str(row) for row in range(items)]), "v1", companion=companion)


RECOMMENDERS = [recommender_of(shape) for shape in SHAPES]
WITH_COMPANION = recommender_of(SHAPES[0], with_companion=True)
NAMES = ["one layer", "two layers", "separate tables", "one-hot", "trace", "cosine"]
recommenders = pytest.mark.parametrize("recommender", RECOMMENDERS, ids=NAMES)
all_recommenders = pytest.mark.parametrize("recommender", [*RECOMMENDERS, WITH_COMPANION], ids=[*NAMES, "companion"])


@dataclass
class Sessions:
    """S sessions as a worker keeps them between micro-batches."""

    states: NDArray[np.float32]
    last_rows: NDArray[np.int64]
    plays: list[list[int]]
    forwards: list[Forward] = field(default_factory=list)

    @staticmethod
    def new(recommender: Recommender, count: int) -> "Sessions":
        states = np.zeros((count, recommender.state_width), np.float32)
        return Sessions(states, np.full(count, -1), [[] for _ in range(count)])

    def apply(self, recommender: Recommender, clicks: list[tuple[int, int]]) -> None:
        slots, rows = columns(clicks)
        played = Played(histories_of(self.plays), np.ones(len(clicks), np.bool_))
        forward = recommender.forward(self.states, self.last_rows, slots, rows, K, played=played)
        self.forwards.append(forward)
        self.states = forward.states
        for slot, row in clicks:
            self.plays[slot].append(row)
            if row >= 0:
                self.last_rows[slot] = row

    def answers(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
        return (
            np.concatenate([forward.top_rows for forward in self.forwards]),
            np.concatenate([forward.scores for forward in self.forwards]),
            np.concatenate([forward.known for forward in self.forwards]),
        )


def columns(clicks: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = np.array(clicks, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


# Four sessions, so that most come several times in a batch, and every fourth item or so unknown.
click_lists = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, ITEMS - 1) | st.integers(-60, -1).map(lambda _: -1)),
    min_size=1,
    max_size=24,
)


@all_recommenders
@given(clicks=click_lists, cuts=st.sets(st.integers(0, 24)))
def test_any_cut_into_batches_gives_the_answers_and_states_of_one_click_at_a_time(
    recommender: Recommender, clicks: list[tuple[int, int]], cuts: set[int]
) -> None:
    one_by_one, in_batches = (Sessions.new(recommender, 4) for _ in range(2))
    for click in clicks:
        one_by_one.apply(recommender, [click])
    bounds = [0, *sorted(cut for cut in cuts if cut < len(clicks)), len(clicks)]
    for start, stop in pairwise(bounds):
        in_batches.apply(recommender, clicks[start:stop])
    np.testing.assert_allclose(in_batches.states, one_by_one.states, rtol=0, atol=TOLERANCE)
    _, expected_scores, expected_known = one_by_one.answers()
    _, scores, known = in_batches.answers()
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=10 * TOLERANCE)
    assert known.tolist() == expected_known.tolist()


@recommenders
def test_one_click_gives_the_state_and_the_best_scores_of_the_network(recommender: Recommender) -> None:
    network = recommender._network
    state = np.random.default_rng(1).standard_normal((1, recommender.state_width)).astype(np.float32)
    x = network.inputs(torch.tensor([9]))
    expected_state = network.advance(x, torch.from_numpy(state))
    expected = torch.topk(network.activated(network.score_all(network.query(expected_state, x))), K)

    forward = recommender.forward(state, np.array([3]), np.array([0]), np.array([9]), K)
    np.testing.assert_allclose(forward.states, expected_state.numpy(), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(forward.scores, expected.values.numpy(), rtol=0, atol=TOLERANCE)
    assert forward.top_rows.tolist() == expected.indices.tolist()


@recommenders
def test_every_row_answered_has_the_score_beside_it(recommender: Recommender) -> None:
    network = recommender._network
    clicks = [(place % 40, int(row)) for place, row in enumerate(np.random.default_rng(2).integers(0, ITEMS, 100))]
    sessions = Sessions.new(recommender, 40)
    sessions.apply(recommender, clicks)
    rows, scores, _ = sessions.answers()
    # The last click of each session is answered from the state that is returned.
    last = {slot: place for place, (slot, _) in enumerate(clicks)}
    x = network.inputs(torch.from_numpy(sessions.last_rows))
    all_scores = network.activated(network.score_all(network.query(torch.from_numpy(sessions.states), x))).numpy()
    for slot, place in last.items():
        np.testing.assert_allclose(all_scores[slot, rows[place]], scores[place], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(np.sort(all_scores[slot])[-K:][::-1], scores[place], rtol=0, atol=TOLERANCE)


def test_with_a_companion_an_answer_is_the_mixture_for_the_session_up_to_that_click() -> None:
    network, companion = WITH_COMPANION._network, WITH_COMPANION.companion
    assert companion is not None
    clicks = [(place % 9, int(row)) for place, row in enumerate(np.random.default_rng(2).integers(-1, ITEMS, 60))]
    sessions = Sessions.new(WITH_COMPANION, 9)
    sessions.apply(WITH_COMPANION, clicks[:30])
    sessions.apply(WITH_COMPANION, clicks[30:])
    x = network.inputs(torch.from_numpy(sessions.last_rows))
    queries = network.query(torch.from_numpy(sessions.states), x)
    catalogue = PlainCatalogue(network.parameters["embedding"], network.parameters["item_bias"])
    best = catalogue.best(queries, K, companion.mixing.temper)
    histories = histories_of(sessions.plays)
    expected = Mixer(catalogue, companion).mix(best, queries.numpy(), histories)
    alone = Sessions.new(RECOMMENDERS[0], 9)
    alone.apply(RECOMMENDERS[0], clicks)
    for slot, place in {slot: place for place, (slot, _) in enumerate(clicks)}.items():
        np.testing.assert_allclose(
            sessions.answers()[1][place], expected[1][slot], rtol=2e-3
        )  # log-sums are the integers'
        assert sessions.answers()[0][place].tolist() == expected[0][slot].tolist()
        assert sessions.answers()[0][place].tolist() != alone.answers()[0][place].tolist()
    np.testing.assert_allclose(sessions.states, alone.states, rtol=0, atol=TOLERANCE)


def test_a_replayed_click_gets_the_mixture_of_the_history_as_it_is() -> None:
    zero, nothing_new = np.zeros((1, WITH_COMPANION.state_width), np.float32), np.array([False])
    first = WITH_COMPANION.forward(zero, np.array([-1]), np.array([0]), np.array([4]), K, played=Played.anew(1))
    again = WITH_COMPANION.forward(
        first.states, np.array([4]), np.array([0]), np.array([-1]), K, played=Played(histories_of([[4]]), nothing_new)
    )
    assert again.top_rows.tolist() == first.top_rows.tolist()
    np.testing.assert_allclose(again.scores, first.scores, rtol=1e-5)


def test_a_companion_that_is_not_told_the_histories_says_so() -> None:
    zero = np.zeros((1, WITH_COMPANION.state_width), np.float32)
    with pytest.raises(ValueError, match="version v1 has a companion, which needs the histories"):
        WITH_COMPANION.forward(zero, np.array([-1]), np.array([0]), np.array([4]), K)


@recommenders
def test_click_on_an_unknown_item_leaves_the_state_as_it_was_to_the_bit(recommender: Recommender) -> None:
    states = np.random.default_rng(3).standard_normal((2, recommender.state_width)).astype(np.float32)
    forward = recommender.forward(states, np.array([4, -1]), np.array([1, 0, 0]), np.array([-1, -1, -1]), K)
    assert np.array_equal(forward.states, states)
    assert forward.known.tolist() == [False, True, True]


@recommenders
def test_click_on_an_unknown_item_gets_the_answer_of_the_click_before_it(recommender: Recommender) -> None:
    sessions = Sessions.new(recommender, 1)
    sessions.apply(recommender, [(0, 5), (0, -1), (0, 8), (0, -1)])
    rows, _, known = sessions.answers()
    assert rows[0].tolist() == rows[1].tolist()
    assert rows[2].tolist() == rows[3].tolist()
    assert rows[1].tolist() != rows[2].tolist()
    assert known.all()


def test_session_is_known_from_its_first_known_item_on() -> None:
    sessions = Sessions.new(RECOMMENDERS[0], 2)
    sessions.apply(RECOMMENDERS[0], [(0, -1), (1, 3), (0, -1), (0, 2), (0, -1)])
    assert sessions.answers()[2].tolist() == [False, True, False, True, True]


@recommenders
def test_encoded_history_equals_its_clicks_one_at_a_time(recommender: Recommender) -> None:
    histories = [[1, 2, 3], [], [7], [9, 9, 4, 100, 2], [5, 6, 7]]
    expected = Sessions.new(recommender, len(histories))
    for slot, history in enumerate(histories):
        for row in history:
            expected.apply(recommender, [(slot, row)])
    np.testing.assert_allclose(recommender.encode(histories), expected.states, rtol=0, atol=TOLERANCE)


@recommenders
def test_nothing_to_encode_gives_no_states(recommender: Recommender) -> None:
    assert recommender.encode([]).shape == (0, recommender.state_width)


@recommenders
def test_batch_without_clicks_returns_the_states_and_no_answers(recommender: Recommender) -> None:
    states = np.ones((3, recommender.state_width), np.float32)
    nothing = np.empty(0, np.int64)
    forward = recommender.forward(states, np.full(3, -1), nothing, nothing, K)
    assert np.array_equal(forward.states, states)
    assert forward.top_rows.shape == forward.scores.shape == (0, K)
    assert len(forward.known) == 0


def test_inputs_are_left_as_they_were_and_may_be_read_only() -> None:
    states = np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)
    inputs = [states, np.array([4, -1]), np.array([1, 0, 1]), np.array([3, -1, 2])]
    before = [array.copy() for array in inputs]
    for array in inputs:
        array.setflags(write=False)
    forward = RECOMMENDERS[0].forward(inputs[0], inputs[1], inputs[2], inputs[3], K)
    assert not np.shares_memory(forward.states, states)
    for array, copy in zip(inputs, before, strict=True):
        assert np.array_equal(array, copy)


def test_answers_are_ranked_before_the_activation_and_reported_after_it() -> None:
    """Scores that float32 cannot tell apart after tanh still have an order."""
    settings = GRU4RecSettings(embedding_size=4, hidden_sizes=(4,), activation="tanh")
    network = GRU4Rec.initialised(settings, 20, torch.Generator().manual_seed(1))
    network.parameters["item_bias"].copy_(torch.arange(20.0) + 50)
    recommender = Recommender(network, Vocabulary([str(row) for row in range(20)]), "v1")
    forward = recommender.forward(np.zeros((1, 4), np.float32), np.array([-1]), np.array([0]), np.array([3]), 5)
    assert forward.top_rows[0].tolist() == [19, 18, 17, 16, 15]
    assert forward.scores[0].tolist() == [1.0] * 5


def test_answers_have_the_promised_types() -> None:
    sessions = Sessions.new(RECOMMENDERS[0], 1)
    sessions.apply(RECOMMENDERS[0], [(0, 1)])
    forward = sessions.forwards[0]
    types = [array.dtype.name for array in (forward.states, forward.top_rows, forward.scores, forward.known)]
    assert types == ["float32", "int32", "float32", "bool"]


def test_fewer_items_than_asked_for_gives_them_all() -> None:
    recommender = recommender_of(SHAPES[0], items=3)
    sessions = Sessions.new(recommender, 1)
    sessions.apply(recommender, [(0, 1)])
    assert sorted(sessions.answers()[0][0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("items", [0, 2])
def test_vocabulary_of_another_size_is_refused(items: int) -> None:
    network = GRU4Rec.initialised(SHAPES[0], items, torch.Generator())
    with pytest.raises(ValueError, match=f"the network has {items} items and the vocabulary 0"):
        Recommender(network, Vocabulary([]), "v1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@recommenders
def test_a_gpu_gives_the_answers_of_the_cpu(recommender: Recommender) -> None:
    on_gpu = Recommender(recommender._network, recommender.vocabulary, "v1", device="cuda")
    clicks = [(place % 7, int(row)) for place, row in enumerate(np.random.default_rng(2).integers(-1, ITEMS, 60))]
    expected, found = Sessions.new(recommender, 7), Sessions.new(recommender, 7)
    expected.apply(recommender, clicks)
    found.apply(on_gpu, clicks)
    np.testing.assert_allclose(found.states, expected.states, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.answers()[1], expected.answers()[1], rtol=0, atol=1e-2)
