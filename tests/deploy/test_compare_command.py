"""`nextclick compare`."""

from pathlib import Path

import pytest

from tests.deploy.command_line import last_json, nextclick, write_csv
from tests.deploy.test_offline_commands import SMALL, shop_clicks


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("clicks") / "clicks.csv", list(shop_clicks(3_000).clicks()))


def test_models_stand_side_by_side_in_a_table_in_json_and_in_a_picture(file: Path, tmp_path: Path) -> None:
    arguments = ("compare", file, "--split", "sessions:100", "--models", "gru4rec,item_knn,popularity", "--k", "1,5")
    results, plot = tmp_path / "rows", tmp_path / "plot.png"
    result = nextclick(*arguments, "--results", results, "--plot", plot, "--json", **SMALL)
    assert result.exit_code == 0, result.stderr
    found = last_json(result.stdout)
    assert [row["model"] for row in found["rows"]] == ["gru4rec", "item-knn", "popularity"]
    named = {"recall@1", "recall@5", "recall@20", "mrr@20", "ndcg@10", "hr@10", "cases", "train_s", "ms_per_answer"}
    assert all(named <= row.keys() for row in found["rows"])
    assert len({row["cases"] for row in found["rows"]}) == 1
    assert (found["network"]["embedding_size"], found["recipe"]["negative_samples"]) == (16, 64)
    assert plot.read_bytes().startswith(b"\x89PNG")

    table = nextclick(*arguments, "--results", results, **SMALL)
    lines = table.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:4]] == ["gru4rec", "item-knn", "popularity"]
    coverage = {line.split()[0]: float(line.split()[-2]) for line in lines[5:8]}
    assert coverage == {row["model"]: round(row["coverage@20"], 4) for row in found["rows"]}
    assert len(results.read_text().splitlines()) == 3, "the second call found nothing anew"


def test_several_seeds_give_means_and_spreads_and_can_be_resumed(file: Path, tmp_path: Path) -> None:
    arguments = ("compare", file, "--split", "sessions:100", "--models", "gru4rec-network,popularity", "--json")
    results, shelf = tmp_path / "rows", tmp_path / "shelf"
    alone = last_json(nextclick(*arguments, "--results", results, "--seeds", "1", **SMALL).stdout)
    both = last_json(nextclick(*arguments, "--results", results, "--seeds", "1,2", "--keep", shelf, **SMALL).stdout)
    assert (alone["seeds"], both["seeds"]) == ([1], [1, 2])
    assert "spread" not in alone["rows"][0]
    assert len(results.read_text().splitlines()) == 4, "seed 1 was not trained again"
    network, popular = both["rows"]
    low, high = network["spread"]["mrr@20"]
    assert low < high
    assert alone["rows"][0]["mrr@20"] in {low, high}
    assert network["mrr@20"] == pytest.approx((low + high) / 2)
    assert network["cases"] == alone["rows"][0]["cases"]
    assert popular["spread"]["recall@20"] == [popular["recall@20"]] * 2
    assert [folder.name.rsplit("-", 1)[0] for folder in shelf.iterdir()] == ["popularity"], "that of seed 2"


def test_leave_one_out_ranks_one_click_a_session(file: Path) -> None:
    arguments = ("--split", "leave-one-out", "--remove-seen", "--models", "popularity", "--json")
    found = last_json(nextclick("compare", file, *arguments).stdout)
    sessions = {click.session_id for click in shop_clicks(3_000).clicks()}
    assert 0 < found["rows"][0]["cases"] <= len(sessions)
    assert (found["split"], found["remove_seen"]) == ("leave-one-out", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "days:1", "--models", "gru4rec,gru"), "'gru' is none of gru4rec, gru4rec-network, popularity"),
        (("--split", "hours:1"), "--split: expected leave-one-out, days:N"),
        (("--split", "days:1", "--k", "0"), "--k: expected numbers of at least 1"),
        (("--split", "days:1", "--seeds", "0;1"), "--seeds: expected whole numbers"),
    ],
)
def test_wrong_usage_is_said_in_one_line(file: Path, arguments: tuple[str, ...], message: str) -> None:
    result = nextclick("compare", file, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
