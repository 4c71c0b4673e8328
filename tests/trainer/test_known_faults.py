"""Faults found in other implementations of GRU4Rec that only training or evaluation can have.

Source and the other faults: tests/model/test_known_faults.py.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.batches import session_parallel
from model.clicks import Click, Sessions, sessionise
from model.gru4rec import EMBEDDING, GRU4Rec
from model.losses import cross_entropy
from model.optimizer import SparseAdagrad
from model.ranking import UNRANKED
from model.recommender import Recommender
from model.vocabulary import Vocabulary
from tests.trainer.click_builders import SMALL, shuffled_clicks, table_of
from trainer.evaluate import evaluate
from trainer.fine_tune import train
from trainer.fit import fit
from trainer.plain_step import Rows, TrainingStep
from trainer.protocols import Protocol
from trainer.scorers import NetworkScorer
from trainer.settings import TrainerSettings

# Steps too short to change a float32, and nothing but the other sessions' targets to tell the target from.
STANDING = SMALL.model_copy(update={"learning_rate": 1e-30, "negative_samples": 0, "logq": False, "batch_size": 4})


def network_of(settings: TrainerSettings, items: int) -> GRU4Rec:
    return GRU4Rec.initialised(settings.network(), items, torch.Generator().manual_seed(1))


def sessions_of(lengths: list[int], items: int) -> Sessions:
    rows = np.random.default_rng(2).integers(0, items, sum(lengths))
    nothing = np.zeros(len(lengths), dtype=np.int64)
    return Sessions(rows, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), nothing, nothing)


def step_of(network: GRU4Rec, settings: TrainerSettings, sessions: Sessions) -> TrainingStep:
    return TrainingStep(
        network, SparseAdagrad(settings.learning_rate), sessions, settings, torch.Generator().manual_seed(3)
    )


def test_hidden_state_is_reset_at_the_end_of_a_session_in_evaluation() -> None:
    """Ranks of sessions evaluated together, many more than are played at a time, are those of each alone."""
    lengths = np.random.default_rng(1).integers(2, 7, 300).tolist()
    sessions = sessions_of(lengths, items=40)
    scorer = NetworkScorer(network_of(SMALL, 40))
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    together = scorer.next_click_ranks(sessions, counted, "conservative").tolist()
    alone: list[int] = []
    for start, stop in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        one = Sessions(sessions.items[start:stop], np.array([0, stop - start]), np.zeros(1, int), np.zeros(1, int))
        alone += scorer.next_click_ranks(one, counted[start:stop], "conservative").tolist()
    assert together == alone


def test_states_in_training_are_reset_where_a_session_begins_and_nowhere_else() -> None:
    """Every mini-batch has the loss of states that are made anew from all earlier clicks of their sessions."""
    sessions = sessions_of([2, 9, 3, 3, 7, 2, 2, 5, 4], items=37)
    sessions.items[:] = np.arange(37)  # all different, so that a click says which clicks came before it
    network = network_of(STANDING, 37)
    recommender = Recommender(network, Vocabulary([str(row) for row in range(37)]), "v")
    train_on = step_of(network, STANDING, sessions)
    for step in session_parallel(sessions, STANDING.batch_size):
        begins = sessions.offsets[np.searchsorted(sessions.offsets, step.inputs, side="right") - 1]
        histories = [range(begin, item + 1) for begin, item in zip(begins.tolist(), step.inputs.tolist(), strict=True)]
        queries = network.query(torch.from_numpy(recommender.encode(histories)), network.input_table[step.inputs])
        expected = cross_entropy(network.score_all(queries)[:, step.targets])
        assert train_on(step).item() == pytest.approx(expected.item(), rel=1e-5)


def zero_shares(settings: TrainerSettings) -> tuple[float, float]:
    """How much of a clicked item's vector, and of the query, training drops: seen from where no gradient arrives."""
    network = network_of(settings, 3)
    sessions = Sessions(np.array([0, 1, 2]), np.array([0, 3]), np.zeros(1, int), np.zeros(1, int))
    leaves = {name: table.clone().requires_grad_() for name, table in network.item_tables.items()}
    one, zero = torch.ones(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    three, moments = torch.arange(3), [(0, 1)]
    candidates, nobody = torch.tensor([1, 2]), torch.zeros(0, dtype=torch.int64)
    rows = Rows(three, three, zero, candidates, lanes=zero, resets=one, sessions=nobody, moments=moments, learned=three)
    loss = step_of(network, settings, sessions).loss(leaves, rows)
    gradient = torch.autograd.grad(loss, leaves[EMBEDDING])[0]
    dropped = (gradient == 0).double().mean(dim=1)
    assert dropped[1] == dropped[2]
    return dropped[0].item(), dropped[1].item()


@pytest.mark.parametrize(
    ("embedding_dropout", "hidden_dropout"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.1, 0.6), (0.7, 0.15)]
)
@pytest.mark.parametrize("carried", [False, True])
def test_dropout_of_embeddings_and_of_the_final_layer_are_two_rates_of_what_is_dropped_not_kept(
    embedding_dropout: float,
    hidden_dropout: float,
    carried: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    width = 600
    settings = SMALL.model_copy(
        update={
            "embedding_size": width,
            "hidden_sizes": (width,),
            "skip": False,
            "batch_size": 1,
            "embedding_dropout": embedding_dropout,
            "hidden_dropout": hidden_dropout,
            "hidden_dropout_carried": carried,
        }
    )
    of_embedding, of_query = zero_shares(settings)
    # Five standard deviations of 600 draws: for another seed the odds of a false alarm are about 1e-6 each.
    for found, rate in ((of_embedding, embedding_dropout), (of_query, hidden_dropout)):
        assert found == pytest.approx(rate, abs=5 * (rate * (1 - rate) / width) ** 0.5)


def test_state_that_is_carried_is_dropped_only_where_that_is_asked_for() -> None:
    width, rate = 2000, 0.4
    changes = {
        "embedding_size": width,
        "hidden_sizes": (width,),
        "skip": False,
        "batch_size": 1,
        "hidden_dropout": rate,
    }
    step = session_parallel(sessions_of([2], items=2), 1).step(0)
    for carried in (False, True):
        settings = SMALL.model_copy(update={**changes, "hidden_dropout_carried": carried})
        train_on = step_of(network_of(settings, 2), settings, sessions_of([2], items=2))
        train_on(step)
        zeros = float((train_on._state == 0).double().mean())
        assert zeros == pytest.approx(rate if carried else 0, abs=5 * (rate * (1 - rate) / width) ** 0.5)


@pytest.mark.parametrize(
    ("loss", "setting", "value"),
    [
        ("cross_entropy", "batch_size", 3),
        ("cross_entropy", "learning_rate", 0.05),
        ("cross_entropy", "momentum", 0.2),
        ("cross_entropy", "epochs_first", 2),
        ("cross_entropy", "seed", 1),
        ("cross_entropy", "accumulator", "row"),
        ("cross_entropy", "negative_samples", 7),
        ("cross_entropy", "sampling_alpha", 1.0),
        ("cross_entropy", "logq", False),
        ("cross_entropy", "label_smoothing", 0.1),
        ("bpr_max", "bpr_regularisation", 0.3),
        ("bpr_max", "bpr_elu", 0.7),
        ("info_nce", "temperature", 0.5),
    ],
)
def test_no_setting_is_hard_coded(loss: str, setting: str, value: object) -> None:
    """One that training did not listen to would leave the weights as they were without it."""
    clicks, ends = table_of(shuffled_clicks("ABCDEFGHIJ", np.random.default_rng(2), sessions=9)), []
    for changes in ({}, {setting: value}):
        recipe = {"loss": loss, "batch_size": 4, "epochs_first": 1, "companion": False, **changes}
        version, _ = fit(clicks, SMALL.model_copy(update=recipe), version="v", created_at_ms=0)
        ends.append(version.network.parameters[EMBEDDING])
    assert not torch.allclose(*ends, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_epoch_goes_on_when_fewer_sessions_than_lanes_are_left(epochs: int) -> None:
    sessions = sessions_of([2, 9, 3], items=10)
    network = network_of(SMALL, 10)
    report = train(
        network,
        SparseAdagrad(SMALL.learning_rate),
        sessions,
        SMALL,
        epochs=epochs,
        generator=torch.Generator().manual_seed(1),
    )
    assert len(sessions) < SMALL.batch_size
    assert report.clicks == epochs * (1 + 8 + 2)


@pytest.mark.parametrize("lost", ["first", "middle", "last", "all"])
def test_unknown_test_items_are_left_out_and_do_not_crash_evaluation(lost: str) -> None:
    items = {"first": "xABC", "middle": "AxBC", "last": "ABCx", "all": "xyzx"}[lost]
    test = table_of([Click("s", item, time) for time, item in enumerate(items)])
    network = network_of(SMALL, 3)
    found = evaluate(network, Vocabulary("ABC"), Protocol(test, test, last_only=False), ks=(3,))
    known = sessionise(table_of([Click("s", item, time) for time, item in enumerate("ABC")]))
    expected = NetworkScorer(network).next_click_ranks(known, np.array([False, True, True]), "conservative")
    assert found["gru4rec"]["cases"] == (0 if lost == "all" else 2)
    assert found["gru4rec"]["mrr@3"] == pytest.approx(0 if lost == "all" else (1 / expected).mean())


def test_unknown_rows_tell_a_scorer_nothing_and_are_never_foreseen() -> None:
    scorer = NetworkScorer(network_of(SMALL, 5))
    rows, known = [2, -1, 4, 5, 0, 99], [2, 4, 0]
    ranks = [
        scorer.next_click_ranks(
            Sessions(np.array(items), np.array([0, len(items)]), np.zeros(1, int), np.zeros(1, int)),
            np.arange(len(items)) > 0,
            "conservative",
        ).tolist()
        for items in (rows, known)
    ]
    assert ranks[0] == [UNRANKED, ranks[1][0], UNRANKED, ranks[1][1], UNRANKED]


class WidthsSeen(TorchFunctionMode):
    """Notes the widths of all matrices that torch functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 2:
            self.widths.add(result.shape[1])
        return result


@pytest.mark.parametrize("loss", ["cross_entropy", "bpr_max"])
def test_only_the_candidates_are_scored_in_training_never_all_items(loss: str) -> None:
    settings = SMALL.model_copy(update={"loss": loss, "batch_size": 5, "negative_samples": 8})
    sessions = sessions_of([4] * 5, items=997)
    network = network_of(settings, 997)
    train_on = step_of(network, settings, sessions)
    with WidthsSeen() as seen:
        for step in session_parallel(sessions, 5):
            train_on(step)
    assert 5 + 8 in seen.widths, "the scores of the candidates must be among what was seen"
    assert 997 not in seen.widths
