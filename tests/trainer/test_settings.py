import pytest
from pydantic import ValidationError

from trainer.settings import TrainerSettings


def test_every_setting_is_described() -> None:
    assert [name for name, field in TrainerSettings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding_size": 64}, "they must be equal"),
        ({"round_clicks": None, "round_interval_s": None}, "no round ever starts"),
        ({"window_clicks": 5_000}, "but a round asks for 10000"),
        ({"loss": "bpr_max", "negative_samples": 0}, "bpr_max needs negative_samples"),
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


def test_waits_double_up_to_the_longest() -> None:
    settings = TrainerSettings(retry_first_s=1, retry_longest_s=10)
    assert [settings.retry_wait_s(failures) for failures in (0, 1, 2, 3, 4, 10_000)] == [1, 2, 4, 8, 10, 10]
