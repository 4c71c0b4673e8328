from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.gru4rec_settings import Activation

SHAPES = [
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,)),
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), skip=False, item_bias=False),
    GRU4RecSettings(embedding_size=5, hidden_sizes=(7, 4), feedforward_sizes=(3, 5)),
    GRU4RecSettings(embedding_size=5, hidden_sizes=(7, 4), feedforward_sizes=(5,), skip_weight=1.7, trace_decay=0.6),
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), skip_weight=0.5),
    GRU4RecSettings(embedding_size=4, hidden_sizes=(8,), feedforward_sizes=(4,), skip=False),
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), item_input="separate", activation="tanh"),
    GRU4RecSettings(embedding_size=4, hidden_sizes=(7, 4), item_input="one_hot", skip=False),
    GRU4RecSettings(embedding_size=5, hidden_sizes=(7, 5), reset_gate="after", activation="elu", activation_alpha=0.7),
    GRU4RecSettings(5, (5,), skip=False, item_input="one_hot", reset_gate="after", activation="leaky_relu"),
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), cosine_scale=9.0, trace_decay=0.5),
    GRU4RecSettings(5, (7, 5), cosine_scale=3.0, item_bias=False, item_input="separate"),
]

shapes = pytest.mark.parametrize("settings", SHAPES, ids=range(len(SHAPES)))


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


def item_vectors(network: GRU4Rec, rows: list[int]) -> NDArray[np.float64]:
    """What the network takes in: vectors, or where the input is one-hot, vectors of zeros and a one."""
    if network.settings.item_input == "one_hot":
        return np.eye(network.item_count)[rows]
    name = "embedding" if network.settings.item_input == "shared" else "item_input"
    vectors = float64(network)[name][rows]
    if network.settings.cosine_scale and name == "embedding":
        return 0.1 * np.sqrt(network.settings.embedding_size) * unit(vectors)
    return vectors


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))


def step_by_the_formula(network: GRU4Rec, x: NDArray[np.float64], state: NDArray[np.float64]) -> NDArray[np.float64]:
    """One step of every layer in float64, gate by gate, one session at a time."""
    parameters, new_states = float64(network), []
    if network.settings.item_input == "one_hot":
        parameters["gru.0.input_weight"] = parameters["item_input"]
    for clicked, old in zip(x, state, strict=True):
        below, start, new = clicked, 0, []
        for layer, width in enumerate(network.settings.hidden_sizes):
            h = old[start : start + width]
            start += width
            w_z, w_r, w_c = np.split(parameters[f"gru.{layer}.input_weight"], 3, axis=1)
            b_z, b_r, b_c = np.split(parameters[f"gru.{layer}.bias"], 3)
            recurrent = parameters[f"gru.{layer}.recurrent_weight"]
            z = sigmoid(below @ w_z + h @ recurrent[:, :width] + b_z)
            r = sigmoid(below @ w_r + h @ recurrent[:, width : 2 * width] + b_r)
            if network.settings.reset_gate == "before":
                kept = (r * h) @ parameters[f"gru.{layer}.candidate_weight"]
            else:
                kept = r * (h @ recurrent[:, 2 * width :] + parameters[f"gru.{layer}.candidate_bias"])
            below = (1 - z) * h + z * np.tanh(below @ w_c + kept + b_c)
            new.append(below)
        if network.settings.trace_width:
            new.append(clicked + network.settings.trace_decay * old[start:])
        new_states.append(np.concatenate(new))
    return np.array(new_states)


