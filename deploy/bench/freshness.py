"""How soon new items are recommended, and how old the weights are that answer, with broker, worker and trainer running.

Items that exist nowhere else are planted into clicks that are replayed: each comes up at a moment of its own and is
then clicked in a small share of the sessions that begin. From the answers follows when another session first got it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from deploy.bench.environment import environment
from deploy.demo import Demo, DemoOptions, DemoView
from deploy.settings import Settings
from model.clicks import ClickTable
from stream.records import Recommendation, decode_recommendation

PLANTED_BETWEEN = (0.25, 0.85)
"""Of the clicks: the first version serves by then, and enough clicks follow."""
_READ_S = 60.0
_POLL_RECORDS = 5_000


@dataclass(frozen=True)
class FreshnessBench:
    """What is measured.

    Attributes:
        rate: Clicks a second.
        planted: How many new items come up.
        share: Of the sessions that begin after an item came up, those that click it.
        broker: `kafka` or `embedded`.
        seed: Of the planting.
    """

    rate: float = 500.0
    planted: int = 20
    share: float = 0.01
    broker: str = "kafka"
    seed: int = 0


def run(
    bench: FreshnessBench, clicks: ClickTable, settings: Settings, show: Callable[[DemoView], None]
) -> dict[str, Any]:
    """Replay clicks with planted items and return what was found.

    Args:
        bench: What is measured.
        clicks: In their order.
        settings: Of broker, worker and trainer.
        show: Called about four times a second.

    Raises:
        ChildError: The worker or the trainer ended, or clicks were not answered in time.
        ReplayError: Clicks could not be produced.
    """
    table, planted = with_planted(clicks, bench.planted, bench.share, np.random.default_rng(bench.seed))
    with Demo(DemoOptions(bench.broker, table, bench.rate, None), settings) as demo:
        view = demo.run(show)
        answers = list(_answers(demo.addresses.broker, settings.topics.recommendations, view.seen.answers))
        # Before the demo's registry goes with it.
        manifests = {version: demo.registry.manifest(version) for version in demo.registry.versions()}
    delays_s = delays(answers, planted)
    recommended = [delay for delay in delays_s.values() if delay is not None]
    ages_s = [
        (answer.generated_at - manifests[answer.model_version].created_at_ms) / 1000
        for answer in answers
        if answer.model_version in manifests
    ]
    return {
        "clicks": len(table),
        "unanswered": len(table) - view.seen.answers,
        "versions": len(manifests),
        "new_item_delay_s": {**_percentiles(recommended), "each": delays_s},
        "planted_recommended": len(recommended),
        "weights_age_s": _percentiles(ages_s),
        "longest_gap_ms": round(view.seen.longest_gap_ms, 1),
        "swap_gap_ms": round(view.seen.swap_gap_ms, 1),
        "rounds": [
            {
                "version": score.version,
                "answers": score.answers,
                "online_recall@20": round(score.recall, 4),
                "popularity_recall@20": round(score.popularity_recall, 4),
                "gate": manifests[score.version].metrics if score.version in manifests else {},
            }
            for score in view.seen.versions
        ],
        "settings": vars(bench),
        "environment": environment(),
    }


def with_planted(
    clicks: ClickTable, planted: int, share: float, generator: np.random.Generator
) -> tuple[ClickTable, list[str]]:
    """Return the clicks with new items among them, and these items' ids in the order in which they come up.

    A chosen session clicks the item a millisecond after one of its own, any but the last; so it has two or more.

    Args:
        clicks: In their order.
        planted: How many items come up, evenly within `PLANTED_BETWEEN`.
        share: Of the sessions that begin after that, those that click it.
        generator: Chooses sessions and places.
    """
    first = np.full(len(clicks.session_ids), len(clicks))
    np.minimum.at(first, clicks.session, np.arange(len(clicks)))
    lengths = np.bincount(clicks.session, minlength=len(first))
    ids = [f"planted-{number:02d}" for number in range(planted)]
    starts = (np.linspace(*PLANTED_BETWEEN, planted) * len(clicks)).astype(np.int64)
    order = np.argsort(clicks.session, kind="stable")
    begins = np.searchsorted(clicks.session[order], np.arange(len(first)))
    after, items = [], []
    for number, start in enumerate(starts):
        chosen = np.flatnonzero((first >= start) & (lengths > 1))
        chosen = chosen[generator.random(len(chosen)) < share]
        places = begins[chosen] + (generator.random(len(chosen)) * (lengths[chosen] - 1)).astype(np.int64)
        after.append(order[places])
        items.append(np.full(len(chosen), len(clicks.item_ids) + number))
    at, new_items = np.concatenate(after), np.concatenate(items)
    return (
        ClickTable(
            session=np.insert(clicks.session, at + 1, clicks.session[at]),
            item=np.insert(clicks.item, at + 1, new_items),
            timestamp_ms=np.insert(clicks.timestamp_ms, at + 1, clicks.timestamp_ms[at] + 1),
            period=None,
            session_ids=clicks.session_ids,
            item_ids=[*clicks.item_ids, *ids],
        ),
        ids,
    )


def delays(answers: Iterable[Recommendation], planted: Sequence[str]) -> dict[str, float | None]:
    """Return the seconds from each item's first answered click until a session that had not clicked it got it.

    None for an item that no other session got; an item that was never clicked is left out.
    """
    wanted, first_ms, got_ms = set(planted), dict[str, int](), dict[str, int]()
    clicked: dict[str, set[str]] = {}
    for answer in sorted(answers, key=lambda answer: answer.generated_at):
        item = answer.click.item_id
        if item in wanted:
            first_ms.setdefault(item, answer.generated_at)
            clicked.setdefault(answer.session_id, set()).add(item)
        for found in wanted.intersection(answer.items) - clicked.get(answer.session_id, set()):
            got_ms.setdefault(found, answer.generated_at)
    return {
        item: round((got_ms[item] - first_ms[item]) / 1000, 3) if item in got_ms else None
        for item in planted
        if item in first_ms
    }


def _answers(bootstrap: str, topic: str, expected: int) -> Iterable[Recommendation]:
    """Yield the answers of a topic, one for each click."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-freshness", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=_READ_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        seen: set[tuple[int, int]] = set()
        deadline_s = time.monotonic() + _READ_S
        while len(seen) < expected and time.monotonic() < deadline_s:
            for message in consumer.consume(_POLL_RECORDS, 1.0):
                answer = decode_recommendation(message.value() or b"")
                place = (answer.click.partition, answer.click.offset)
                if place not in seen:
                    seen.add(place)
                    yield answer
    finally:
        consumer.close()


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    found = np.percentile(values, (50, 99, 100)) if values else np.full(3, np.nan)
    return dict(zip(("p50", "p99", "max"), np.round(found, 3).tolist(), strict=True))
