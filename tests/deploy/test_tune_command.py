"""`nextclick tune`, and what takes the file that it writes."""

import json
from pathlib import Path

import pytest

from model.registry import Registry
from tests.deploy.command_line import last_json, nextclick, write_csv
from tests.deploy.test_offline_commands import SMALL, shop_clicks


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("clicks") / "clicks.csv", list(shop_clicks(3_000).clicks()))


def test_what_tune_writes_is_what_fit_takes(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.json"
    result = nextclick("tune", file, "--split", "sessions:100", "--trials", "2", "--out", out, "--json", **SMALL)
    assert result.exit_code == 0, result.stderr
    found = last_json(result.stdout)
    assert (found["trials"], found["metrics"]["cases"] > 0) == (2, True)
    assert json.loads(out.read_text()) == found["settings"]

    fitted = nextclick("fit", file, "--recipe", out, "--json", REGISTRY=tmp_path / "registry", **SMALL)
    assert fitted.exit_code == 0, fitted.stderr
    recipe = Registry(str(tmp_path / "registry")).manifest(last_json(fitted.stdout)["version"]).training
    assert recipe["epochs_first"] == found["settings"]["epochs_first"], "stronger than the environment's"


def test_a_preset_shapes_the_network_of_a_fit(file: Path, tmp_path: Path) -> None:
    result = nextclick(
        "fit", file, "--preset", "long-histories", "--json", REGISTRY=tmp_path / "r", TRAINER__EPOCHS_FIRST="1"
    )
    assert result.exit_code == 0, result.stderr
    manifest = Registry(str(tmp_path / "r")).manifest(last_json(result.stdout)["version"])
    assert manifest.training["backprop_steps"] == 16
    assert manifest.training["epochs_first"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON object of trainer settings, got list"),
        ('{"epochs": 3}', "'epochs' is no setting of the trainer"),
    ],
)
def test_a_recipe_that_is_none_is_refused_in_one_line(file: Path, tmp_path: Path, content: str, message: str) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(content)
    result = nextclick("fit", file, "--recipe", recipe, REGISTRY=tmp_path / "r")
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_recipe_that_is_missing_is_said_to_be(file: Path, tmp_path: Path) -> None:
    result = nextclick("fit", file, "--recipe", tmp_path / "none.json", REGISTRY=tmp_path / "r")
    assert result.exit_code == 1
    assert "there is no such file; `nextclick tune` writes one" in result.stderr
