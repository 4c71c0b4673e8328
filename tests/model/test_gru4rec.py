from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.gru4rec import GRU4Rec, GRU4RecSettings

SHAPES = [
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,)),
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), skip=False, item_bias=False),
    GRU4RecSettings(embedding_size=5, hidden_sizes=(7, 4), feedforward_sizes=(3, 5)),
    GRU4RecSettings(embedding_size=4, hidden_sizes=(8,), feedforward_sizes=(4,), skip=False),
]


def network_of(settings: GRU4RecSettings, items: int = 9) -> GRU4Rec:
    """A network whose biases are not zero either, so that leaving one out shows."""
    network = GRU4Rec.initialised(settings, items, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    for tensor in network.parameters.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return network


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def float64(network: GRU4Rec) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.numpy().astype(np.float64) for name, tensor in network.parameters.items()}


def step_by_the_formula(network: GRU4Rec, x: NDArray[np.float64], state: NDArray[np.float64]) -> NDArray[np.float64]:
    """One step of every layer in float64, gate by gate, one session at a time."""
    parameters, new_states = float64(network), []
    for clicked, old in zip(x, state, strict=True):
        below, start, new = clicked, 0, []
        for layer, width in enumerate(network.settings.hidden_sizes):
            h = old[start : start + width]
            start += width
            w_z, w_r, w_c = np.split(parameters[f"gru.{layer}.input_weight"], 3, axis=1)
            u_z, u_r = np.split(parameters[f"gru.{layer}.recurrent_weight"], 2, axis=1)
            b_z, b_r, b_c = np.split(parameters[f"gru.{layer}.bias"], 3)
            z = sigmoid(below @ w_z + h @ u_z + b_z)
            r = sigmoid(below @ w_r + h @ u_r + b_r)
            candidate = np.tanh(below @ w_c + (r * h) @ parameters[f"gru.{layer}.candidate_weight"] + b_c)
            below = (1 - z) * h + z * candidate
            new.append(below)
        new_states.append(np.concatenate(new))
    return np.array(new_states)


def scores_by_the_formula(network: GRU4Rec, state: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    parameters, settings = float64(network), network.settings
    output = state[:, -settings.hidden_sizes[-1] :]
    for layer in range(len(settings.feedforward_sizes)):
        output = np.tanh(output) if layer else output
        output = output @ parameters[f"feedforward.{layer}.weight"] + parameters[f"feedforward.{layer}.bias"]
    output = output + x if settings.skip else output
    scores = output @ parameters["embedding"].T
    return scores + parameters["item_bias"] if settings.item_bias else scores


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_one_step_and_its_scores_equal_the_formula_in_float64(settings: GRU4RecSettings) -> None:
    network = network_of(settings)
    generator = np.random.default_rng(3)
    x = generator.standard_normal((5, settings.embedding_size))
    state = generator.standard_normal((5, network.state_width))
    expected_state = step_by_the_formula(network, x, state)
    expected_scores = scores_by_the_formula(network, expected_state, x)

    x32, state32 = torch.tensor(x, dtype=torch.float32), torch.tensor(state, dtype=torch.float32)
    new_state = network.advance(x32, state32)
    scores = network.score_all(network.query(new_state, x32))
    np.testing.assert_allclose(new_state.numpy(), expected_state, rtol=0, atol=2e-6)
    np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(state32.numpy(), state.astype(np.float32))


def test_dropout_between_layers_never_reaches_the_carried_state_of_its_own_layer() -> None:
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(6, 4)))
    x, state = torch.ones(3, 4), torch.full((3, 10), 0.5)
    kept = network.advance(x, state)
    dropped = network.advance(x, state, dropout=torch.zeros_like)
    assert torch.equal(kept[:, :6], dropped[:, :6])
    assert not torch.equal(kept[:, 6:], dropped[:, 6:])


def test_dropout_of_a_query_leaves_the_skipped_embedding() -> None:
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(4,)))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network.query(torch.ones(3, 4), x, dropout=torch.zeros_like), x)


