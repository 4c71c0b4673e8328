"""What rounding stored hidden vectors to float16 does to a trained version's answers to clicks it has not seen."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from model.baselines.popularity import Popularity
from model.clicks import Click, encode_click, read_clicks
from model.recommender import Recommender
from stream.micro_batch import SessionKey
from stream.processor import Processor
from stream.records import SourceRecord
from stream.session import Session, StateDtype, decode_session, encode_session
from tests.stream.builders import IDLE_MS, NOW_MS
from trainer.fit import fit
from trainer.protocols import split_protocol
from trainer.settings import TrainerSettings

TOP_K, BATCH = 20, 256


def batches(clicks: Sequence[Click]) -> list[list[SourceRecord]]:
    """Put the first clicks of all sessions before the second ones and so on: each state is rounded after each click."""
    seen: Counter[str] = Counter()
    waves: dict[int, list[Click]] = defaultdict(list)
    for click in clicks:
        waves[seen[click.session_id]].append(click)
        seen[click.session_id] += 1
    offsets = count()
    return [
        [
            SourceRecord(0, next(offsets), click.timestamp_ms, click.session_id.encode(), encode_click(click))
            for click in wave[start : start + BATCH]
        ]
        for wave in waves.values()
        for start in range(0, len(wave), BATCH)
    ]


def play(
    recommender: Recommender, cut: list[list[SourceRecord]], dtype: StateDtype
) -> tuple[float, list[list[str]], float]:
    """Return Recall@20 of the answers to the click before, the answers, and the mean size of a record in bytes."""
    processor = Processor(top_k=TOP_K, idle_ms=IDLE_MS, popularity=Popularity())
    store: dict[bytes, bytes] = {}
    ranks, answers = [], []

    def load(keys: Sequence[SessionKey]) -> list[Session | None]:
        return [decode_session(store[key]) if key in store else None for _, key in keys]

    for records in cut:
        outcome = processor.process(records, load, recommender, NOW_MS)
        store |= {key: encode_session(session, dtype) for (_, key), session in outcome.sessions.items()}
        ranks += [evaluation.ranks for evaluation in outcome.evaluations if evaluation.version == recommender.version]
        answers += [answer.recommendation.items for answer in outcome.answers]
    recall = float((np.concatenate(ranks) > 0).mean())
    return recall, answers, float(np.mean([len(record) for record in store.values()]))


def test_float16_states_answer_as_float32_ones_do_but_for_the_last_places(
    data_file: Callable[[str], Path], record_property: Callable[[str, object], None]
) -> None:
    protocol = split_protocol(read_clicks(data_file("rsc15_100k.parquet")), "days:1", idle_ms=IDLE_MS)
    version, _ = fit(protocol.train, TrainerSettings(), version="v", created_at_ms=NOW_MS)
    recommender = Recommender(version.network, version.vocabulary, "v", companion=version.companion)
    cut = batches(list(protocol.test.in_time_order().clicks()))
    recall, answers, size_bytes = play(recommender, cut, "float32")
    rounded_recall, rounded_answers, rounded_size_bytes = play(recommender, cut, "float16")
    same = np.mean([one == other for one, other in zip(answers, rounded_answers, strict=True)])
    for name, value in {
        "clicks": len(answers),
        "recall@20": (recall, rounded_recall),
        "record_bytes": (size_bytes, rounded_size_bytes),
        "same_answers": same,
    }.items():
        record_property(name, str(value))
    assert recall > 0.6, "the version has learned something that rounding could spoil"
    assert abs(rounded_recall - recall) < 0.002
    assert same > 0.9
    assert size_bytes - rounded_size_bytes == 2 * recommender.state_width
