"""What Kafka may do to a worker: cut the clicks into batches, deliver them again, lose what was not kept; and what must
come out of it, worked out click by click without the code under test."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from model.baselines.popularity import Popularity
from model.clicks import decode_click
from model.recommender import Recommender
from stream.micro_batch import SessionKey
from stream.processor import Outcome, Processor
from stream.records import SourceRecord
from stream.session import Session, decode_session, encode_session
from tests.stream.builders import IDLE_MS, ITEMS, NOW_MS, record

PARTITIONS = 2
TOP_K = 5
UNKNOWN = ["late-item", "never-known"]

Streams = list[list[SourceRecord]]


@st.composite
def streams(draw: st.DrawFn, items: Sequence[str] = (*ITEMS[:4], *UNKNOWN), most: int = 30) -> Streams:
    """Draw the records of every partition: a few sessions, pauses around the idle time, late clicks, junk."""
    drawn: Streams = []
    for partition in range(PARTITIONS):
        records: list[SourceRecord] = []
        event_ms = NOW_MS
        for offset in range(draw(st.integers(0, most))):
            pauses = st.sampled_from([0, 1, 1_000, -5_000, IDLE_MS, IDLE_MS + 1])
            event_ms += draw(pauses)
            name = draw(st.sampled_from(["s", "t", "ü"]))
            click = record(
                offset, draw(st.sampled_from(items)), session_id=name, partition=partition, event_ms=event_ms
            )
            is_junk = draw(st.integers(0, 9)) == 0
            records.append(SourceRecord(partition, offset, event_ms, b"s", b"junk") if is_junk else click)
        drawn.append(records)
    return drawn


@dataclass(frozen=True)
class Step:
    """One turn of the worker.

    Attributes:
        take: Records of each partition in the batch.
        interleaved: Whether the partitions alternate in the batch, or stand one after the other.
        rewind: Partition that is delivered again from an earlier offset, and by how many records; after the batch.
        forget: Batches whose state writes are lost before that, as on a move to another worker.
        version: Which version serves the batch: its place in the list given to `deliver`.
    """

    take: tuple[int, ...]
    interleaved: bool
    rewind: tuple[int, int]
    forget: int
    version: int


def steps(versions: int = 1) -> st.SearchStrategy[list[Step]]:
    """Draw turns of the worker; `deliver` adds what it takes to reach the end of every partition."""
    return st.lists(
        st.builds(
            Step,
            take=st.tuples(*[st.integers(0, 12)] * PARTITIONS),
            interleaved=st.booleans(),
            rewind=st.tuples(st.integers(0, PARTITIONS - 1), st.sampled_from([0, 0, 1, 3, 7, 100])),
            forget=st.sampled_from([0, 0, 0, 1, 2]),
            version=st.integers(0, versions - 1),
        ),
        max_size=12,
    )


@dataclass
class Delivered:
    """What came out of all batches.

    Attributes:
        store: The session records at the end.
        outcomes: One per batch, in order.
        served: For each session, the version of the last batch that it was part of.
    """

    store: dict[SessionKey, bytes] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    served: dict[SessionKey, Recommender | None] = field(default_factory=dict)

    def session(self, key: SessionKey) -> Session:
        """Return one session as stored."""
        return decode_session(self.store[key])

    def answered(self) -> list[tuple[int, int]]:
        """Return the (partition, offset) of every answer and dead letter, in the order given."""
        records = [
            [answer.record for answer in outcome.answers] + [letter.record for letter in outcome.dead_letters]
            for outcome in self.outcomes
        ]
        return [(found.partition, found.offset) for batch in records for found in batch]


def deliver(drawn: Streams, turns: Sequence[Step], versions: Sequence[Recommender | None]) -> Delivered:
    """Run a worker's store and processor through `turns` and then to the end of every partition."""
    to_the_end = Step(take=(1_000,) * PARTITIONS, interleaved=False, rewind=(0, 0), forget=0, version=len(versions) - 1)
    processor = new_processor()
    result = Delivered()
    positions = [0] * PARTITIONS
    # Before each batch: the store, and the positions that the group could have committed with it.
    kept: list[tuple[dict[SessionKey, bytes], dict[SessionKey, Recommender | None], list[int]]] = []
    for turn in [*turns, to_the_end]:
        kept.append((dict(result.store), dict(result.served), list(positions)))
        lists = [drawn[p][positions[p] : positions[p] + turn.take[p]] for p in range(PARTITIONS)]
        positions = [position + len(taken) for position, taken in zip(positions, lists, strict=True)]
        batch = _alternating(lists) if turn.interleaved else [found for taken in lists for found in taken]
        answer(processor, batch, versions[turn.version], result)
        if turn.forget and turn is not to_the_end:
            store, served, positions = kept[-min(turn.forget, len(kept))]
            result.store, result.served, positions = dict(store), dict(served), list(positions)
        partition, back = turn.rewind
        positions[partition] = max(positions[partition] - back, 0)
    return result


def new_processor() -> Processor:
    """Return a processor that has seen nothing."""
    return Processor(top_k=TOP_K, idle_ms=IDLE_MS, popularity=Popularity())


def answer(
    processor: Processor, batch: Sequence[SourceRecord], version: Recommender | None, into: Delivered
) -> Outcome:
    """Run one micro-batch and keep what it leads to."""
    outcome = processor.process(
        batch,
        lambda keys: [decode_session(into.store[key]) if key in into.store else None for key in keys],
        version,
        NOW_MS,
    )
    into.store |= {key: encode_session(made) for key, made in outcome.sessions.items()}
    into.served |= dict.fromkeys(outcome.sessions, version)
    into.outcomes.append(outcome)
    return outcome


def _alternating(lists: Sequence[Sequence[SourceRecord]]) -> list[SourceRecord]:
    longest = max(map(len, lists), default=0)
    return [taken[place] for place in range(longest) for taken in lists if place < len(taken)]


@dataclass
class Expected:
    """One session as it must be at the end: what its clicks since its last expiry add up to."""

    items: list[str] = field(default_factory=list)
    offset: int = -1
    event_ms: int = 0


def expected_sessions(drawn: Streams) -> dict[SessionKey, Expected]:
    """Apply every valid click exactly once, in order."""
    expected: dict[SessionKey, Expected] = {}
    for found in (found for records in drawn for found in records if found.value != b"junk"):
        assert found.key is not None
        click = decode_click(found.key, found.value, found.timestamp_ms)
        life = expected.setdefault((found.partition, found.key), Expected())
        if life.items and click.timestamp_ms - life.event_ms > IDLE_MS:
            life = expected[(found.partition, found.key)] = Expected()
        life.items.append(click.item_id)
        life.offset = found.offset
        life.event_ms = max(life.event_ms, click.timestamp_ms)
    return expected
