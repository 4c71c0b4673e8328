from typing import get_args

import pytest
from pydantic import ValidationError

from trainer.presets import PRESETS, PresetName
from trainer.settings import TrainerSettings


@pytest.mark.parametrize("name", get_args(PresetName))
def test_every_preset_is_a_network_that_can_be_trained(name: str) -> None:
    settings = TrainerSettings.model_validate({"preset": name})
    settings.network()
    for setting, value in PRESETS[name].items():
        assert getattr(settings, setting) == value


def test_there_is_a_name_for_each_preset_and_no_other() -> None:
    assert set(get_args(PresetName)) == PRESETS.keys()


def test_the_default_preset_is_what_the_settings_are_anyway() -> None:
    assert TrainerSettings.model_validate({"preset": "short-sessions"}) == TrainerSettings()


def test_a_setting_of_ones_own_is_stronger_than_the_preset() -> None:
    settings = TrainerSettings.model_validate({"preset": "long-histories", "batch_size": 7})
    assert (settings.batch_size, settings.backprop_steps) == (7, 16)


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="'short-sessions', 'large-catalogue' or 'long-histories'"):
        TrainerSettings.model_validate({"preset": "long"})