def scores_by_the_formula(network: GRU4Rec, state: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    parameters, settings = float64(network), network.settings
    hidden = sum(settings.hidden_sizes)
    output = state[:, hidden - settings.hidden_sizes[-1] : hidden]
    for layer in range(len(settings.feedforward_sizes)):
        output = np.tanh(output) if layer else output
        output = output @ parameters[f"feedforward.{layer}.weight"] + parameters[f"feedforward.{layer}.bias"]
    trace = state[:, hidden:] if settings.trace_width else x
    output = output + settings.skip_weight * trace if settings.skip else output
    if settings.cosine_scale:
        scores = settings.cosine_scale * unit(output) @ unit(parameters["embedding"]).T
    else:
        scores = output @ parameters["embedding"].T
    return activated(settings, scores + parameters["item_bias"] if settings.item_bias else scores)


def activated(settings: GRU4RecSettings, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    alpha = settings.activation_alpha
    below_zero = {
        "linear": scores,
        "tanh": np.tanh(scores),
        "elu": alpha * (np.exp(scores) - 1),
        "leaky_relu": alpha * scores,
    }[settings.activation]
    return np.where(scores > 0, np.tanh(scores) if settings.activation == "tanh" else scores, below_zero)


@shapes
def test_one_step_and_its_scores_equal_the_formula_in_float64(settings: GRU4RecSettings) -> None:
    network = network_of(settings)
    rows = [8, 0, 3, 3, 5]
    state = np.random.default_rng(3).standard_normal((5, network.state_width))
    x = item_vectors(network, rows)
    expected_state = step_by_the_formula(network, x, state)
    expected_scores = scores_by_the_formula(network, expected_state, x)

    x32, state32 = network.inputs(torch.tensor(rows)), torch.tensor(state, dtype=torch.float32)
    new_state = network.advance(x32, state32)
    scores = network.activated(network.score_all(network.query(new_state, x32)))
    np.testing.assert_allclose(new_state.numpy(), expected_state, rtol=0, atol=2e-6)
    np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(state32.numpy(), state.astype(np.float32))


def test_reset_after_the_product_is_the_gru_of_torch() -> None:
    """Torch weighs the old state by its update gate and we the new one, so that gate's signs are turned."""
    cell = torch.nn.GRUCell(3, 5)
    with torch.no_grad():
        w_r, w_z, w_n = cell.weight_ih.T.chunk(3, dim=1)
        u_r, u_z, u_n = cell.weight_hh.T.chunk(3, dim=1)
        (b_r, b_z, b_n), (d_r, d_z, d_n) = cell.bias_ih.chunk(3), cell.bias_hh.chunk(3)
        settings = GRU4RecSettings(5, (5,), item_input="one_hot", skip=False, reset_gate="after")
        vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
        copied = {
            "embedding": torch.zeros(4, 5),
            "item_bias": torch.zeros(4),
            "item_input": vectors @ torch.cat([-w_z, w_r, w_n], dim=1),
            "gru.0.recurrent_weight": torch.cat([-u_z, u_r, u_n], dim=1),
            "gru.0.candidate_bias": d_n.clone(),
            "gru.0.bias": torch.cat([-b_z - d_z, b_r + d_r, b_n]),
        }
        network, state = GRU4Rec(settings, copied), torch.zeros(2, 5)
        expected = state
        for rows in ([0, 3], [2, 2], [1, 0]):
            state = network.advance(network.inputs(torch.tensor(rows)), state)
            expected = cell(vectors[rows], expected)
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)


@shapes
def test_a_network_made_ready_scores_as_before(settings: GRU4RecSettings) -> None:
    network = network_of(settings)
    query = torch.randn(4, settings.embedding_size, generator=torch.Generator().manual_seed(4))
    ready = network.ready()
    assert torch.equal(ready.score_all(query), network.score_all(query))
    assert torch.equal(ready.score_all(query, slice(3, 7)), network.score_all(query, slice(3, 7)))


def test_cosines_do_not_depend_on_the_length_of_item_vectors() -> None:
    network = network_of(SHAPES[-2])
    query, rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(4)), torch.tensor([1, 5])
    before = network.score_all(query), network.inputs(rows)
    network.parameters["embedding"].mul_(torch.arange(1, 10).unsqueeze(1))
    torch.testing.assert_close((network.score_all(query), network.inputs(rows)), before)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_no_activation_reverses_the_order_of_two_scores(activation: Activation) -> None:
    settings = GRU4RecSettings(embedding_size=1, hidden_sizes=(1,), activation=activation)
    network = GRU4Rec.initialised(settings, 1, torch.Generator())
    assert (network.activated(torch.linspace(-30, 30, 601)).diff() >= 0).all()


def test_dropout_between_layers_never_reaches_the_carried_state_of_its_own_layer() -> None:
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(6, 4)))
    x, state = torch.ones(3, 4), torch.full((3, 10), 0.5)
    kept = network.advance(x, state)
    dropped = network.advance(x, state, dropout=torch.zeros_like)
    assert torch.equal(kept[:, :6], dropped[:, :6])
    assert not torch.equal(kept[:, 6:], dropped[:, 6:])


def test_dropout_of_the_carried_state_is_that_of_the_way_up() -> None:
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(6, 4), skip=True, trace_decay=0.5))
    generator = torch.Generator().manual_seed(2)
    x, state = torch.ones(3, 4), torch.full((3, 14), 0.5)
    masks = [(torch.rand(3, width, generator=generator) < 0.5) * 2.0 for width in (6, 4)]
    left = iter(masks)
    dropped = network.advance(x, state, lambda output: output * next(left), carries_dropped=True)
    left = iter(masks)
    kept = network.advance(x, state, lambda output: output * next(left))
    torch.testing.assert_close(dropped, kept * torch.cat([*masks, torch.ones(3, 4)], dim=1))


def test_dropout_of_a_query_leaves_the_skipped_embedding() -> None:
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(4,)))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network.query(torch.ones(3, 4), x, dropout=torch.zeros_like), x)


