from itertools import islice
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.batches import Step, session_parallel
from model.clicks import Click, Sessions, sessionise
from model.gru4rec import GRU4Rec
from model.losses import LOSSES
from model.negatives import PopularitySampler
from model.optimizer import SparseAdagrad
from tests.trainer.click_builders import SMALL, cyclic_clicks, shuffled_clicks, table_of
from trainer.errors import TrainingDivergedError
from trainer.fine_tune import TrainReport, train
from trainer.plain_step import TrainingStep
from trainer.scorers import NetworkScorer
from trainer.settings import MatmulPrecision, TrainerSettings


def learn(
    sessions: Sessions, settings: TrainerSettings, *, items: int, epochs: int = 8, device: str = "cpu"
) -> GRU4Rec:
    generator = torch.Generator().manual_seed(0)
    network = GRU4Rec.initialised(settings.network(), items, generator).to(device)
    optimizer = SparseAdagrad(settings.learning_rate, settings.momentum, accumulator=settings.accumulator)
    train(network, optimizer, sessions, settings, epochs=epochs, generator=generator)
    return network


def recall_at_1(network: GRU4Rec, sessions: Sessions) -> float:
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    ranks = NetworkScorer(network).next_click_ranks(sessions, counted, "conservative")
    return float((ranks == 1).mean())


ONE_HOT: dict[str, object] = {"item_input": "one_hot", "skip": False}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"skip": False, "item_bias": False},
        {"hidden_sizes": (12, 16)},
        {"hidden_sizes": (24,), "feedforward_sizes": (20, 16)},
        {"embedding_dropout": 0.2, "hidden_dropout": 0.2, "label_smoothing": 0.1, "momentum": 0.2},
        {"hidden_dropout": 0.2, "hidden_dropout_carried": True, "hidden_sizes": (16, 16)},
        {"loss": "bpr_max", "bpr_elu": 0.5},
        {"loss": "info_nce", "temperature": 0.5},
        *({"loss": name} for name in LOSSES),
        {"item_input": "separate"},
        ONE_HOT,
        {**ONE_HOT, "hidden_sizes": (12, 16), "reset_gate": "after", "accumulator": "row", "momentum": 0.2},
        {"reset_gate": "after"},
        # With skip, a clicked item's own score grows to where tanh is flat, and is not learnt away any more.
        {"activation": "tanh", "skip": False},
        {"activation": "elu"},
        {"activation": "leaky_relu", "activation_alpha": 0.1},
        {"accumulator": "row"},
    ],
    ids=str,
)
def test_cyclic_sessions_are_learnt_perfectly_whatever_the_shape_and_the_loss(changes: dict[str, object]) -> None:
    settings = SMALL.model_copy(update=changes)
    sessions = sessionise(table_of(cyclic_clicks("ABC", sessions=200)))
    assert recall_at_1(learn(sessions, settings, items=3), sessions) == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("matmul_precision", get_args(MatmulPrecision))
def test_cyclic_sessions_are_learnt_perfectly_on_a_gpu(matmul_precision: MatmulPrecision) -> None:
    SMALL.model_copy(update={"matmul_precision": matmul_precision}).prepare_torch()
    sessions = sessionise(table_of(cyclic_clicks("ABC", sessions=200)))
    assert recall_at_1(learn(sessions, SMALL, items=3, device="cuda"), sessions) == 1.0


@pytest.mark.parametrize("reset_gate", ["before", "after"], ids=["fast step", "plain step"])
def test_what_only_leads_up_to_others_is_not_learned(reset_gate: str) -> None:
    """Every session is A B C; only the step to C is learned, from the state after A and B."""
    settings = SMALL.model_copy(update={"reset_gate": reset_gate})
    sessions = sessionise(table_of(Click(f"s{number}", item, number) for number in range(200) for item in "ABC"))
    network = GRU4Rec.initialised(settings.network(), 3, torch.Generator().manual_seed(0))
    learned = np.tile([True, False, True], 200)
    report = train(
        network, SparseAdagrad(0.1), sessions, settings, epochs=8, generator=torch.Generator(), learned=learned
    )
    assert report.clicks == 8 * 200
    ranked = {
        place: NetworkScorer(network).next_click_ranks(sessions, np.tile(np.arange(3) == place, 200), "conservative")
        for place in (1, 2)
    }
    assert (ranked[2] == 1).all()
    assert (ranked[1] != 1).all()


