"""Click files on disk: which column is what, ids as codes, every notation of time as milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from model.click_wire import MAX_TIMESTAMP_MS
from model.errors import InvalidFileError

SECONDS_BELOW = 1e11  # as seconds the year 5138, as milliseconds 1973: no click file is near either
UNTIMED_STEP_MS = 1000
PERIOD_COLUMN = "period"


@dataclass(frozen=True)
class Columns:
    """One click file; codes count ids in the order in which they appear."""

    session: NDArray[np.int64]
    item: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    period: NDArray[np.int64] | None
    session_ids: list[str]
    item_ids: list[str]
    has_times: bool


def read_columns(path: Path, session_column: str, item_column: str, time_column: str) -> Columns:
    """Read the columns of one file.

    Raises:
        InvalidFileError: With what was expected, what there is, and what to do.
    """
    table = _read_table(path, (session_column, item_column))
    for name, option in ((session_column, "session_column"), (item_column, "item_column")):
        if name not in table.column_names:
            raise InvalidFileError(
                f"{path}: expected a column {name!r}, found {', '.join(table.column_names)}; "
                f"name the right one with {option}"
            )
    session, session_ids = _codes(path, table, session_column)
    item, item_ids = _codes(path, table, item_column)
    has_times = time_column in table.column_names
    if has_times:
        timestamp_ms = _milliseconds(path, table, time_column)
    else:
        timestamp_ms = np.arange(table.num_rows, dtype=np.int64) * UNTIMED_STEP_MS
    period = _integers(path, table, PERIOD_COLUMN) if PERIOD_COLUMN in table.column_names else None
    return Columns(session, item, timestamp_ms, period, session_ids, item_ids, has_times)


def _read_table(path: Path, id_columns: Sequence[str]) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix not in {".parquet", ".csv", ".tsv"}:
        raise InvalidFileError(f"{path}: expected a .parquet, .csv or .tsv file, got {suffix or 'no suffix'}")
    try:
        if suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        separator = "," if suffix == ".csv" else "\t"
        # As they are written: taken for numbers, ids would lose their leading zeros.
        as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(id_columns, pa.string()))
        parsing = pyarrow.csv.ParseOptions(delimiter=separator)
        return pyarrow.csv.read_csv(path, parse_options=parsing, convert_options=as_text)
    except FileNotFoundError as error:
        raise InvalidFileError(f"{path}: there is no such file; check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise InvalidFileError(f"{path}: cannot be read as {suffix}: {error}") from error


def _codes(path: Path, table: pa.Table, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the codes of an id column, int64 [n], and the ids as strings."""
    column = _without_nulls(path, table, name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (pa.types.is_integer(kind) or _is_text(kind)):
        raise InvalidFileError(f"{path}: column {name!r} holds {kind}; ids must be integers or strings")
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    ids = encoded.dictionary.cast(pa.string()).to_pylist()
    if "" in ids:
        raise InvalidFileError(f"{path}: column {name!r} holds empty ids; drop those rows")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), ids


def _milliseconds(path: Path, table: pa.Table, name: str) -> NDArray[np.int64]:
    """Return event times, int64 [n] in ms, whatever the column's notation."""
    column = _without_nulls(path, table, name)
    kind = column.type
    try:
        if _is_text(kind) or pa.types.is_date(kind):
            column = _as_datetimes(column)
        if pa.types.is_timestamp(column.type):
            microseconds = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
            return np.asarray(microseconds.to_numpy() // 1000, dtype=np.int64)
    except pa.ArrowException as error:
        raise InvalidFileError(
            f"{path}: column {name!r} is not a time: {error}; use seconds, milliseconds or ISO 8601"
        ) from error
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InvalidFileError(f"{path}: column {name!r} holds {kind}; times must be numbers or datetimes")
    values = column.to_numpy()
    if not np.isfinite(values).all():
        raise InvalidFileError(f"{path}: column {name!r} holds times that are not finite numbers")
    largest = float(np.abs(values.astype(np.float64)).max(initial=0))
    if largest > MAX_TIMESTAMP_MS:
        raise InvalidFileError(
            f"{path}: column {name!r} holds {largest:.0f}, which is neither seconds nor milliseconds"
        )
    in_seconds = largest < SECONDS_BELOW
    return np.asarray(np.rint(values.astype(np.float64) * (1000 if in_seconds else 1)), dtype=np.int64)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _as_datetimes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read dates, or ISO 8601 texts that all name a zone or all name none."""
    try:
        return column.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return column.cast(pa.timestamp("us", tz="UTC"))


def _integers(path: Path, table: pa.Table, name: str) -> NDArray[np.int64]:
    column = _without_nulls(path, table, name)
    if not pa.types.is_integer(column.type):
        raise InvalidFileError(f"{path}: column {name!r} holds {column.type}; periods must be integers")
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _without_nulls(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    if column.null_count:
        first = pc.index(column.is_null(), value=True).as_py()
        raise InvalidFileError(
            f"{path}: column {name!r} has {column.null_count} empty values, the first in row {first}; "
            "fill them or drop those rows"
        )
    return column
