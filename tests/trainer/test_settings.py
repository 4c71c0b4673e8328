from typing import Any

import pytest
import torch
from pydantic import ValidationError

from model.gru4rec import GRU4RecSettings
from model.losses import LOSSES
from trainer.settings import TrainerSettings

PAIRWISE = sorted(LOSSES.keys() - {"cross_entropy", "info_nce"})


def test_every_setting_is_described() -> None:
    assert [name for name, field in TrainerSettings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding_size": 64}, "they must be equal"),
        ({"round_clicks": None, "round_interval_s": None}, "no round ever starts"),
        ({"window_clicks": 5_000}, "but a round asks for 10000"),
        *(({"loss": loss, "negative_samples": 0}, f"{loss} needs negative_samples") for loss in PAIRWISE),
        ({"item_input": "one_hot", "embedding_dropout": 0}, "set skip to false and embedding_dropout to 0"),
        ({"item_input": "one_hot", "skip": False}, "set skip to false and embedding_dropout to 0"),
        ({"loss": "no_such_loss"}, "Input should be 'cross_entropy'"),
        ({"temperature": 0}, "greater than 0"),
        ({"activation_alpha": 0}, "greater than 0"),
        ({"activation": "leaky_relu", "activation_alpha": 1.5}, "for leaky_relu below 1"),
        ({"embedding_dropout": 1.0}, "less than 1"),
        ({"holdout_share": 0.0}, "greater than 0"),
        ({"no_such_setting": 1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_told_why(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainerSettings.model_validate(changes)


def test_the_recipe_in_the_manifest_holds_what_shapes_the_weights_and_no_secret_of_the_process() -> None:
    recipe = TrainerSettings(learning_rate=0.07).recipe()
    assert recipe["learning_rate"] == 0.07
    assert recipe["epochs_round"] == 2
    assert not recipe.keys() & {"device", "threads", "poll_s", "kafka_timeout_s"}


@pytest.mark.usefixtures("torch_as_it_was")
def test_the_tensor_library_is_told_its_threads_and_how_precise_its_products_are() -> None:
    TrainerSettings(threads=2, matmul_precision="high").prepare_torch()
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "high")


@pytest.mark.parametrize(
    ("changes", "dropouts"),
    [
        ({}, (0.3, 0.3)),
        ({"dropout_round": 0.5}, (0.5, 0.5)),
        ({"dropout_round": 0.0}, (0.0, 0.0)),
        ({"dropout_round": 0.5, "embedding_dropout": 0.0}, (0.0, 0.5)),
    ],
)
def test_rounds_may_have_a_dropout_of_their_own_but_none_that_the_first_has_not(
    changes: dict[str, float], dropouts: tuple[float, float]
) -> None:
    settings = TrainerSettings.model_validate(changes)
    rounds = settings.of_rounds()
    assert (rounds.embedding_dropout, rounds.hidden_dropout) == dropouts
    assert rounds.recipe().keys() == settings.recipe().keys()
    assert settings.recipe()["dropout_round"] == changes.get("dropout_round")


def test_whatever_gives_a_network_its_form_is_passed_on() -> None:
    form: dict[str, Any] = {
        "skip_weight": 3.0,
        "cosine_scale": 7.0,
        "trace_decay": 0.25,
        "item_input": "separate",
        "reset_gate": "after",
        "activation": "elu",
        "activation_alpha": 2.0,
    }
    shape = TrainerSettings.model_validate({"embedding_size": 8, "hidden_sizes": [8], **form}).network()
    assert shape == GRU4RecSettings(embedding_size=8, hidden_sizes=(8,), **form)


@pytest.mark.parametrize(
    ("loss", "option", "values"),
    [
        ("bpr_max", "bpr_regularisation", (0.0, 1.0)),
        ("bpr_max", "bpr_elu", (0.0, 1.0)),
        ("info_nce", "temperature", (0.5, 1.0)),
        ("cross_entropy", "label_smoothing", (0.0, 0.5)),
    ],
)
def test_every_option_reaches_its_loss_and_the_recipe(loss: str, option: str, values: tuple[float, float]) -> None:
    scores = torch.tensor([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]])
    settings = [TrainerSettings.model_validate({"loss": loss, option: value}) for value in values]
    assert settings[0].loss_function()(scores) != settings[1].loss_function()(scores)
    assert [one.recipe()[option] for one in settings] == list(values)


def test_waits_double_up_to_the_longest() -> None:
    settings = TrainerSettings(retry_first_s=1, retry_longest_s=10)
    assert [settings.retry_wait_s(failures) for failures in (0, 1, 2, 3, 4, 10_000)] == [1, 2, 4, 8, 10, 10]