@shapes
def test_gradients_of_a_step_and_its_scores_equal_finite_differences(settings: GRU4RecSettings) -> None:
    network = network_of(settings, items=3)
    names = list(network.parameters)
    state = torch.randn(2, network.state_width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    tensors = [tensor.double().requires_grad_() for tensor in network.parameters.values()]

    def scores(state: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        network.parameters.update(zip(names, values, strict=True))
        x = network.inputs(torch.tensor([2, 0]))
        return network.activated(network.score_all(network.query(network.advance(x, state), x)))

    assert torch.autograd.gradcheck(scores, (state.requires_grad_(), *tensors))


@shapes
def test_untrained_matrices_fill_their_interval_and_biases_are_zero(settings: GRU4RecSettings) -> None:
    network = GRU4Rec.initialised(settings, 2000, torch.Generator().manual_seed(1))
    for name, tensor in network.parameters.items():
        if tensor.dim() == 1:
            assert not tensor.any(), name
            continue
        # The gates of a layer lie side by side, and each is a matrix of its own.
        is_of_gates = name.startswith("gru") or (name == "item_input" and settings.item_input == "one_hot")
        columns = settings.hidden_sizes[int(name.split(".")[1] if "." in name else 0)] if is_of_gates else None
        bound = (6 / (tensor.shape[0] + (columns or tensor.shape[1]))) ** 0.5
        assert tensor.abs().max() <= bound, name
        # 12 or more uniform values all within 60 % of their interval: odds 0.6^12, about 1 in 500 for another seed.
        assert tensor.abs().max() > 0.6 * bound, name


def test_same_generator_state_gives_the_same_network() -> None:
    networks = [GRU4Rec.initialised(SHAPES[2], 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    embeddings = [network.parameters["embedding"] for network in networks]
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])


@shapes
def test_new_items_leave_old_scores_as_they_were(settings: GRU4RecSettings) -> None:
    network = network_of(settings, items=6)
    grown = network.with_items(9, generator=torch.Generator().manual_seed(3))
    queries = torch.randn(2, settings.embedding_size, generator=torch.Generator().manual_seed(4))
    assert grown.item_count == 9
    assert network.item_count == 6
    torch.testing.assert_close(grown.score_all(queries)[:, :6], network.score_all(queries), rtol=0, atol=1e-6)


@shapes
def test_new_items_take_the_vectors_given_and_no_bias(settings: GRU4RecSettings) -> None:
    network = network_of(settings, items=3)
    tables = network.item_tables.items()
    vectors = {name: torch.full((2, table.shape[1]), 7.0) for name, table in tables if table.dim() > 1}
    grown = network.with_items(5, vectors=vectors)
    for name, table in tables:
        assert torch.equal(grown.parameters[name][:3], table)
        assert torch.equal(grown.parameters[name][3:], vectors.get(name, torch.zeros(2)))


@shapes
def test_new_items_are_drawn_in_every_table_with_a_row_per_item(settings: GRU4RecSettings) -> None:
    grown = network_of(settings, items=3).with_items(2003, generator=torch.Generator().manual_seed(3))
    untrained = GRU4Rec.initialised(settings, 2003, torch.Generator().manual_seed(4))
    for name, table in grown.item_tables.items():
        # Both fill the same interval: 6,000 values or more leave its last hundredth empty with odds of 0.99^6000.
        torch.testing.assert_close(table[3:].abs().max(), untrained.parameters[name].abs().max(), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, r"rows of 'embedding' must have shape \[2, 6\], got none"),
        ({"embedding": torch.zeros(2, 6)}, r"rows of 'item_input' must have shape \[2, 6\], got none"),
        ({"embedding": torch.zeros(1, 6)}, r"rows of 'embedding' must have shape \[2, 6\], got shape \[1, 6\]"),
        ({"embedding": torch.zeros(2, 6), "gru.0.bias": torch.zeros(2)}, "'gru.0.bias' is no table"),
    ],
)
def test_new_items_without_a_row_for_each_table_are_refused(vectors: dict[str, torch.Tensor], message: str) -> None:
    settings = GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), item_input="separate")
    with pytest.raises(ValueError, match=message):
        network_of(settings, items=3).with_items(5, vectors=vectors)


def test_items_are_never_removed() -> None:
    with pytest.raises(ValueError, match="rows are never removed"):
        network_of(SHAPES[0], items=5).with_items(4, generator=torch.Generator())


@pytest.mark.parametrize(
    "arguments", [{}, {"generator": torch.Generator(), "vectors": {"embedding": torch.zeros(1, 6)}}]
)
def test_new_items_need_one_source_of_vectors(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a generator or the vectors"):
        network_of(SHAPES[0], items=5).with_items(6, **arguments)


@shapes
def test_dense_parameters_are_all_but_the_tables_with_a_row_per_item(settings: GRU4RecSettings) -> None:
    network = network_of(settings, items=997)
    has_row_per_item = {name for name, tensor in network.parameters.items() if len(tensor) == 997}
    assert set(network.item_tables) == has_row_per_item
    assert set(network.dense_parameter_names) == set(network.parameters) - has_row_per_item


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
