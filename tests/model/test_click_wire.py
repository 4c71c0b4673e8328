import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.clicks import DAY_MS, MAX_ID_BYTES, Click, decode_click, encode_click
from model.errors import InvalidClickError

NOW_MS = 1_790_000_000_000
VALID = {"session_id": "s", "item_id": "i", "timestamp": NOW_MS}


def decode(value: bytes | None, key: bytes | None = b"s", record_timestamp_ms: int = NOW_MS) -> Click:
    return decode_click(key, value, record_timestamp_ms)


def decode_fields(key: bytes = b"s", record_timestamp_ms: int = NOW_MS, **fields: object) -> Click:
    return decode(json.dumps(VALID | fields).encode(), key, record_timestamp_ms)


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_ID_BYTES // 4)


@given(session_id=ids, item_id=ids, timestamp_ms=st.integers(0, NOW_MS + DAY_MS))
def test_encoded_click_decodes_to_itself(session_id: str, item_id: str, timestamp_ms: int) -> None:
    click = Click(session_id, item_id, timestamp_ms)
    assert decode_click(session_id.encode(), encode_click(click), NOW_MS) == click


def test_encoded_click_is_the_documented_json() -> None:
    assert encode_click(Click("s", "i", 5)) == b'{"session_id":"s","item_id":"i","timestamp":5}'


def test_unknown_fields_are_ignored() -> None:
    assert decode_fields(price=[1, {"currency": "EUR"}]) == Click("s", "i", NOW_MS)


def test_integer_ids_are_read_as_strings() -> None:
    assert decode_fields(b"17", session_id=17, item_id=-3) == Click("17", "-3", NOW_MS)


@pytest.mark.parametrize(
    "value", [b'{"session_id":"s","item_id":"i"}', b'{"session_id":"s","item_id":"i","timestamp":null}']
)
def test_click_without_a_timestamp_takes_the_record_s(value: bytes) -> None:
    assert decode(value).timestamp_ms == NOW_MS


@pytest.mark.parametrize("timestamp_ms", [0, NOW_MS + DAY_MS])
def test_timestamp_may_be_anything_up_to_a_day_after_the_record_s(timestamp_ms: int) -> None:
    assert decode_fields(timestamp=timestamp_ms).timestamp_ms == timestamp_ms


def test_own_timestamp_counts_where_the_record_has_none() -> None:
    assert decode_fields(record_timestamp_ms=-1).timestamp_ms == NOW_MS


def test_longest_ids_are_accepted() -> None:
    longest = "é" * (MAX_ID_BYTES // 2)
    assert decode_fields(longest.encode(), session_id=longest, item_id=longest).item_id == longest


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"not json", "malformed"),
        (b"[]", "malformed"),
        (b'{"session_id":"s","item_id":"i"', "malformed"),
        (b'{"session_id":"s","item_id":"i"} {}', "malformed"),
        (b'{"session_id":"s","item_id":1.5}', "malformed"),
        (b'{"session_id":"s","item_id":true}', "malformed"),
        (b'{"session_id":"s","item_id":null}', "malformed"),
        (b'{"session_id":"s","item_id":"i","timestamp":"now"}', "malformed"),
        (b'{"session_id":"s","item_id":"i","timestamp":1.5}', "malformed"),
        (b'{"session_id":"s","item_id":"\xff"}', "malformed"),
        (b'{"session_id":"s","item_id":"\\ud800"}', "malformed"),
        (b'{"session_id":"s","item_id":' + b"9" * 5000 + b"}", "malformed"),
        (b'{"session_id":"s","x":' + b"[" * 100_000, "malformed"),
        (b'{"item_id":"i"}', "missing-field"),
        (b'{"session_id":"s"}', "missing-field"),
        (b"{}", "missing-field"),
        (b'{"session_id":"s","item_id":""}', "invalid-id"),
        (b'{"session_id":"s","item_id":"' + b"i" * (MAX_ID_BYTES + 1) + b'"}', "invalid-id"),
        (b'{"session_id":"s","item_id":"' + "é".encode() * (MAX_ID_BYTES // 2 + 1) + b'"}', "invalid-id"),
        (b'{"session_id":"","item_id":"i"}', "invalid-id"),
        (b'{"session_id":"other","item_id":"i"}', "key-mismatch"),
        (b'{"session_id":"s","item_id":"i","timestamp":-1}', "timestamp-out-of-range"),
        (b'{"session_id":"s","item_id":"i","timestamp":%d}' % (NOW_MS + DAY_MS + 1), "timestamp-out-of-range"),
        (b'{"session_id":"s","item_id":"i","timestamp":%d}' % 10**30, "timestamp-out-of-range"),
    ],
)
def test_record_that_is_no_click_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(InvalidClickError) as refused:
        decode(value)
    assert refused.value.reason == reason


def test_session_id_longer_than_allowed_is_refused() -> None:
    longer = "s" * (MAX_ID_BYTES + 1)
    with pytest.raises(InvalidClickError) as refused:
        decode_fields(longer.encode(), session_id=longer)
    assert refused.value.reason == "invalid-id"


def test_record_without_a_key_is_refused() -> None:
    with pytest.raises(InvalidClickError) as refused:
        decode(encode_click(Click("s", "i", NOW_MS)), key=None)
    assert refused.value.reason == "key-mismatch"


def test_click_without_any_time_is_refused() -> None:
    with pytest.raises(InvalidClickError) as refused:
        decode(b'{"session_id":"s","item_id":"i"}', record_timestamp_ms=-1)
    assert refused.value.reason == "timestamp-out-of-range"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*VALID, "x"]), inner, max_size=4),
    max_leaves=6,
)


@given(
    key=st.none() | st.binary(max_size=8),
    value=st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()),
    record_timestamp_ms=st.integers(-1, 2**62),
)
def test_no_bytes_raise_anything_but_an_invalid_click(
    key: bytes | None, value: bytes, record_timestamp_ms: int
) -> None:
    try:
        click = decode_click(key, value, record_timestamp_ms)
    except InvalidClickError:
        return
    assert click.session_id.encode() == key
    assert click.item_id
    assert click.timestamp_ms >= 0
