"""Sessions restored from a changelog on Apache Kafka, by a worker that is killed on the way.

The changelog holds what makes offsets and records differ: several records of a session, tombstones, and the markers of
transactions, one of them at the end of each partition, where no record has the last offset.
"""

import secrets
import time
from pathlib import Path

import pytest
import rocksdict
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from deploy import topics
from deploy.children import Child
from deploy.local_kafka import LocalKafka
from deploy.ports import free_port
from deploy.topics import TopicPlan
from stream.session import Session, encode_session

PARTITIONS, RECORDS, SESSIONS, TRANSACTIONS = 2, 120_000, 50_000, 4
# So many that the kill comes in the middle: the store holds some records in files and some in its log.
KILLED_AT_BYTES = 20 << 20
DEADLINE_S = 60.0

pytestmark = pytest.mark.kafka

Change = tuple[int, bytes, bytes | None]


@pytest.fixture
def plan(real_kafka: LocalKafka) -> TopicPlan:
    name = f"recovery-{secrets.token_hex(3)}"
    plan = TopicPlan(f"{name}-app", f"{name}-c", f"{name}-r", f"{name}-d", f"{name}-m", partitions=PARTITIONS)
    topics.create(plan, {"bootstrap.servers": real_kafka.bootstrap})
    return plan


def fill(bootstrap: str, plan: TopicPlan) -> dict[int, list[Change]]:
    """Write the changelog, and return its (offset, key, value) by partition."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": plan.app, "queue.buffering.max.messages": RECORDS}
    )
    producer.init_transactions(DEADLINE_S)
    for transaction in range(TRANSACTIONS):
        producer.begin_transaction()
        for number in range(transaction, RECORDS, TRANSACTIONS):
            key = b"s-%05d" % (number * 7 % SESSIONS)
            record = encode_session(Session(partition=0, offset=number, history=bytes(600)))
            producer.produce(plan.sessions_changelog, None if number % 9 == 0 else record, key)
            producer.poll(0)
        producer.commit_transaction(DEADLINE_S)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(plan.sessions_changelog, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    changes: dict[int, list[Change]] = {partition: [] for partition in range(PARTITIONS)}
    while sum(map(len, changes.values())) < RECORDS:
        for message in consumer.consume(10_000, DEADLINE_S):
            changes[message.partition()].append((message.offset(), message.key(), message.value()))
    consumer.close()
    return changes


def worker(real_kafka: LocalKafka, plan: TopicPlan, folder: Path, port: int) -> Child:
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": real_kafka.bootstrap,
        "PARTITIONS": PARTITIONS,
        "TOPICS__CLICKS": plan.clicks,
        "TOPICS__RECOMMENDATIONS": plan.recommendations,
        "TOPICS__DEAD_LETTERS": plan.dead_letters,
        "TOPICS__MODELS": plan.models,
        "WORKER__APP_ID": plan.app,
        "WORKER__INSTANCE_ID": "a",
        "WORKER__DATA_DIR": folder / "data",
        "HTTP__WORKER_PORT": port,
        "REGISTRY": folder / "registry",
        "LOG_FORMAT": "json",
    }
    return Child(["worker"], {name: str(value) for name, value in settings.items()}, folder / "worker.log")


def stored(folder: Path, partition: int) -> tuple[int, dict[bytes, bytes]]:
    """Return the offset up to which the store of a partition says to hold the changelog, and what it holds."""
    (path,) = (folder / "data").glob(f"**/tables/sessions-{partition}.db")
    db = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    records: dict[bytes, bytes] = dict(db.items())
    db.close()
    return int(records.pop(b"__faust\0offset__", b"-1")), records


def newest(changes: list[Change], end: int) -> dict[bytes, bytes]:
    """Return the last value of each key up to an offset, less those that were deleted."""
    last = {key: value for offset, key, value in changes if offset <= end}
    return {key: value for key, value in last.items() if value is not None}


def size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("data/**/*.db/*") if file.is_file())


@pytest.mark.timeout(240)
def test_what_is_restored_is_what_the_offset_says_after_a_kill_and_everything_in_the_end(
    real_kafka: LocalKafka, plan: TopicPlan, tmp_path: Path
) -> None:
    changes = fill(real_kafka.bootstrap, plan)
    with worker(real_kafka, plan, tmp_path, free_port()) as killed:
        deadline_s = time.monotonic() + DEADLINE_S
        while size_bytes(tmp_path) < KILLED_AT_BYTES:
            killed.check()
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        killed.kill()
    ends = {partition: of_partition[-1][0] for partition, of_partition in changes.items()}
    for partition, of_partition in changes.items():
        end, records = stored(tmp_path, partition)
        assert 0 < end < ends[partition], "it was killed too early or too late"
        assert records == newest(of_partition, end)

    port = free_port()
    with worker(real_kafka, plan, tmp_path, port) as restarted:
        restarted.wait_until_ready(f"127.0.0.1:{port}", DEADLINE_S)
        assert restarted.stop() == 0
    for partition, of_partition in changes.items():
        end, records = stored(tmp_path, partition)
        assert end == ends[partition] + 1, "the marker of the last transaction"
        assert records == newest(of_partition, end)
