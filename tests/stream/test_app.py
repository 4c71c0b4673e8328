"""The whole worker: Faust, RocksDB, hot swap and all, as a process on an embedded broker."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import KafkaError, Message
from prometheus_client.parser import text_string_to_metric_families

from deploy.embedded_kafka import ApiKey
from model.clicks import Click, encode_click
from model.recommender import Recommender
from stream.app import DataDirInUseError, _lock, run_worker
from stream.records import POPULARITY, SourceRecord
from stream.session import HISTORY_ITEMS, decode_session
from stream.settings import WorkerSettings
from stream.worker import DEAD_LETTER_WINDOW
from tests.stream.announcing import Announcer
from tests.stream.builders import IDLE_MS, ITEMS, encoded, recommender, write_version
from tests.stream.deliveries_of_kafka import Expected, expected_sessions
from tests.stream.whole_worker import DEADLINE_S, PARTITIONS, Site, site, stop

EVENT_MS = 1_700_000_000_000
SESSIONS = 40
CLICKS = 300
NEW_ITEMS = [*ITEMS, "late-item"]
VERSIONS: dict[str, Recommender | None] = {"v1": recommender("v1"), "v2": recommender("v2", NEW_ITEMS), "": None}
OLD = [b"old-%d" % number for number in range(8)]
JUNK: list[tuple[bytes | None, bytes | None]] = [
    (None, None),
    (b"s", None),
    (b"s", b"not json"),
    (b"s", b'{"session_id":"s"}'),
    (b"s", b'{"session_id":"s","item_id":""}'),
    (b"other", b'{"session_id":"s","item_id":"i"}'),
    (b"s", b'{"session_id":"s","item_id":"i","timestamp":-1}'),
    (b"\xff", b"." * 900_000),
]


def produce_clicks(made: Site, count: int, seed: int) -> None:
    """Produce clicks of `SESSIONS` sessions, a second apart, on items known and unknown."""
    generator = np.random.default_rng(seed)
    for place in range(count):
        session_id = f"session-{generator.integers(SESSIONS)}"
        item_id = str(generator.choice([*NEW_ITEMS, "never-known"]))
        made.produce(session_id.encode(), encode_click(Click(session_id, item_id, EVENT_MS + 1_000 * place)))
    made.flush()


def assert_states_are_exact(states: dict[tuple[int, bytes], bytes | None], clicks: list[Message]) -> None:
    """Compare session records with the clicks applied exactly once; hidden vectors to float32's last digits."""
    expected = expected_of(clicks)
    found = {key: decode_session(record) for key, record in states.items() if record is not None}
    assert found.keys() == expected.keys()
    for key, life in expected.items():
        made = found[key]
        assert (made.offset, made.clicks, made.event_ms) == (life.offset, len(life.items), life.event_ms)
        assert made.items() == life.items[-HISTORY_ITEMS:]
        assert len(life.items) <= HISTORY_ITEMS, "a longer session could not be compared after a swap"
        np.testing.assert_allclose(made.hidden, encoded(VERSIONS[made.version], life.items), atol=1e-5)


def expected_of(clicks: list[Message]) -> dict[tuple[int, bytes], Expected]:
    streams: list[list[SourceRecord]] = [[] for _ in range(PARTITIONS)]
    for found in clicks:
        if (found.key() or b"").startswith(b"session"):
            streams[found.partition()].append(
                SourceRecord(found.partition(), found.offset(), found.timestamp()[1], found.key(), found.value())
            )
    return expected_sessions(streams)


def places(clicks: list[Message]) -> list[tuple[int, int]]:
    return sorted((found.partition(), found.offset()) for found in clicks)


