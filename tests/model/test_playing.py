import numpy as np
import pytest
import torch

from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.playing import CompiledPlayer, PlainPlayer, player_of

CPU = torch.device("cpu")
SHAPES = [
    GRU4RecSettings(embedding_size=8, hidden_sizes=(8,)),
    GRU4RecSettings(embedding_size=9, hidden_sizes=(5, 6), feedforward_sizes=(9,), skip=False),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(6, 8), skip=False, item_input="one_hot"),
    GRU4RecSettings(embedding_size=9, hidden_sizes=(7,), feedforward_sizes=(12, 50, 9), cosine_scale=10),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(8,), item_input="separate", trace_decay=0.5),
    GRU4RecSettings(embedding_size=8, hidden_sizes=(16, 8), trace_decay=0.9, cosine_scale=10.0),
]


def network_of(shape: GRU4RecSettings) -> GRU4Rec:
    generator = torch.Generator().manual_seed(1)
    network = GRU4Rec.initialised(shape, 50, generator)
    for tensor in network.parameters.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator))
    return network


@pytest.mark.parametrize("shape", SHAPES, ids=["one", "two", "one-hot", "feedforward", "trace", "two with trace"])
@pytest.mark.parametrize("clicks", [0, 1, 60])
def test_compiled_states_are_those_of_the_tensor_library(shape: GRU4RecSettings, clicks: int) -> None:
    network, rng = network_of(shape), np.random.default_rng(clicks)
    slots, rows = rng.integers(0, 12, clicks), rng.integers(-1, 50, clicks)
    states = rng.standard_normal((12, network.state_width)).astype(np.float32)
    last_rows, kept = rng.integers(-1, 50, 12), states.copy()
    found = CompiledPlayer(network).play(states, last_rows, slots, rows)
    expected = PlainPlayer(network, CPU).play(states, last_rows, slots, rows)
    np.testing.assert_allclose(found.states, expected.states, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.queries, expected.queries, rtol=1e-5, atol=1e-4)
    assert np.array_equal(found.known, expected.known)
    assert np.array_equal(states, kept)


def test_gates_that_act_after_the_product_are_left_to_the_tensor_library() -> None:
    after = network_of(GRU4RecSettings(embedding_size=8, hidden_sizes=(8,), reset_gate="after"))
    assert isinstance(player_of(after, CPU), PlainPlayer)
    assert isinstance(player_of(network_of(SHAPES[0]), CPU), CompiledPlayer)
