from typing import Any

import numpy as np
import pytest
import torch

from model.gru4rec import GRU4Rec
from model.gru4rec_settings import GRU4RecSettings
from model.recommender import Recommender
from model.vocabulary import Vocabulary

SHAPES = [
    GRU4RecSettings(),
    GRU4RecSettings(embedding_size=5, hidden_sizes=(7, 4), feedforward_sizes=(3, 5), skip=False, item_bias=False),
    GRU4RecSettings(embedding_size=6, hidden_sizes=(6,), item_input="separate", activation="elu"),
    GRU4RecSettings(hidden_sizes=(64, 128), item_input="one_hot", skip=False, reset_gate="after"),
    GRU4RecSettings(activation="leaky_relu", activation_alpha=0.01),
    GRU4RecSettings(skip_weight=2.0, trace_decay=0.5),
    GRU4RecSettings(cosine_scale=10.0),
]

# Settings as they stand in manifests written before item_input, reset_gate and activation could be chosen, and what
# the network of that release answered: versions outlive releases, so these must stay as they are.
GOLDEN = [
    (
        {"embedding_size": 2, "hidden_sizes": [3, 2], "feedforward_sizes": [], "skip": True, "item_bias": True},
        [0.352182, 0.709800, 0.824502, 0.349012, 0.885064],
        [0, 1, 3, 2],
        [1.852862, 1.701111, -0.677392, -2.480346],
    ),
    (
        {"embedding_size": 2, "hidden_sizes": [3], "feedforward_sizes": [2], "skip": False, "item_bias": False},
        [0.666950, -0.197402, -0.513449],
        [2, 3, 0, 1],
        [0.918112, 0.614862, 0.229622, -1.379000],
    ),
]
NAMES_OF_GOLDEN = [
    "embedding",
    "item_bias",
    "gru.0.input_weight",
    "gru.0.recurrent_weight",
    "gru.0.candidate_weight",
    "gru.0.bias",
    "gru.1.input_weight",
    "gru.1.recurrent_weight",
    "gru.1.candidate_weight",
    "gru.1.bias",
]


def network_of_sines(settings: GRU4RecSettings, items: int) -> GRU4Rec:
    """Weights that need no random numbers: sin(0), sin(1), ... through all parameters in order."""
    parameters, start = {}, 0
    for name, shape in settings.shapes(items).items():
        size = int(np.prod(shape))
        parameters[name] = torch.sin(torch.arange(start, start + size, dtype=torch.float32)).reshape(shape)
        start += size
    return GRU4Rec(settings, parameters)


@pytest.mark.parametrize(("values", "state", "rows", "scores"), GOLDEN)
def test_settings_of_an_earlier_release_give_the_answers_of_that_release(
    values: dict[str, Any], state: list[float], rows: list[int], scores: list[float]
) -> None:
    network = network_of_sines(GRU4RecSettings.from_dict(values), 4)
    recommender = Recommender(network, Vocabulary("abcd"), "v")
    states = recommender.encode([[2, 0, 3]])
    forward = recommender.forward(states, np.array([3]), np.array([0]), np.array([1]), 4)
    np.testing.assert_allclose(forward.states[0], state, rtol=0, atol=2e-6)
    assert forward.top_rows[0].tolist() == rows
    np.testing.assert_allclose(forward.scores[0], scores, rtol=0, atol=2e-6)


def test_parameters_of_an_earlier_release_have_their_names() -> None:
    assert list(GRU4RecSettings.from_dict(GOLDEN[0][0]).shapes(4)) == NAMES_OF_GOLDEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_sizes": ()}, "at least one GRU layer"),
        ({"embedding_size": 0}, "every size must be at least 1"),
        ({"embedding_size": 8, "hidden_sizes": (16,)}, "the last layer has width 16 and embedding_size is 8"),
        ({"item_input": "onehot"}, "item_input must be one of shared, separate, one_hot, got 'onehot'"),
        ({"reset_gate": "both"}, "reset_gate must be one of before, after, got 'both'"),
        ({"activation": "relu"}, "activation must be one of linear, tanh, elu, leaky_relu, got 'relu'"),
        ({"item_input": "one_hot"}, "set skip to false"),
        ({"skip_weight": 0.0}, "to add nothing, skip not"),
        ({"cosine_scale": -1.0}, "cosine_scale must be 0"),
        ({"trace_decay": 1.0}, "trace_decay must be from 0 to below 1"),
        ({"activation": "elu", "activation_alpha": 0.0}, "activation_alpha must be above 0"),
        ({"activation": "leaky_relu", "activation_alpha": 1.0}, "for leaky_relu below 1"),
        ({"activation_alpha": float("nan")}, "activation_alpha must be above 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRU4RecSettings(**arguments)


@pytest.mark.parametrize("settings", SHAPES, ids=range(len(SHAPES)))
def test_settings_survive_plain_values(settings: GRU4RecSettings) -> None:
    assert GRU4RecSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"hidden_sizes": 3, "feedforward_sizes": []},
        SHAPES[0].to_dict() | {"x": 1},
        SHAPES[0].to_dict() | {"activation_alpha": "0.5"},
    ],
)
def test_values_that_are_no_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not settings of a GRU4Rec network"):
        GRU4RecSettings.from_dict(values)
