import msgspec
import pytest

from model.click_wire import Click
from model.errors import InvalidClickError
from stream.records import (
    Answer,
    AnsweredClick,
    DeadLetter,
    Recommendation,
    SourceRecord,
    decode_recommendation,
    encode_recommendation,
)

# What subscribers parse: whoever changes these bytes breaks them.
GOLDEN = (
    '{"session_id":"sessiön","items":["red","blaü"],"scores":[1.5,-0.25],"model_version":"v1",'
    '"click":{"partition":3,"offset":17,"item_id":"green","timestamp":1790000000000},"generated_at":1790000000005}'
).encode()
RECOMMENDATION = Recommendation(
    session_id="sessiön",
    items=["red", "blaü"],
    scores=[1.5, -0.25],
    model_version="v1",
    click=AnsweredClick(3, 17, "green", 1_790_000_000_000),
    generated_at=1_790_000_000_005,
)


def test_a_recommendation_is_the_documented_json() -> None:
    record = SourceRecord(3, 17, 1_790_000_000_001, "sessiön".encode(), b"{}")
    click = Click("sessiön", "green", 1_790_000_000_000)
    text = encode_recommendation(
        record, click, ["red", "blaü"], [1.5, -0.25], version="v1", generated_at=1_790_000_000_005
    )
    assert text == GOLDEN
    assert Answer(record, "v1", text).recommendation == RECOMMENDATION


def test_the_golden_recommendation_is_still_read() -> None:
    assert decode_recommendation(GOLDEN) == RECOMMENDATION


def test_fields_added_later_are_ignored() -> None:
    assert decode_recommendation(GOLDEN[:-1] + b',"reason":{"why":[1]}}') == RECOMMENDATION


def test_bytes_that_are_no_recommendation_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_recommendation(b'{"session_id":"s"}')


def test_headers_of_a_dead_letter_name_its_fault_and_where_it_was() -> None:
    source = SourceRecord(3, 17, 5, b"key", b"value")
    letter = DeadLetter.of(source, InvalidClickError("malformed", "it is not JSON: ü"))
    assert list(letter.headers("clicks")) == [
        ("nextclick.error.reason", b"malformed"),
        ("nextclick.error.message", "it is not JSON: ü".encode()),
        ("nextclick.error.topic", b"clicks"),
        ("nextclick.error.partition", b"3"),
        ("nextclick.error.offset", b"17"),
    ]
    assert letter.record is source