def test_shuffled_sessions_stay_at_chance() -> None:
    generator = np.random.default_rng(0)
    items = [f"item-{number}" for number in range(20)]
    train_table = table_of(shuffled_clicks(items, generator, sessions=300))
    test_clicks = shuffled_clicks(items, generator, sessions=1000, start_ms=10**9)
    network = learn(sessionise(train_table), SMALL, items=20)
    # 7,000 independent cases, each a hit with chance 1/20 whatever the network says: four standard deviations either
    # side are left once in 16,000 seeds.
    four_deviations = 4 * (0.05 * 0.95 / 7000) ** 0.5
    assert recall_at_1(network, sessionise(table_of(test_clicks))) == pytest.approx(0.05, abs=four_deviations)


def dense_reference(
    network: GRU4Rec, sessions: Sessions, settings: TrainerSettings, steps: list[Step]
) -> dict[str, Tensor]:
    """Train with whole tables, plain autograd and Adagrad spelled out; the same samples in the same order."""
    generator = torch.Generator().manual_seed(7)
    torch.randint(2**62, (), generator=generator)  # the seed of dropout
    counts = np.bincount(sessions.items, minlength=network.item_count) + 1
    block = 256 * settings.negative_samples
    sampler = PopularitySampler(counts, settings.sampling_alpha, generator, block_size=block)
    expected = settings.batch_size * counts / counts.sum() + settings.negative_samples * sampler.probabilities
    log_q = torch.tensor(np.log(1 - np.exp(-expected)), dtype=torch.float32)
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in network.parameters.items()}
    accumulated = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    velocity = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    state = torch.zeros(settings.batch_size, network.state_width)
    for step in steps:
        reference = GRU4Rec(network.settings, parameters)
        state[step.lanes[step.resets]] = 0
        x = parameters[network.settings.input_table][step.inputs]
        after = reference.advance(x, state[step.lanes])
        candidates = np.concatenate([step.targets, sampler.sample(settings.negative_samples).numpy()])
        scores = reference.query(after, x) @ parameters["embedding"][candidates].T + parameters["item_bias"][candidates]
        loss = settings.loss_function()(reference.activated(scores), log_q[candidates] if settings.logq else None)
        gradients = torch.autograd.grad(loss * len(step.inputs) / settings.batch_size, list(parameters.values()))
        state[step.lanes] = after.detach()
        in_use = dict.fromkeys(network.item_tables, candidates) | {network.settings.input_table: step.inputs}
        if network.settings.item_input == "shared":
            in_use = dict.fromkeys(network.item_tables, np.concatenate([step.inputs, candidates]))
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            # Rows that the step did not use keep their value although their velocity is not zero.
            rows = torch.from_numpy(np.unique(in_use[name])) if name in in_use else slice(None)
            accumulated[name][rows] += gradient[rows] ** 2
            change = -settings.learning_rate * gradient[rows] / (accumulated[name][rows] + 1e-6).sqrt()
            velocity[name][rows] = settings.momentum * velocity[name][rows] + change
            parameter.data[rows] += velocity[name][rows]
    return parameters


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.3, "label_smoothing": 0.2},
        {"loss": "bpr_max", "logq": False},
        {"loss": "info_nce", "temperature": 0.5},
        {"loss": "top1_max", "activation": "elu"},
        {"item_input": "separate", "momentum": 0.3},
        {**ONE_HOT, "momentum": 0.3, "reset_gate": "after"},
    ],
    ids=str,
)
def test_training_steps_equal_dense_autograd(changes: dict[str, object]) -> None:
    settings = SMALL.model_copy(update={"batch_size": 5, **changes})
    items = [f"item-{number}" for number in range(40)]
    sessions = sessionise(table_of(shuffled_clicks(items, np.random.default_rng(1), sessions=12, clicks=5)))
    network = GRU4Rec.initialised(settings.network(), 40, torch.Generator().manual_seed(3))
    schedule = session_parallel(sessions, settings.batch_size)
    expected = dense_reference(network, sessions, settings, list(schedule))

    step_of = TrainingStep(
        network,
        SparseAdagrad(settings.learning_rate, settings.momentum),
        sessions,
        settings,
        torch.Generator().manual_seed(7),
    )
    for step in schedule:
        step_of(step)

    assert len({len(step.inputs) for step in schedule}) > 1, "the last steps must be smaller, as in life"
    for name, tensor in network.parameters.items():
        # Adagrad's first steps divide by gradients near zero, so rounding shows more than in the gradients themselves.
        assert torch.allclose(tensor, expected[name], rtol=1e-3, atol=2e-4), name