def test_gradients_of_a_step_equal_finite_differences() -> None:
    settings = GRU4RecSettings(embedding_size=3, hidden_sizes=(4, 3), feedforward_sizes=(2, 3))
    network = network_of(settings, items=4)
    names = network.dense_parameter_names
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    tensors = [network.parameters[name].double().requires_grad_() for name in names]

    def queries(x: torch.Tensor, state: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        network.parameters.update(zip(names, values, strict=True))
        return network.query(network.advance(x, state), x)

    assert torch.autograd.gradcheck(queries, (x, state, *tensors))


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_untrained_matrices_fill_their_interval_and_biases_are_zero(settings: GRU4RecSettings) -> None:
    network = GRU4Rec.initialised(settings, 2000, torch.Generator().manual_seed(1))
    for name, tensor in network.parameters.items():
        if tensor.dim() == 1:
            assert not tensor.any(), name
            continue
        gates = {"input_weight": 3, "recurrent_weight": 2}.get(name.rpartition(".")[2], 1)
        bound = (6 / (tensor.shape[0] + tensor.shape[1] / gates)) ** 0.5
        assert tensor.abs().max() <= bound, name
        # 12 or more uniform values all within 60 % of their interval: odds 0.6^12, about 1 in 500 for another seed.
        assert tensor.abs().max() > 0.6 * bound, name


def test_same_generator_state_gives_the_same_network() -> None:
    networks = [GRU4Rec.initialised(SHAPES[2], 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    embeddings = [network.parameters["embedding"] for network in networks]
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_new_items_leave_old_scores_as_they_were(settings: GRU4RecSettings) -> None:
    network = network_of(settings, items=6)
    grown = network.with_items(9, generator=torch.Generator().manual_seed(3))
    queries = torch.randn(2, settings.embedding_size, generator=torch.Generator().manual_seed(4))
    assert grown.item_count == 9
    assert network.item_count == 6
    torch.testing.assert_close(grown.score_all(queries)[:, :6], network.score_all(queries), rtol=0, atol=1e-6)


def test_new_items_take_the_vectors_given_and_no_bias() -> None:
    vectors = torch.full((2, 6), 7.0)
    grown = network_of(SHAPES[0], items=3).with_items(5, vectors=vectors)
    assert torch.equal(grown.parameters["embedding"][3:], vectors)
    assert torch.equal(grown.parameters["item_bias"][3:], torch.zeros(2))


def test_items_are_never_removed() -> None:
    with pytest.raises(ValueError, match="rows are never removed"):
        network_of(SHAPES[0], items=5).with_items(4, generator=torch.Generator())


@pytest.mark.parametrize("arguments", [{}, {"generator": torch.Generator(), "vectors": torch.zeros(1, 6)}])
def test_new_items_need_one_source_of_vectors(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a generator or the vectors"):
        network_of(SHAPES[0], items=5).with_items(6, **arguments)


def test_dense_parameters_are_all_but_the_tables_with_a_row_per_item() -> None:
    network = network_of(SHAPES[0])
    assert set(network.parameters) - set(network.dense_parameter_names) == {"embedding", "item_bias"}


def test_state_is_as_wide_as_all_layers_together() -> None:
    assert network_of(SHAPES[2]).state_width == 11


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.pop("embedding"), "'embedding' is missing"),
        (lambda p: p.pop("gru.0.bias"), "'gru.0.bias' is missing"),
        (lambda p: p.update(extra=torch.zeros(1)), "'extra' is not part of this network"),
        (lambda p: p.update({"gru.0.bias": torch.zeros(17)}), r"'gru.0.bias' must have shape \[18\], got \[17\]"),
        (lambda p: p.update(item_bias=torch.zeros(8)), r"'item_bias' must have shape \[9\]"),
        (lambda p: p.update(item_bias=torch.zeros(9).double()), "'item_bias' must be float32, got torch.float64"),
        (lambda p: p["embedding"][3, 2].fill_(torch.nan), "'embedding' holds values that are not finite"),
        (lambda p: p["embedding"][3, 2].fill_(torch.inf), "'embedding' holds values that are not finite"),
    ],
)
def test_wrong_parameter_is_refused_by_name(damage: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
    parameters = network_of(SHAPES[0]).parameters
    damage(parameters)
    with pytest.raises(ValueError, match=message):
        GRU4Rec(SHAPES[0], parameters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_sizes": ()}, "at least one GRU layer"),
        ({"embedding_size": 0}, "every size must be at least 1"),
        ({"embedding_size": 8, "hidden_sizes": (16,)}, "the last layer has width 16 and embedding_size is 8"),
    ],
)
def test_widths_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRU4RecSettings(**arguments)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_settings_survive_plain_values(settings: GRU4RecSettings) -> None:
    assert GRU4RecSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize("values", [{}, {"hidden_sizes": 3, "feedforward_sizes": []}, SHAPES[0].to_dict() | {"x": 1}])
def test_values_that_are_no_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not settings of a GRU4Rec network"):
        GRU4RecSettings.from_dict(values)