@dataclass(frozen=True)
class Run:
    """What a scenario left behind.

    Attributes:
        site: Broker, registry and data directory, with all output read.
        clicks: Every record of the clicks topic.
        status: Exit status of the (first) worker.
        stop_s: Seconds from the SIGTERM to the last worker to its end.
        committed: Committed offsets when it had ended.
        answered: What it had answered by then.
        second_status: Exit status of the second worker, whose broker was away when it was told to stop.
        errors: What the first worker wrote to its standard streams.
    """

    site: Site
    clicks: list[Message]
    status: int
    stop_s: float
    committed: dict[int, int]
    answered: set[tuple[int, int]]
    second_status: int | None = None
    errors: str = ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A worker that answers clicks and junk, swaps a version, sweeps ended sessions, and is told to stop."""
    with site(tmp_path_factory.mktemp("served")) as made:
        announcer = Announcer(made.broker)
        announcer.announce(write_version(made.registry, "v1"))
        for key in OLD:
            made.produce(key, encode_click(Click(key.decode(), ITEMS[0], EVENT_MS - 2 * IDLE_MS)))
        for place, junk in enumerate(JUNK):
            made.produce(*junk, place % PARTITIONS)
        produce_clicks(made, CLICKS // 2, seed=1)
        so_far = CLICKS // 2 + len(JUNK) + len(OLD)
        with made.worker(sweep_interval_s=0.3) as process:
            made.read_until(lambda: len(made.output.answered) >= so_far, "the first half is answered", process)
            announcer.announce(write_version(made.registry, "v2", NEW_ITEMS, parent="v1"))
            produce_clicks(made, CLICKS // 2, seed=2)
            made.read_until(
                lambda: len(made.output.answered) >= so_far + CLICKS // 2 and not any(states_of_old(made)),
                "all is answered and ended sessions are swept",
                process,
            )
            status, stop_s = stop(process)
        made.read_rest()
        yield Run(made, made.clicks(), status, stop_s, made.committed(), set(made.output.answered))


def states_of_old(made: Site) -> list[bytes | None]:
    return [record for (_, key), record in made.output.states().items() if key in OLD]


def test_every_record_is_answered_exactly_once(served: Run) -> None:
    assert sorted(served.site.output.answered) == places(served.clicks)


def test_an_answer_is_in_the_partition_of_its_click_under_its_key(served: Run) -> None:
    keys = {(found.partition(), found.offset()): found.key() for found in served.clicks}
    for message, answer in served.site.output.answers:
        assert message.partition() == answer.click.partition
        assert message.key() == keys[(answer.click.partition, answer.click.offset)] == answer.session_id.encode()


def test_answers_come_from_the_announced_versions_or_popularity(served: Run) -> None:
    found = {answer.model_version for _, answer in served.site.output.answers}
    assert {"v1", POPULARITY} <= found <= {"v1", "v2", POPULARITY}


def test_junk_ends_in_the_dead_letters_with_its_bytes_and_its_reason(served: Run) -> None:
    found = {served.site.output.place(letter): letter for letter in served.site.output.dead_letters}
    junk = {(m.partition(), m.offset()): (m.key(), m.value()) for m in served.clicks if (m.key(), m.value()) in JUNK}
    assert {place: (letter.key(), letter.value()) for place, letter in found.items()} == junk
    reasons = {dict(letter.headers())["nextclick.error.reason"].decode() for letter in found.values()}
    assert reasons == {
        "empty", "malformed", "missing-field", "invalid-id", "key-mismatch", "timestamp-out-of-range",
    }  # fmt: skip


def test_states_are_those_of_each_click_applied_once_across_the_swap(served: Run) -> None:
    assert_states_are_exact(served.site.output.states(), served.clicks)


def test_ended_sessions_and_no_others_get_tombstones(served: Run) -> None:
    swept = {key for (_, key), record in served.site.output.states().items() if record is None}
    assert swept == set(OLD)


def test_the_local_store_holds_what_the_changelog_says(served: Run) -> None:
    states = served.site.output.states()
    assert served.site.stored() == {key: record for key, record in states.items() if record is not None}


def test_sigterm_ends_the_worker_with_status_0_and_everything_committed(served: Run) -> None:
    assert served.status == 0
    assert served.stop_s < 15
    ends = {p: 1 + max(found.offset() for found in served.clicks if found.partition() == p) for p in range(PARTITIONS)}
    assert served.committed == ends


def test_metrics_add_up_at_the_end(served: Run) -> None:
    families = text_string_to_metric_families((served.site.folder / "metrics.txt").read_text())
    values = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    assert values["nextclick_clicks_total", "applied"] == CLICKS + len(OLD)
    assert values["nextclick_clicks_total", "dead"] == len(JUNK)
    assert values["nextclick_sessions_expired_total",] == len(OLD)
    assert values["nextclick_version_info", "v2"] == 1
    assert values["nextclick_assigned_partitions",] == PARTITIONS


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A worker whose broker refuses some of its records, and its successor, which loses its broker at the end."""
    with site(tmp_path_factory.mktemp("recovered")) as made:
        Announcer(made.broker).announce(write_version(made.registry, "v1"))
        produce_clicks(made, CLICKS, seed=3)
        accepted = 12
        errors = [KafkaError.NO_ERROR] * accepted + [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 20
        made.broker.push_request_errors(ApiKey.PRODUCE, errors)
        with made.worker(batch_cap=8) as process:
            status = process.wait(DEADLINE_S)
        made.broker.clear_request_errors(ApiKey.PRODUCE)
        made.read_rest()
        committed, answered, errors = made.committed(), set(made.output.answered), made.errors()
        with made.worker(stop_margin_s=1.0, delivery_timeout_s=1.0) as process:
            made.read_until(lambda: len(set(made.output.answered)) == CLICKS, "everything is answered", process)
            made.broker.set_down()
            second_status, stop_s = stop(process)
            made.broker.set_up()
        made.read_rest()
        yield Run(made, made.clicks(), status, stop_s, committed, answered, second_status, errors)


def test_a_refused_delivery_ends_the_worker_with_a_status_that_is_not_0(recovered: Run) -> None:
    assert recovered.status not in (0, -9)
    assert "DeliveryError" in recovered.errors


def test_after_a_refused_delivery_nothing_is_committed_beyond_what_was_answered(recovered: Run) -> None:
    assert 0 < len(recovered.answered) < CLICKS
    for partition, committed in recovered.committed.items():
        assert {(partition, offset) for offset in range(committed)} <= recovered.answered


def test_the_next_worker_answers_everything_that_was_not(recovered: Run) -> None:
    assert sorted(set(recovered.site.output.answered)) == places(recovered.clicks)


def test_states_after_the_restart_are_those_of_each_click_applied_once(recovered: Run) -> None:
    assert_states_are_exact(recovered.site.output.states(), recovered.clicks)
    assert recovered.site.stored() == recovered.site.output.states()


def test_a_worker_told_to_stop_while_kafka_is_away_ends_all_the_same(recovered: Run) -> None:
    assert recovered.second_status is not None
    assert recovered.second_status >= 0, "it had to be killed"
    assert recovered.stop_s < 15


def test_a_topic_full_of_junk_stops_the_worker_instead_of_being_drained(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        for offset in range(3 * DEAD_LETTER_WINDOW):
            made.produce(b"s", b"junk", offset % PARTITIONS)
        made.flush()
        with made.worker() as process:
            assert process.wait(DEADLINE_S) not in (0, -9)
        made.read_rest()
        assert "TooManyDeadLettersError" in made.errors()
        assert DEAD_LETTER_WINDOW <= len(made.output.dead_letters) < 2 * DEAD_LETTER_WINDOW


def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    with (
        _lock(tmp_path),
        pytest.raises(DataDirInUseError, match=f"{tmp_path} is used by another worker; give each its own"),
    ):
        run_worker(None, WorkerSettings(data_dir=tmp_path))
