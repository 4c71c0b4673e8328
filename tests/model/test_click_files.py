import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from model.clicks import read_clicks
from model.errors import InvalidFileError

SECONDS = 1_396_321_341.719
MILLISECONDS = 1_396_321_341_719
MOMENT = dt.datetime(2014, 4, 1, 3, 2, 21, 719_000)  # noqa: DTZ001 -- files hold naive datetimes, read as UTC


def write(path: Path, **columns: Any) -> Path:
    defaults: dict[str, Any] = {"session_id": [7, 8, 7], "item_id": ["x", "y", "z"]}
    pyarrow.parquet.write_table(pa.table(defaults | columns), path)
    return path


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([SECONDS] * 3, id="float seconds"),
        pytest.param([MILLISECONDS] * 3, id="integer milliseconds"),
        pytest.param([float(MILLISECONDS)] * 3, id="float milliseconds"),
        pytest.param([MOMENT] * 3, id="naive datetimes"),
        pytest.param([MOMENT.replace(tzinfo=dt.UTC)] * 3, id="UTC datetimes"),
        pytest.param(pa.array([MOMENT] * 3, pa.timestamp("ns")), id="nanosecond datetimes"),
        pytest.param([MOMENT.isoformat()] * 3, id="ISO 8601 text"),
        pytest.param([MOMENT.isoformat() + "Z"] * 3, id="ISO 8601 text with a zone"),
    ],
)
def test_every_notation_of_time_is_read_as_the_same_milliseconds(tmp_path: Path, times: Any) -> None:
    table = read_clicks(write(tmp_path / "clicks.parquet", timestamp=times))
    assert table.timestamp_ms.tolist() == [MILLISECONDS] * 3
    assert table.has_times


def test_small_integer_times_are_seconds(tmp_path: Path) -> None:
    table = read_clicks(write(tmp_path / "clicks.parquet", timestamp=[1, 2, 10**10]))
    assert table.timestamp_ms.tolist() == [1000, 2000, 10**13]


def test_dates_are_midnights(tmp_path: Path) -> None:
    table = read_clicks(write(tmp_path / "clicks.parquet", timestamp=[dt.date(1970, 1, 2)] * 3))
    assert table.timestamp_ms.tolist() == [86_400_000] * 3


def test_file_order_is_the_order_of_time_where_no_column_says_otherwise(tmp_path: Path) -> None:
    table = read_clicks(write(tmp_path / "clicks.parquet"))
    assert table.timestamp_ms.tolist() == [0, 1000, 2000]
    assert not table.has_times


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_text_files_read_like_parquet(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"clicks{suffix}"
    lines = [["session_id", "item_id", "timestamp"], ["7", "x", "5"], ["8", "10", "6"]]
    path.write_text("".join(separator.join(line) + "\n" for line in lines))
    table = read_clicks(path)
    assert (table.session_ids, table.item_ids) == (["7", "8"], ["x", "10"])
    assert table.timestamp_ms.tolist() == [5000, 6000]


def test_ids_are_coded_by_their_first_appearance_and_read_as_strings(tmp_path: Path) -> None:
    table = read_clicks(write(tmp_path / "clicks.parquet", item_id=[30, 10, 30]))
    assert table.session.tolist() == [0, 1, 0]
    assert table.session_ids == ["7", "8"]
    assert table.item.tolist() == [0, 1, 0]
    assert table.item_ids == ["30", "10"]


@pytest.mark.parametrize(
    "ids", [["007", "7", "07"], ["2014-04-01", "b", "c"], ["9" * 30, "1", "2"], ["1.0", "1", "true"]]
)
def test_ids_in_text_files_are_what_is_written_there(tmp_path: Path, ids: list[str]) -> None:
    path = tmp_path / "clicks.csv"
    lines = [f"{one},{other}" for one, other in zip(ids, ids[::-1], strict=True)]
    path.write_text("\n".join(["session_id,item_id", *lines]))
    table = read_clicks(path)
    assert [table.session_ids[code] for code in table.session] == ids
    assert [table.item_ids[code] for code in table.item] == ids[::-1]


def test_ids_stored_as_a_dictionary_read_like_plain_ones(tmp_path: Path) -> None:
    encoded = pa.array(["z", "x", "z"]).dictionary_encode()
    table = read_clicks(write(tmp_path / "clicks.parquet", item_id=encoded))
    assert [click.item_id for click in table.clicks()] == ["z", "x", "z"]


def test_periods_are_kept(tmp_path: Path) -> None:
    table = read_clicks(write(tmp_path / "clicks.parquet", period=pa.array([0, 0, 1], pa.int8())))
    assert table.period is not None
    assert table.period.tolist() == [0, 0, 1]


def test_columns_of_other_names_are_read_where_they_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.parquet", user=["a", "b", "b"], product=[1, 2, 3], seen=[4, 5, 6])
    table = read_clicks(path, session_column="user", item_column="product", time_column="seen")
    assert [(c.session_id, c.item_id, c.timestamp_ms) for c in table.clicks()] == [
        ("a", "1", 4000),
        ("b", "2", 5000),
        ("b", "3", 6000),
    ]


def test_file_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.parquet", session_id=pa.array([], pa.int32()), item_id=pa.array([], pa.string()))
    assert len(read_clicks(path)) == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": [1, None, 3]}, "'item_id' has 1 empty values, the first in row 1"),
        ({"item_id": ["x", "", "z"]}, "'item_id' holds empty ids"),
        ({"item_id": [1.0, 2.0, 3.0]}, "'item_id' holds double; ids must be integers or strings"),
        ({"timestamp": [1.0, float("nan"), 3.0]}, "'timestamp' holds times that are not finite"),
        ({"timestamp": [MILLISECONDS * 1000] * 3}, "neither seconds nor milliseconds"),
        ({"timestamp": ["yesterday"] * 3}, "'timestamp' is not a time"),
        ({"timestamp": [True, False, True]}, "'timestamp' holds bool; times must be numbers or datetimes"),
        ({"period": ["one"] * 3}, "'period' holds string; periods must be integers"),
    ],
)
def test_unusable_column_is_refused_by_name(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFileError, match=message):
        read_clicks(write(tmp_path / "clicks.parquet", **columns))


def test_missing_column_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.parquet")
    with pytest.raises(
        InvalidFileError, match=r"expected a column 'user', found session_id, item_id; .* session_column"
    ):
        read_clicks(path, session_column="user")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="there is no such file"):
        read_clicks(tmp_path / "clicks.parquet")


def test_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"expected a \.parquet, \.csv or \.tsv file, got \.json"):
        read_clicks(tmp_path / "clicks.json")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_file_of_other_content_than_its_suffix_says_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clicks{suffix}"
    path.write_bytes(b"a,b\n1\n2,3\n")
    with pytest.raises(InvalidFileError, match="cannot be read as"):
        read_clicks(path)
