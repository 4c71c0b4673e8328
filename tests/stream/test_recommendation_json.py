import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.clicks import Click
from model.vocabulary import Vocabulary
from stream.recommendation_json import DECIMALS, AskedBatch, recommendations_as_json
from stream.records import SourceRecord, encode_recommendation

NOW_MS = 1_790_000_000_005
TIMES_MS = st.integers(0, 253_402_300_799_999)
SCORES = st.floats(-(2.0**36), 2.0**36, width=32)
IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


def written(
    vocabulary: Vocabulary,
    clicks: list[tuple[SourceRecord, Click]],
    top_rows: list[list[int]],
    scores: list[list[float]],
    version: str = "v1",
) -> list[bytes]:
    asked = AskedBatch(
        keys=[click.session_id.encode() for _, click in clicks],
        partitions=[record.partition for record, _ in clicks],
        offsets=[record.offset for record, _ in clicks],
        rows=[vocabulary.row(click.item_id) for _, click in clicks],
        timestamps_ms=[click.timestamp_ms for _, click in clicks],
    )
    shape = len(clicks), -1 if clicks else 1
    table, values = np.array(top_rows, np.int32).reshape(shape), np.array(scores, np.float32).reshape(shape)
    return recommendations_as_json(asked, table, values, vocabulary.json_ids, version=version, generated_at=NOW_MS)


def a_click(session_id: str, item_id: str, offset: int = 17, partition: int = 3) -> tuple[SourceRecord, Click]:
    return SourceRecord(partition, offset, 0, session_id.encode(), b""), Click(session_id, item_id, 1_790_000_000_000)


@given(st.lists(IDS, min_size=1, max_size=8, unique=True), st.text(max_size=20), st.data())
def test_it_is_what_the_general_encoder_writes_or_left_to_it(
    item_ids: list[str], version: str, data: st.DataObject
) -> None:
    vocabulary = Vocabulary(item_ids)
    session_ids = data.draw(st.lists(IDS, max_size=4))
    clicks = [
        (
            SourceRecord(data.draw(st.integers(0, 2**31 - 1)), data.draw(st.integers(0, 2**62)), 0, None, None),
            Click(session_id, data.draw(st.sampled_from(item_ids)), data.draw(TIMES_MS)),
        )
        for session_id in session_ids
    ]
    k = data.draw(st.integers(1, 4))
    lines = st.lists(st.integers(0, len(item_ids) - 1), min_size=k, max_size=k)
    top_rows = [data.draw(lines) for _ in clicks]
    # Whole quarters, which both write alike; others are rounded in two ways that may differ in the last place.
    quarters = st.lists(st.integers(-4000, 4000).map(lambda n: n / 4), min_size=k, max_size=k)
    scores = [data.draw(quarters) for _ in clicks]
    texts = written(vocabulary, clicks, top_rows, scores, version)
    for (record, click), rows, line, text in zip(clicks, top_rows, scores, texts, strict=True):
        items = [item_ids[row] for row in rows]
        encoded = encode_recommendation(record, click, items, line, version=version, generated_at=NOW_MS)
        is_escaped = msgspec.json.encode(click.session_id) != b'"' + click.session_id.encode() + b'"'
        assert text == (b"" if is_escaped else encoded)


@given(st.lists(st.lists(SCORES, min_size=3, max_size=3), max_size=5))
def test_scores_read_back_are_the_rounded_ones(lines: list[list[float]]) -> None:
    texts = written(Vocabulary(["a"]), [a_click("s", "a")] * len(lines), [[0, 0, 0]] * len(lines), lines)
    found = [msgspec.json.decode(text)["scores"] for text in texts]
    expected = np.round(np.array(lines, dtype=np.float32).reshape(-1, 3).astype(np.float64), DECIMALS)
    np.testing.assert_allclose(np.array(found).reshape(-1, 3), expected, rtol=1e-12, atol=1.01e-5)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, b"0.0"),
        (-0.0, b"0.0"),
        (1.0, b"1.0"),
        (0.5, b"0.5"),
        (0.00001, b"0.00001"),
        (0.000001, b"0.0"),
        (-0.000001, b"0.0"),
        (0.10001, b"0.10001"),
        (-12.25, b"-12.25"),
        (1234567.0, b"1234567.0"),
        (0.999999, b"1.0"),
    ],
)
def test_a_score_is_written_without_an_exponent_or_needless_zeros(score: float, text: bytes) -> None:
    (found,) = written(Vocabulary(["a"]), [a_click("s", "a")], [[0, 0]], [[score, 2.0]])
    assert b'"scores":[' + text + b",2.0]" in found


@pytest.mark.parametrize("score", [3e38, -1e13, float("nan"), float("inf")])
def test_scores_that_need_more_are_left_to_the_general_encoder(score: float) -> None:
    texts = written(Vocabulary(["a"]), [a_click("s", "a")] * 2, [[0], [0]], [[score], [1.0]])
    assert (texts[0], bool(texts[1])) == (b"", True)


def test_a_click_on_an_unknown_item_is_left_to_the_general_encoder() -> None:
    texts = written(Vocabulary(["a"]), [a_click("s", "b"), a_click("s", "a")], [[0], [0]], [[1.0], [1.0]])
    assert (texts[0], bool(texts[1])) == (b"", True)


def test_no_answers() -> None:
    assert written(Vocabulary(["a"]), [], [], []) == []