class NothingIsAskedOf(TorchFunctionMode):
    """Fails where the host wants a value, or a shape depends on values: on CUDA both wait for all that is queued."""

    ASKING = frozenset(
        {"item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "unique"}
        | {f"__{kind}__" for kind in ("bool", "float", "int", "index")}
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        assert func.__name__ not in self.ASKING, func.__name__
        indices = args[1] if func.__name__ in {"__getitem__", "__setitem__"} else ()
        for index in indices if isinstance(indices, tuple) else (indices,):
            assert not (isinstance(index, Tensor) and index.dtype == torch.bool), "a mask as an index"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_dropout": 0.2, "hidden_dropout": 0.2, "momentum": 0.3},
        {"backprop_steps": 3, "own_session_negatives": False, "logq_target": False, "label_smoothing": 0.1},
        {"item_input": "separate", "cosine_scale": 8.0, "trace_decay": 0.5},
        *({"loss": loss} for loss in LOSSES),
    ],
    ids=str,
)
def test_no_step_waits_for_the_device(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SMALL.model_copy(update={"batch_size": 5, **changes})
    items = [f"item-{number}" for number in range(40)]
    sessions = sessionise(table_of(shuffled_clicks(items, np.random.default_rng(1), sessions=12, clicks=5)))
    network = GRU4Rec.initialised(settings.network(), 40, torch.Generator().manual_seed(3))
    optimizer = SparseAdagrad(settings.learning_rate, settings.momentum)
    step_of = TrainingStep(network, optimizer, sessions, settings, torch.Generator().manual_seed(7))
    for step in session_parallel(sessions, settings.batch_size, settings.backprop_steps):
        rows = step_of._rows(step)  # which rows is said by the host, where the sampler is
        monkeypatch.setattr(step_of, "_rows", lambda _step, rows=rows: rows)
        with NothingIsAskedOf():
            step_of(step)
        monkeypatch.undo()


def test_a_network_without_item_vectors_goes_on_under_settings_that_drop_them() -> None:
    sessions = sessionise(table_of(cyclic_clicks("ABC", sessions=20)))
    without, dropping = (
        learn(sessions, SMALL.model_copy(update={**ONE_HOT, "embedding_dropout": rate}), items=3, epochs=1)
        for rate in (0.0, 0.9)
    )
    assert all(torch.equal(tensor, dropping.parameters[name]) for name, tensor in without.parameters.items())


def stopped_report(asked_before_stop: int) -> tuple[TrainReport, GRU4Rec, int]:
    sessions = sessionise(table_of(cyclic_clicks("ABC", sessions=300)))
    network = GRU4Rec.initialised(SMALL.network(), 3, torch.Generator().manual_seed(0))
    answers = iter([False] * asked_before_stop + [True])
    report = train(
        network,
        SparseAdagrad(SMALL.learning_rate),
        sessions,
        SMALL,
        epochs=3,
        generator=torch.Generator().manual_seed(0),
        should_stop=lambda: next(answers),
    )
    schedule = session_parallel(sessions, SMALL.batch_size)
    return report, network, sum(len(step.inputs) for step in islice(schedule, asked_before_stop))


def test_training_stops_between_two_mini_batches() -> None:
    report, _, clicks_of_three_steps = stopped_report(3)
    assert not report.is_complete
    assert report.clicks == clicks_of_three_steps


def test_training_told_to_stop_before_the_first_mini_batch_changes_nothing() -> None:
    report, network, _ = stopped_report(0)
    untouched = GRU4Rec.initialised(SMALL.network(), 3, torch.Generator().manual_seed(0))
    assert report.clicks == 0
    assert all(torch.equal(tensor, untouched.parameters[name]) for name, tensor in network.parameters.items())


def test_the_same_seed_gives_the_same_weights() -> None:
    settings = SMALL.model_copy(update={"embedding_dropout": 0.2, "hidden_dropout": 0.2})
    sessions = sessionise(table_of(cyclic_clicks("ABCDEF", sessions=50)))
    once, again = (learn(sessions, settings, items=6, epochs=1) for _ in range(2))
    assert all(torch.equal(tensor, again.parameters[name]) for name, tensor in once.parameters.items())


def test_weights_that_are_not_finite_are_refused() -> None:
    sessions = sessionise(table_of(cyclic_clicks("ABC", sessions=50)))
    with pytest.raises(TrainingDivergedError, match="lower the learning rate"):
        learn(sessions, SMALL.model_copy(update={"learning_rate": 1e38}), items=3, epochs=1)


def test_progress_ends_at_the_number_of_all_mini_batches() -> None:
    sessions = sessionise(table_of(cyclic_clicks("ABC", sessions=50)))
    told: list[tuple[int, int]] = []
    network = GRU4Rec.initialised(SMALL.network(), 3, torch.Generator().manual_seed(0))
    train(
        network,
        SparseAdagrad(SMALL.learning_rate),
        sessions,
        SMALL,
        epochs=2,
        generator=torch.Generator().manual_seed(0),
        on_progress=lambda done, total: told.append((done, total)),
    )
    total = 2 * len(session_parallel(sessions, SMALL.batch_size))
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
