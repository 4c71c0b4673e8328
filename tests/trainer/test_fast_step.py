from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from model.batches import session_parallel
from model.clicks import Sessions, sessionise
from model.gru4rec import GRU4Rec
from model.optimizer import SparseAdagrad
from tests.trainer.click_builders import SMALL, shuffled_clicks, table_of
from trainer.fast_step import FastStep
from trainer.fine_tune import choose_step
from trainer.guided_sampler import GuidedSampler
from trainer.kernels import adagrad, chance, gru, rows
from trainer.kernels.chance import fill_dropout_mask
from trainer.plain_step import TrainingStep
from trainer.sampling import popularity_sampler
from trainer.settings import TrainerSettings

ITEMS = 40


def few_sessions() -> Sessions:
    """Return sessions of several lengths, so that the last mini-batches are smaller, as in life."""
    generator = np.random.default_rng(1)
    names = [f"item-{number}" for number in range(ITEMS)]
    long = shuffled_clicks(names, generator, sessions=12, clicks=5)
    return sessionise(table_of([*long, *shuffled_clicks(names, generator, sessions=9, clicks=9, start_ms=10**9)]))


def network_of(settings: TrainerSettings) -> GRU4Rec:
    return GRU4Rec.initialised(settings.network(), ITEMS, torch.Generator().manual_seed(3))


def trained(
    kind: Any, settings: TrainerSettings, *, epochs: int = 2, learned: np.ndarray[Any, Any] | None = None
) -> tuple[GRU4Rec, SparseAdagrad, list[float]]:
    """Train from fixed seeds with one kind of step; returns every mini-batch's loss too."""
    sessions, network = few_sessions(), network_of(settings)
    optimizer = SparseAdagrad(settings.learning_rate, settings.momentum)
    step_of = kind(network, optimizer, sessions, settings, torch.Generator().manual_seed(7))
    losses = []
    for _ in range(epochs):
        step_of.start_epoch()
        schedule = session_parallel(sessions, settings.batch_size, settings.backprop_steps, learned)
        losses += [float(step_of(step)) for step in schedule]
    return network, optimizer, losses


