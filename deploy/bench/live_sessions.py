"""Sessions that are under way when a measurement begins: records in the changelog, for workers to restore."""

from collections.abc import Mapping, Sequence

import numpy as np
from confluent_kafka import Producer

from deploy.errors import BrokerError
from model.vocabulary import fingerprint
from stream.session import Session, encode_session

# So many differ; the rest are theirs again under other keys, as nothing depends on what is in them.
_DIFFERENT = 256
_HISTORY = 4
_POLL_EVERY = 5_000
_FLUSH_S = 60.0


def spread_ids(named: int, live: int, generator: np.random.Generator) -> list[str]:
    """Return at least `live` session ids in random order; the first `named` are for the sessions that click.

    Their records then lie anywhere among the others, as in a store that has grown with time.
    """
    return [f"s-{place:09d}" for place in generator.permutation(max(named, live)).tolist()]


def session_records(
    item_ids: Sequence[str], *, version: str, hidden: int, k: int, event_ms: int, generator: np.random.Generator
) -> list[bytes]:
    """Return some session records of the size that a worker writes.

    Args:
        item_ids: What histories and answers are made of.
        version: That has answered.
        hidden: Width of its hidden vector.
        k: Items of an answer.
        event_ms: Time of the last click, ms since the Unix epoch.
        generator: All chance comes from it.
    """
    records = []
    for _ in range(_DIFFERENT):
        shown = [item_ids[row] for row in generator.integers(0, len(item_ids), _HISTORY + k)]
        session = Session(
            partition=0,
            event_ms=event_ms,
            clicks=_HISTORY,
            version=version,
            last_row=0,
            answer=np.array([fingerprint(item) for item in shown[_HISTORY:]], np.uint32),
            hidden=generator.uniform(-1, 1, hidden).astype(np.float32),
        )
        for item in shown[:_HISTORY]:
            session.append_item(item)
        records.append(encode_session(session))
    return records


def fill_changelog(topic: str, ids: Sequence[str], records: Sequence[bytes], options: Mapping[str, str]) -> None:
    """Write one record per session, where the sessions' clicks will be looked for.

    Raises:
        BrokerError: Some did not arrive.
    """
    producer = Producer(
        {
            **options,
            "partitioner": "murmur2_random",
            "acks": "all",
            "linger.ms": 20,
            "batch.size": 1 << 20,
            "queue.buffering.max.messages": len(ids) + 1,
            "queue.buffering.max.kbytes": 1 << 21,
        }
    )
    for place, session_id in enumerate(ids):
        producer.produce(topic, records[place % len(records)], session_id)
        if place % _POLL_EVERY == 0:
            producer.poll(0)
    if missing := producer.flush(_FLUSH_S):
        raise BrokerError(f"{missing} of {len(ids)} session records did not reach {topic} within {_FLUSH_S:g} s")
