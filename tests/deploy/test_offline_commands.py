"""`nextclick fit` and `evaluate`."""

import json
from pathlib import Path

import numpy as np
import pytest

from deploy.click_generator import generate_clicks
from deploy.shop import Shop, ShopSettings
from model.clicks import Click, ClickTable
from model.registry import Registry
from tests.deploy.command_line import last_json, nextclick, running, write_csv

SMALL = {
    "TRAINER__EMBEDDING_SIZE": "16",
    "TRAINER__HIDDEN_SIZES": "[16]",
    "TRAINER__EPOCHS_FIRST": "2",
    "TRAINER__NEGATIVE_SAMPLES": "64",
}


def shop_clicks(count: int) -> ClickTable:
    generator = np.random.default_rng(2)
    return generate_clicks(Shop(ShopSettings(items=60, categories=6, blocks=1), generator), count, generator)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A file of generated clicks, and a registry with a version that was fitted on all but its last 300 sessions."""
    folder = tmp_path_factory.mktemp("fitted")
    file = write_csv(folder / "clicks.csv", list(shop_clicks(6_000).clicks()))
    result = nextclick("fit", file, "--split", "sessions:300", "--json", REGISTRY=folder / "registry", **SMALL)
    assert result.exit_code == 0, result.stderr
    return file, folder / "registry", last_json(result.stdout)["version"]


def test_a_fit_writes_a_version_and_announces_nothing(fitted: tuple[Path, Path, str]) -> None:
    _, registry, version = fitted
    loaded = Registry(str(registry)).load(version, training=True)

    assert Registry(str(registry)).versions() == [version]
    assert loaded.parent is None
    assert loaded.network.settings.embedding_size == 16
    assert 0 < len(loaded.vocabulary) <= 60


def test_what_training_logs_is_no_part_of_the_result(tmp_path: Path) -> None:
    """What the compiled step does not cover is logged, beside the one line of JSON."""
    file = write_csv(tmp_path / "clicks.csv", list(shop_clicks(1_000).clicks()))
    plain = {**SMALL, "TRAINER__ACTIVATION": "elu", "REGISTRY": str(tmp_path / "registry")}
    with running(tmp_path / "fit", "fit", file, "--json", **plain) as process:
        assert process.end() == 0, process.stderr
        assert json.loads(process.stdout)["items"] > 0
        assert "training without compiled kernels" in process.stderr


def test_an_evaluation_reads_the_newest_version_back_and_it_beats_popularity(fitted: tuple[Path, Path, str]) -> None:
    file, registry, version = fitted
    result = nextclick("evaluate", file, "--split", "sessions:300", "--k", "1,5", "--json", REGISTRY=registry)
    found = last_json(result.stdout)

    assert result.exit_code == 0
    assert result.stderr == ""
    assert (found["version"], found["ties"]) == (version, "conservative")
    assert found["models"]["gru4rec"]["cases"] == found["models"]["popularity"]["cases"] > 100
    assert found["models"]["gru4rec"]["recall@5"] > found["models"]["popularity"]["recall@5"] > 0
    assert found["models"]["gru4rec"]["recall@1"] < found["models"]["gru4rec"]["recall@5"]
    for row in found["models"].values():
        low, high = row["recall@20_interval"]
        assert 0 <= low < high <= 1
        assert row["mrr@20_interval"][0] < row["mrr@20_interval"][1]
    assert found["models"]["gru4rec"]["coverage@20"] > found["models"]["popularity"]["coverage@20"] > 0
    assert found["models"]["gru4rec"]["popularity@20"] < found["models"]["popularity"]["popularity@20"] < 1


def test_an_evaluation_fits_eighty_columns_whatever_the_cutoffs(fitted: tuple[Path, Path, str]) -> None:
    file, registry, version = fitted
    result = nextclick("evaluate", file, "--k", "1,5,10,20,50", "--version", version, REGISTRY=registry)
    lines = result.stdout.splitlines()

    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(version)
    assert [line.split()[1] for line in lines if line.split()[:1] == ["gru4rec"]] == ["1", "5", "10", "20", "50"]
    assert "also those that the version may have learned from" in result.stderr


def test_a_fit_on_clicks_that_teach_nothing_says_so(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "clicks.csv", [Click("s", "i", 1_000), Click("t", "i", 1_000)])
    result = nextclick("fit", file, REGISTRY=tmp_path / "registry")

    assert result.exit_code == 1
    assert result.stderr.endswith("clicks.csv: 2 clicks hold no session of two clicks or more: nothing to learn from\n")
    assert not (tmp_path / "registry").exists()


def test_leave_one_out_evaluates_one_click_a_session_with_and_without_the_items_seen(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "clicks.csv", list(shop_clicks(2_000).clicks()))
    asked = ("--split", "leave-one-out", "--json")
    assert nextclick("fit", file, *asked, REGISTRY=tmp_path / "r", **SMALL).exit_code == 0
    all_items, unseen = (
        last_json(nextclick("evaluate", file, *asked, *more, REGISTRY=tmp_path / "r").stdout)["models"]
        for more in ((), ("--remove-seen",))
    )
    assert 0 < all_items["gru4rec"]["cases"] == unseen["gru4rec"]["cases"] < 1_000
    for model in ("gru4rec", "popularity"):
        assert unseen[model]["recall@20"] > all_items[model]["recall@20"], "fewer items stand ahead of the one clicked"
