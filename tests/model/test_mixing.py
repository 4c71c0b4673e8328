import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.catalogue import PlainCatalogue
from model.clicks import Sessions
from model.companion import Companion, Mixing, histories_of
from model.mixing import AGE_DECAY, LOOKBACK, Mixer, mixture_ranks
from model.ranking import ranks
from model.transitions import Neighbours, Transitions

ITEMS, CLICKS = 40, 12


def neighbours_of(seed: int) -> Neighbours:
    transitions = Transitions(ITEMS - 5)  # the newest items have none
    offsets = np.arange(0, 201, 5)
    items = np.random.default_rng(seed).integers(0, ITEMS - 5, 200)
    transitions.add(Sessions(items=items, offsets=offsets, start_ms=offsets[:-1], end_ms=offsets[:-1]))
    return transitions.neighbours(kept=6)


def dense(scores: torch.Tensor, histories: np.ndarray, neighbours: Neighbours, mixing: Mixing) -> np.ndarray:
    chances = torch.softmax(scores.double() * mixing.temper, dim=1).numpy()
    for line, history in zip(chances, histories, strict=True):
        newest_first = history[::-1].tolist()
        for age, row in enumerate(newest_first):
            if age < LOOKBACK and 0 <= row < neighbours.item_count:
                for side, weight in (("successor", mixing.forward), ("predecessor", mixing.backward)):
                    offsets = getattr(neighbours, f"{side}_offsets")
                    entries = slice(offsets[row], offsets[row + 1])
                    shares = getattr(neighbours, f"{side}_shares")[entries]
                    line[getattr(neighbours, f"{side}_rows")[entries]] += weight * AGE_DECAY**age * shares
            if row >= 0 and row not in newest_first[:age]:
                line[row] += mixing.repeat * mixing.fade**age
        if newest_first[0] >= 0:
            line[newest_first[0]] += mixing.last
    return chances


def mixed(
    scores: torch.Tensor, histories: np.ndarray, neighbours: Neighbours, mixing: Mixing
) -> tuple[np.ndarray, np.ndarray]:
    """The mixture of a network whose query for a click is the click's scores."""
    catalogue = PlainCatalogue(torch.eye(ITEMS), torch.zeros(ITEMS))
    best = catalogue.best(scores, 10, mixing.temper)
    mixer = Mixer(catalogue, Companion(neighbours, mixing))
    first, again = (mixer.mix(best, scores.numpy(), histories) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    return again


def case(seed: int) -> tuple[torch.Tensor, np.ndarray, Neighbours]:
    scores = torch.randn(CLICKS, ITEMS, generator=torch.Generator().manual_seed(seed)) * 2
    rng = np.random.default_rng(seed)
    plays = [rng.integers(-1, ITEMS, rng.integers(0, 25)).tolist() for _ in range(CLICKS)]
    return scores, histories_of(plays), neighbours_of(seed)


@settings(max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from([Mixing(), Mixing(last=-0.2, repeat=0.2, forward=1.0), Mixing(repeat=0, last=0)]),
)
def test_the_top_of_the_mixture_is_that_of_all_items(seed: int, mixing: Mixing) -> None:
    scores, histories, neighbours = case(seed)
    rows, chances = mixed(scores, histories, neighbours, mixing)
    expected = dense(scores, histories, neighbours, mixing)
    np.testing.assert_allclose(chances, -np.sort(-expected, axis=1)[:, :10], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows.astype(np.int64), axis=1), chances, rtol=1e-5)
    assert all(len(set(line)) == 10 for line in rows.tolist())


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from(["conservative", "standard"]))
def test_ranks_are_those_among_all_items(seed: int, ties: str) -> None:
    scores, histories, neighbours = case(seed)
    targets = np.random.default_rng(seed + 1).integers(0, ITEMS, CLICKS)
    found = mixture_ranks(scores, targets, histories, neighbours, Mixing(), ties)
    expected = dense(scores, histories, neighbours, Mixing())
    assert found.tolist() == ranks(torch.from_numpy(expected), torch.from_numpy(targets), ties).tolist()


def test_without_weights_the_network_ranks_alone() -> None:
    scores, histories, neighbours = case(3)
    alone = Mixing(temper=1, forward=0, backward=0, last=0, repeat=0)
    assert mixed(scores, histories, neighbours, alone)[0].tolist() == scores.topk(10).indices.tolist()


def test_weights_that_take_away_are_refused() -> None:
    with pytest.raises(ValueError, match="no item may lose"):
        Mixing(last=-0.3, repeat=0.2)
