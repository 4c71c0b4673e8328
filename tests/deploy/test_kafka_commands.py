"""`nextclick replay`, `tail` and `topics`."""

import json
import signal
import time
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from deploy.embedded_kafka import EmbeddedKafka
from deploy.errors import ReplayError
from deploy.local_kafka import LocalKafka
from deploy.replay import Pace, replay
from model.clicks import Click, ClickTable, decode_click
from stream.records import AnsweredClick, Recommendation
from tests.brokers import read_records
from tests.deploy.command_line import last_json, nextclick, running, write_csv
from tests.deploy.conftest import Site


def interleaved_clicks(sessions: int, each: int) -> list[Click]:
    return [
        Click(f"s{session}", f"i{turn}", 1_700_000_000_000 + 1_000 * turn)
        for turn in range(each)
        for session in range(sessions)
    ]


def test_a_replay_keeps_the_order_of_every_session(site: Site, tmp_path: Path) -> None:
    clicks = interleaved_clicks(sessions=7, each=30)
    file = write_csv(tmp_path / "clicks.csv", clicks)
    result = nextclick("replay", file, "--json", **site.settings)

    assert result.exit_code == 0, result.stderr
    assert last_json(result.stdout)["clicks"] == 210
    records = read_records(site.bootstrap, site.topic, 210)
    arrived = [decode_click(record.key(), record.value(), record.timestamp()[1]) for record in records]
    for session in range(7):
        items = [click.item_id for click in arrived if click.session_id == f"s{session}"]
        assert items == [f"i{turn}" for turn in range(30)]


def test_a_replay_sorts_a_file_by_its_times(site: Site, tmp_path: Path) -> None:
    clicks = interleaved_clicks(sessions=1, each=20)
    file = write_csv(tmp_path / "clicks.csv", clicks[::-1])
    nextclick("replay", file, **site.settings)

    records = read_records(site.bootstrap, site.topic, 20)
    assert [json.loads(record.value() or b"")["item_id"] for record in records] == [f"i{turn}" for turn in range(20)]


@pytest.mark.parametrize("pace", [["--rate", "40"], ["--speed", "40"]])
def test_a_replay_takes_as_long_as_it_was_told_to(pace: list[str], site: Site, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "clicks.csv", interleaved_clicks(sessions=1, each=21))
    result = nextclick("replay", file, *pace, "--json", **site.settings)

    assert 0.49 <= last_json(result.stdout)["seconds"] < 3


def test_a_replay_says_in_words_what_it_did(site: Site, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "clicks.tsv", [Click("s", "i", 1_000)])
    file.write_text(file.read_text().replace(",", "\t"))
    result = nextclick("replay", file, **site.settings)

    assert result.stdout.startswith("1 clicks in 0.")
    assert result.stderr == ""


def test_a_replay_ends_soon_after_the_first_click_that_was_not_delivered(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    table = ClickTable.from_clicks(interleaved_clicks(sessions=1, each=1_200))
    options = {"bootstrap.servers": embedded_kafka.bootstrap, "delivery.timeout.ms": 500}
    started_s = time.monotonic()

    with pytest.raises(ReplayError, match=r"of \d+ clicks did not reach topic clicks: Local: Message timed out"):
        replay(table, options, pace=Pace(rate=20), on_progress=lambda _: embedded_kafka.set_down())
    assert time.monotonic() - started_s < 30


def produce_answers(site: Site, count: int, *, session: str = "s") -> None:
    producer = Producer({"bootstrap.servers": site.bootstrap, "log_level": 0})
    for offset in range(count):
        click = AnsweredClick(partition=0, offset=offset, item_id=f"i{offset}", timestamp=0)
        answer = Recommendation(session, ["[/x]", "j"], [2.0, 1.0], "v1", click, 0)
        producer.produce(site.topic, msgspec.json.encode(answer), session, partition=0)
    assert producer.flush(10) == 0


def test_a_tail_ends_after_its_count_and_each_line_is_an_answer(site: Site) -> None:
    produce_answers(site, 5)
    result = nextclick("tail", "--from-beginning", "--count", "3", "--json", **site.settings)
    answers = [json.loads(line) for line in result.stdout.splitlines()]

    assert result.exit_code == 0
    assert [answer["click"]["item_id"] for answer in answers] == ["i0", "i1", "i2"]
    assert answers[0]["items"] == ["[/x]", "j"]


def test_a_tail_shows_ids_as_they_are_one_answer_a_line(site: Site) -> None:
    produce_answers(site, 2, session="[red]" + "s" * 90)
    result = nextclick("tail", "--from-beginning", "--count", "2", **site.settings)

    assert result.stdout.splitlines() == [f"[red]{'s' * 90}  i{n}  →  [/x]  j  v1" for n in range(2)]


def test_a_tail_passes_over_what_is_no_recommendation_and_says_so(site: Site) -> None:
    producer = Producer({"bootstrap.servers": site.bootstrap, "log_level": 0})
    producer.produce(site.topic, b"junk", partition=0)
    assert producer.flush(10) == 0
    produce_answers(site, 1)
    result = nextclick("tail", "--from-beginning", "--count", "1", "--json", **site.settings)

    assert last_json(result.stdout)["session_id"] == "s"
    assert result.stderr == "no recommendation: partition 0, offset 0\n"


def test_a_tail_says_once_that_kafka_is_away_and_ends_with_130_when_interrupted(tmp_path: Path) -> None:
    with EmbeddedKafka({"recommendations": 2}) as broker:
        settings = {"KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap}
        with running(tmp_path / "tail", "tail", "--json", "--from-beginning", **settings) as tail:
            produce_answers(Site(broker.bootstrap, "recommendations"), 1)
            tail.wait_until(lambda: tail.stdout.count("\n") == 1, "the answer is shown")
            broker.set_down()
            tail.wait_until(lambda: "Kafka is away" in tail.stderr, "the tail notices")
            broker.set_up()
            produce_answers(Site(broker.bootstrap, "recommendations"), 1)
            tail.wait_until(lambda: tail.stdout.count("\n") == 2, "the next answer is shown")

            assert tail.end(signal.SIGINT) == 130
            assert len(tail.stderr.splitlines()) == 1


@pytest.mark.kafka
def test_topics_are_created_once_and_are_then_as_planned(real_kafka: LocalKafka) -> None:
    names = ("CLICKS", "RECOMMENDATIONS", "MODELS", "DEAD_LETTERS")
    settings = {f"TOPICS__{name}": f"made-by-hand-{name.lower()}" for name in names}
    settings |= {"WORKER__APP_ID": "made-by-hand", "PARTITIONS": "2", "KAFKA__BOOTSTRAP_SERVERS": real_kafka.bootstrap}
    missing = nextclick("topics", "check", **settings)
    created = nextclick("topics", "create", "--json", **settings)
    again = nextclick("topics", "create", **settings)
    checked = nextclick("topics", "check", **settings)

    assert (missing.exit_code, created.exit_code, again.exit_code, checked.exit_code) == (1, 0, 0, 0)
    assert "made-by-hand-clicks: missing" in missing.stderr
    assert len(last_json(created.stdout)["created"]) == 5
    assert again.stdout.startswith("all topics exist")
    assert checked.stdout == "all topics are as planned\n"
