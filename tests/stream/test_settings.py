from pathlib import Path

import pytest
from pydantic import ValidationError

from stream.settings import Topics, WorkerSettings


@pytest.mark.parametrize("settings", [Topics(), WorkerSettings()], ids=["topics", "worker"])
def test_every_setting_is_described(settings: Topics | WorkerSettings) -> None:
    assert all(field.description for field in type(settings).model_fields.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0},
        {"top_k": 256},
        {"batch_cap": 0},
        {"idle_ms": 0},
        {"sweep_interval_s": 0},
        {"delivery_timeout_s": -1},
        {"dead_letter_ratio": 0},
        {"dead_letter_ratio": 1.1},
        {"versions_kept": 0},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        WorkerSettings.model_validate(wrong)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WorkerSettings().data_dir = Path("elsewhere")  # type: ignore[misc]
