"""`nextclick simulate`."""

from pathlib import Path

import pytest

from tests.deploy.command_line import last_json, nextclick, write_csv
from tests.deploy.test_offline_commands import SMALL, shop_clicks


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("clicks") / "clicks.csv", list(shop_clicks(6_000).clicks()))


def test_methods_stand_side_by_side_period_by_period(file: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    arguments = ("simulate", file, "--every", "2000clicks", "--method", "never,ours,popularity")
    settings = SMALL | {"TRAINER__FIRST_ROUND_CLICKS": "2000"}
    result = nextclick(*arguments, "--plot", plot, "--json", **settings)
    assert result.exit_code == 0, result.stderr
    found = last_json(result.stdout)
    named = {row["method"]: row for row in found["methods"]}
    assert set(named) == {"never", "never-network", "ours", "ours-network", "popularity"}
    for row in named.values():
        assert {"recall@20", "mrr@20", "ndcg@20", "seconds", "cases"} <= row.keys()
        assert [period["period"] for period in row["periods"]] == [1, 2]
    assert "ours, period 2: Recall@20" in result.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")

    table = nextclick(*arguments, **settings)
    lines = table.stdout.splitlines()
    assert {line.split()[0] for line in lines[1:6]} == set(named)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say one of --every 1d (or 10m, 20000clicks), --online and --by period"),
        (("--every", "1d", "--online"), "say one of --every"),
        (("--every", "daily"), "expected a step such as 10m, 1h, 1d or 20000clicks, got 'daily'"),
        (("--online", "--method", "always"), "'always' is none of never, retrain, plain, ours"),
    ],
)
def test_wrong_usage_is_said_in_one_line(file: Path, arguments: tuple[str, ...], message: str) -> None:
    result = nextclick("simulate", file, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_without_periods_is_refused(file: Path) -> None:
    result = nextclick("simulate", file, "--by", "period")
    assert result.exit_code == 1
    assert f"{file}: there is no column 'period' to cut by" in result.stderr
