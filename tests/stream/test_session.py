from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.session import (
    HISTORY_ITEMS,
    DamagedSessionError,
    Session,
    StateDtype,
    decode_session,
    encode_session,
    last_click,
)
from tests.stream.builders import NOW_MS, plain, session

# A record of codec 1 as the first release wrote it; whatever codec comes later, this must stay readable.
GOLDEN = bytes.fromhex(
    "01"  # codec
    "00000000"  # partition
    "0300000000000000"  # offset
    "006c50c4a0010000"  # event time, ms
    "02000000"  # clicks
    "01000000"  # last row
    "02"  # bytes of the version
    "02"  # items of the history
    "0c000000"  # bytes of the history
    "03"  # items of the answer
    "0200"  # width of the hidden vector
    "7631"  # v1
    "0300726564"  # red
    "0500626c61c3bc"  # blaü
    "070000000800000009000000"  # the answer's fingerprints
    "0000003f000080bf"  # hidden vector: 0.5, -1.0
)

# The same in codec 2.
GOLDEN_FLOAT16 = bytes.fromhex("02") + GOLDEN[1:-8] + bytes.fromhex("003800bc")

item_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    made = Session(
        partition=draw(st.integers(0, 2**31 - 1)),
        offset=draw(st.integers(-1, 2**63 - 1)),
        event_ms=draw(st.integers(0, 2**63 - 1)),
        clicks=draw(st.integers(0, 2**32 - 1)),
        version=draw(st.text(st.characters(codec="ascii"), max_size=128)),
        last_row=draw(st.integers(-1, 2**31 - 1)),
        answer=np.array(draw(st.lists(st.integers(0, 2**32 - 1), max_size=255)), np.uint32),
        hidden=np.array(draw(st.lists(st.floats(width=32, allow_nan=False), max_size=300)), np.float32),
    )
    for item_id in draw(st.lists(item_ids, max_size=HISTORY_ITEMS + 3)):
        made.append_item(item_id)
    return made


def test_record_has_the_golden_bytes() -> None:
    assert encode_session(session()).hex() == GOLDEN.hex()


def test_record_with_a_hidden_vector_in_float16_has_the_golden_bytes() -> None:
    assert encode_session(session(), "float16").hex() == GOLDEN_FLOAT16.hex()


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_FLOAT16], ids=["codec 1", "codec 2"])
def test_golden_bytes_are_still_read(golden: bytes) -> None:
    assert decode_session(golden).hidden.dtype == np.float32
    assert plain(decode_session(golden)) == {
        "partition": 0,
        "offset": 3,
        "event_ms": NOW_MS,
        "clicks": 2,
        "items": ["red", "blaü"],
        "version": "v1",
        "last_row": 1,
        "answer": [7, 8, 9],
        "hidden": [0.5, -1.0],
    }


@given(sessions())
def test_encoded_session_decodes_to_itself(made: Session) -> None:
    assert plain(decode_session(encode_session(made))) == plain(made)


@given(sessions())
def test_in_float16_the_hidden_vector_alone_is_rounded_and_only_once(made: Session) -> None:
    made.hidden = np.tanh(made.hidden)
    record = encode_session(made, "float16")
    read = decode_session(record)
    np.testing.assert_allclose(read.hidden, made.hidden, rtol=2**-11, atol=2**-25)
    assert plain(read) | {"hidden": []} == plain(made) | {"hidden": []}
    assert encode_session(read, "float16") == record, "a replay writes what was there"


@pytest.mark.parametrize("dtype", get_args(StateDtype))
@given(made=sessions())
def test_last_click_agrees_with_the_whole_record(made: Session, dtype: StateDtype) -> None:
    made.hidden = np.tanh(made.hidden)
    assert last_click(encode_session(made, dtype)) == (made.offset, made.event_ms)


@given(st.lists(item_ids, max_size=3) | st.lists(item_ids, min_size=HISTORY_ITEMS - 1, max_size=2 * HISTORY_ITEMS))
def test_history_keeps_the_newest_items_in_order(appended: list[str]) -> None:
    made = Session(partition=0)
    for item_id in appended:
        made.append_item(item_id)
    assert made.items() == appended[-HISTORY_ITEMS:]
    assert made.history_items == min(len(appended), HISTORY_ITEMS)


def test_appending_to_a_decoded_session_leaves_its_record_as_it_was() -> None:
    record = encode_session(session())
    decode_session(record).append_item("new")
    assert record == GOLDEN


def test_decoded_arrays_cannot_be_written_to() -> None:
    read = decode_session(GOLDEN)
    assert not read.hidden.flags.writeable
    assert not read.answer.flags.writeable


def test_record_of_another_codec_is_refused_and_the_message_says_which_codec_is_read() -> None:
    with pytest.raises(DamagedSessionError, match=r"codec 1 or 2 .* starting with 03; rebuild the state table"):
        decode_session(b"\x03" + GOLDEN[1:])


def test_empty_record_is_refused() -> None:
    with pytest.raises(DamagedSessionError, match="got 0 bytes starting with nothing"):
        decode_session(b"")


@pytest.mark.parametrize(
    "damaged", [GOLDEN[:-1], GOLDEN + b"\0", GOLDEN[:38], b"\x02" + GOLDEN[1:], b"\x01" + GOLDEN_FLOAT16[1:]]
)
def test_record_whose_lengths_do_not_add_up_is_refused(damaged: bytes) -> None:
    with pytest.raises(DamagedSessionError, match=f"expected a session record of .*{len(damaged)}"):
        decode_session(damaged)


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_FLOAT16], ids=["codec 1", "codec 2"])
def test_every_truncated_record_is_refused(golden: bytes) -> None:
    for length in range(len(golden)):
        with pytest.raises(DamagedSessionError):
            decode_session(golden[:length])