class SameMasks(TrainingStep):
    """The plain step with the masks of the fast one: of the input, then of each layer's output."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # The first number that the generator gives is the seed of the masks, in both steps.
        self._seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(7)))
        self._sites = self._order()

    def _order(self) -> Iterator[int | None]:
        layers, step = len(self._settings.hidden_sizes), 0
        while True:
            # The plain step drops each layer's output on its way up, for the top one in vain, and then the query's.
            yield from [step, *range(step + 1, step + layers), None, step + layers]
            step += 1 + layers

    def _dropped(self, x: Tensor, rate: float) -> Tensor:
        draw = next(self._sites)
        if draw is None:
            return x
        mask = np.empty(tuple(x.shape), dtype=np.float32)
        fill_dropout_mask(mask, self._seed, draw, rate)
        return x * torch.from_numpy(mask)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_smoothing": 0.2, "logq": False},
        {"skip": False, "item_bias": False},
        {"hidden_sizes": (12, 20, 16)},
        {"skip_weight": 2.0, "trace_decay": 0.5, "embedding_dropout": 0.35},
        {"skip_weight": 0.5, "hidden_sizes": (12, 16)},
        {"cosine_scale": 8.0},
        {"cosine_scale": 8.0, "item_bias": False, "skip": False, "backprop_steps": 3, "hidden_sizes": (12, 16)},
        {"cosine_scale": 8.0, "trace_decay": 0.5, "embedding_dropout": 0.35, "hidden_dropout": 0.2},
        {"backprop_steps": 3},
        {"logq_target": False, "label_smoothing": 0.2},
        {"backprop_steps": 4, "hidden_sizes": (12, 16), "trace_decay": 0.5, "momentum": 0.3},
        {"backprop_steps": 30, "skip": False, "label_smoothing": 0.2},
        {"backprop_steps": 4, "label_smoothing": 0.2, "own_session_negatives": False},
        {"backprop_steps": 30, "logq_target": False, "own_session_negatives": False},
        {"momentum": 0.3},
        {"negative_samples": 0},
        {"embedding_dropout": 0.35, "hidden_dropout": 0.2},
        {"embedding_dropout": 0.35, "hidden_dropout": 0.2, "hidden_sizes": (12, 16)},
    ],
    ids=[
        "plain",
        "smoothing",
        "no-skip-no-bias",
        "three-layers",
        "trace",
        "skip-weight",
        "cosine",
        "cosine-layers-moments",
        "cosine-trace-dropout",
        "three-moments",
        "target-not-corrected",
        "four-moments-layers-trace",
        "whole-sessions",
        "own-session-spared",
        "whole-sessions-spared",
        "momentum",
        "no-samples",
        "dropout",
        "dropout-layers",
    ],
)
def test_the_fast_step_gives_the_losses_weights_and_accumulators_of_the_plain_one(changes: dict[str, object]) -> None:
    assert_equal_training(SMALL.model_copy(update={"batch_size": 5, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backprop_steps": 4, "hidden_sizes": (12, 16), "trace_decay": 0.5, "momentum": 0.3},
        {"backprop_steps": 4, "label_smoothing": 0.2, "own_session_negatives": False},
        {"cosine_scale": 8.0, "trace_decay": 0.5, "embedding_dropout": 0.35, "hidden_dropout": 0.2},
    ],
    ids=["plain", "four-moments-layers-trace", "own-session-spared", "cosine-trace-dropout"],
)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.8])
def test_the_fast_step_leaves_out_what_the_plain_one_leaves_out(changes: dict[str, object], share: float) -> None:
    """With a share of 0 all clicks only lead up to others; with 0.2 some mini-batches of one moment have none."""
    learned = np.random.default_rng(4).random(len(few_sessions().items)) < share
    assert_equal_training(SMALL.model_copy(update={"batch_size": 5, **changes}), learned)


def assert_equal_training(settings: TrainerSettings, learned: np.ndarray[Any, Any] | None = None) -> None:
    expected, expected_optimizer, expected_losses = trained(SameMasks, settings, learned=learned)
    network, optimizer, losses = trained(FastStep, settings, learned=learned)
    assert losses == pytest.approx(expected_losses, rel=1e-4, abs=1e-5)
    for name, tensor in network.parameters.items():
        # Adagrad's first steps divide by gradients near zero, so rounding shows more than in the gradients themselves.
        assert torch.allclose(tensor, expected.parameters[name], rtol=1e-3, atol=2e-4), name
    for name, tensor in optimizer.state.items():
        if name not in expected_optimizer.state:  # the fast step makes its own where nothing was gathered
            assert not tensor.any()
            continue
        assert torch.allclose(tensor, expected_optimizer.state[name], rtol=1e-3, atol=2e-4), name


def test_no_step_of_any_size_or_recipe_waits_for_a_compiler() -> None:
    for changes in ({}, {"momentum": 0.3, "logq": False}, {"hidden_sizes": (12, 16), "hidden_dropout": 0.2}):
        trained(FastStep, SMALL.model_copy(update={"batch_size": 5, **changes}), epochs=1)
    kernels = [*vars(adagrad).values(), *vars(chance).values(), *vars(gru).values(), *vars(rows).values()]
    compiled = {kernel.__name__: len(kernel.signatures) for kernel in kernels if hasattr(kernel, "signatures")}
    assert compiled["gather"] == compiled["close_gates"] == 1
    assert max(compiled.values()) == 1


def test_the_fast_step_goes_on_from_what_an_earlier_optimizer_gathered() -> None:
    _, earlier, _ = trained(TrainingStep, SMALL, epochs=1)
    ends = []
    for kind in (TrainingStep, FastStep):
        sessions, network = few_sessions(), network_of(SMALL)
        state = {name: tensor.clone() for name, tensor in earlier.state.items()}
        step_of = kind(network, SparseAdagrad(0.1, state=state), sessions, SMALL, torch.Generator().manual_seed(7))
        step_of(session_parallel(sessions, SMALL.batch_size).step(0))
        ends.append(network)
    for name, tensor in ends[0].parameters.items():
        assert torch.allclose(tensor, ends[1].parameters[name], rtol=1e-3, atol=1e-5), name


def test_weights_that_are_not_numbers_give_a_loss_that_is_none() -> None:
    network = network_of(SMALL)
    network.parameters["gru.0.bias"][0] = torch.nan
    sessions = few_sessions()
    step_of = FastStep(network, SparseAdagrad(0.1), sessions, SMALL, torch.Generator())
    assert torch.isnan(step_of(session_parallel(sessions, SMALL.batch_size).step(0)))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_guided_sampler_draws_what_the_searching_one_draws(alpha: float) -> None:
    counts = (10_000 / np.arange(1, 3001)).astype(np.int64) + 1
    settings = SMALL.model_copy(update={"negative_samples": 64, "sampling_alpha": alpha})
    searching = popularity_sampler(counts, settings, torch.Generator().manual_seed(5))
    guided = GuidedSampler(counts, settings, torch.Generator().manual_seed(5))
    for _ in range(600):  # beyond two blocks
        assert np.array_equal(guided.sample(), searching.sample(64).numpy())


def masks(rate: float, draws: int) -> np.ndarray[Any, Any]:
    drawn = np.empty((draws, 64, 96), dtype=np.float32)
    for draw in range(draws):
        fill_dropout_mask(drawn[draw], 11, draw, rate)
    return drawn


@pytest.mark.parametrize("rate", [0.05, 0.35, 0.9])
def test_dropout_keeps_its_share_and_the_sum(rate: float) -> None:
    drawn = masks(rate, 50)
    assert set(np.unique(drawn)) == {np.float32(0), np.float32(1 / (1 - rate))}
    four_deviations = 4 * (rate * (1 - rate) / drawn.size) ** 0.5
    assert (drawn == 0).mean() == pytest.approx(rate, abs=four_deviations)
    # Every place is dropped about as often as any other: variance of a binomial share over 50 draws.
    assert (drawn == 0).mean(axis=0).var() == pytest.approx(rate * (1 - rate) / 50, rel=0.1)


def test_dropout_masks_of_neighbouring_draws_rows_and_columns_are_unrelated() -> None:
    drawn = masks(0.5, 50) - 1
    for neighbour in (drawn[1:] * drawn[:-1], drawn[:, 1:] * drawn[:, :-1], drawn[:, :, 1:] * drawn[:, :, :-1]):
        assert abs(float(neighbour.mean())) < 4 / neighbour.size**0.5


def test_the_same_seed_and_draw_give_the_same_dropout_and_another_seed_another() -> None:
    once, again, other = (np.empty((8, 16), dtype=np.float32) for _ in range(3))
    for mask, seed in ((once, 1), (again, 1), (other, 2)):
        fill_dropout_mask(mask, seed, 3, 0.5)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def chosen(settings: TrainerSettings, optimizer: SparseAdagrad | None = None) -> tuple[object, list[Any]]:
    with capture_logs() as logged:
        step_of = choose_step(
            network_of(settings), optimizer or SparseAdagrad(0.1), few_sessions(), settings, torch.Generator()
        )
    return step_of, logged


def test_the_default_recipe_takes_the_fast_step_without_a_word() -> None:
    step_of, logged = chosen(SMALL)
    assert isinstance(step_of, FastStep)
    assert logged == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "bpr_max"}, "loss"),
        ({"loss": "info_nce"}, "loss"),
        ({"hidden_sizes": (24,), "feedforward_sizes": (16,)}, "feedforward layers"),
        ({"item_input": "separate"}, "item input"),
        ({"item_input": "one_hot", "skip": False}, "item input"),
        ({"reset_gate": "after"}, "reset gate"),
        ({"activation": "elu"}, "activation"),
        ({"hidden_dropout": 0.2, "hidden_dropout_carried": True}, "carried dropout"),
    ],
)
def test_what_the_fast_step_does_not_cover_takes_the_plain_one_and_is_logged(
    changes: dict[str, object], reason: str
) -> None:
    step_of, logged = chosen(SMALL.model_copy(update=changes))
    assert isinstance(step_of, TrainingStep)
    assert [line["not_covered"] for line in logged] == [reason]


@pytest.mark.parametrize(
    "optimizer",
    [
        SparseAdagrad(0.1, accumulator="row"),
        SparseAdagrad(0.1, state={"accumulator.embedding": torch.zeros(ITEMS)}),
    ],
    ids=["asked-for", "left-by-an-earlier-optimizer"],
)
def test_an_accumulator_a_row_takes_the_plain_step(optimizer: SparseAdagrad) -> None:
    step_of, _ = chosen(SMALL, optimizer)
    assert isinstance(step_of, TrainingStep)
