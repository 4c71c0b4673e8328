"""The main job in one command: broker, worker, trainer and a stream of clicks, watched from outside."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy import topics
from deploy.children import Child
from deploy.click_generator import generate_clicks
from deploy.click_oracle import best_possible
from deploy.errors import ChildError
from deploy.guard import temporary_folder
from deploy.local_broker import start_broker
from deploy.observer import K, Observer, View
from deploy.ports import free_port
from deploy.replay import Pace, replay
from deploy.settings import HttpSettings, KafkaSettings, Settings, as_environment
from deploy.shop import Shop, ShopSettings
from deploy.topics import TopicPlan
from model.clicks import ClickTable
from model.registry import Registry
from stream.settings import Topics

READY_DEADLINE_S = 60.0
# After the last click, how long its answer may take before the demo says that answers are missing.
DRAIN_DEADLINE_S = 30.0
LOOK_S = 0.25
# Small rounds, so that a minute shows several; a shop with more clicks takes the trainer's own defaults.
TRAINER_SETTINGS = {"first_round_clicks": 10_000, "round_clicks": 20_000, "round_interval_s": 3600.0}
# What a broker that runs already is to be used as.
RUNNING = "running"


@dataclass(frozen=True)
class DemoOptions:
    """What the demo is asked for.

    Attributes:
        broker: `embedded`, `kafka`, or `running` for the one that the settings name.
        clicks: What is replayed.
        rate: Clicks per second.
        best_recall: Best possible Recall@20 on these clicks, where it is known.
    """

    broker: str
    clicks: ClickTable
    rate: float
    best_recall: float | None


@dataclass(frozen=True)
class DemoView:
    """One look at the running demo."""

    elapsed_s: float
    produced: int
    total: int
    seen: View
    best_recall: float | None


@dataclass(frozen=True)
class Addresses:
    """Where the demo's parts can be reached."""

    broker: str
    worker: str
    trainer: str


def generated_clicks(clicks: int, seed: int) -> tuple[ClickTable, float]:
    """Return clicks of a made-up shop and the best Recall@20 that is possible on them."""
    generator = np.random.default_rng(seed)
    shop = Shop(ShopSettings(), generator)
    table = generate_clicks(shop, clicks, generator)
    return table, best_possible(shop, table, K).recall


class Demo:
    """The running demo: use it as a context, then `run`.

    Args:
        options: What is asked for.
        settings: Of broker, worker and trainer; registry, data directory, ports and times of rounds are the demo's own.
            On a broker that runs already the topics and the group are too, and the topics are deleted at the end.
    """

    def __init__(self, options: DemoOptions, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._produced = 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()

    def _start(self) -> None:
        folder = self._stack.enter_context(temporary_folder("nextclick-demo-"))
        self._settings = settings = self._own_settings(folder)
        bootstrap = self._stack.enter_context(self._broker(settings, folder))
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap})
        settings = settings.model_copy(update={"kafka": kafka})
        self.addresses = Addresses(
            bootstrap, f"127.0.0.1:{settings.http.worker_port}", f"127.0.0.1:{settings.http.trainer_port}"
        )
        self._worker = self._child("worker", settings, folder)
        self._trainer = self._child("trainer", settings, folder)
        self._worker.wait_until_ready(self.addresses.worker, READY_DEADLINE_S)
        self._trainer.wait_until_ready(self.addresses.trainer, READY_DEADLINE_S)
        self._connection = kafka.librdkafka_options()
        self._observer = Observer(self._connection, settings.topics, settings.worker.idle_ms)
        self._observer.start()
        self._stack.callback(self._observer.stop)

    @property
    def registry(self) -> Registry:
        """Where the demo's versions are."""
        return Registry(self._settings.registry)

    def _own_settings(self, folder: Path) -> Settings:
        given = self._settings
        worker: dict[str, Any] = {"data_dir": folder / "worker", "instance_id": None}
        own: dict[str, Any] = {
            "registry": str(folder / "registry"),
            "log_format": "json",
            "http": HttpSettings(worker_port=free_port(), trainer_port=free_port()),
            "trainer": given.trainer.model_copy(update=TRAINER_SETTINGS),
        }
        if self._options.broker == "embedded":
            # It answers a fetch with too little in it only after the whole wait, whatever arrives meanwhile.
            worker |= {"fetch_max_wait_ms": 5, "gather_ms": 0}
        if self._options.broker == RUNNING:
            # Whatever else it is used for, the demo's versions must not serve there.
            name = worker["app_id"] = f"nextclick-demo-{secrets.token_hex(3)}"
            own["topics"] = Topics(**{topic: f"{name}-{topic}" for topic in Topics.model_fields})
        own["worker"] = given.worker.model_copy(update=worker)
        return given.model_copy(update=own)

    @contextmanager
    def _broker(self, settings: Settings, folder: Path) -> Iterator[str]:
        plan = settings.topic_plan()
        if self._options.broker == RUNNING:
            kafka = settings.kafka
            topics.create(plan, kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
            try:
                yield kafka.bootstrap_servers
            finally:
                _delete_topics(plan, kafka)
            return
        with start_broker(self._options.broker, plan, folder / "kafka") as broker:
            yield broker.bootstrap

    def _child(self, name: str, settings: Settings, folder: Path) -> Child:
        child = Child([name], as_environment(settings), folder / f"{name}.log").start()
        self._stack.callback(child.stop)
        return child

    def run(self, show: Callable[[DemoView], None]) -> DemoView:
        """Replay all clicks and wait for their answers.

        Args:
            show: Called about four times a second.

        Returns:
            The last look.

        Raises:
            ChildError: The worker or the trainer ended, or clicks were not answered in time.
            ReplayError: Clicks could not be produced.
        """
        started_s = time.monotonic()
        total = len(self._options.clicks)
        producer = threading.Thread(target=self._produce, name="replay", daemon=True)
        producer.start()
        answered_by_s = float("inf")
        while True:
            view = DemoView(
                time.monotonic() - started_s, self._produced, total, self._observer.view(), self._options.best_recall
            )
            show(view)
            if not producer.is_alive():
                if view.seen.answers + view.seen.dead_letters >= total:
                    return view
                answered_by_s = min(answered_by_s, time.monotonic() + DRAIN_DEADLINE_S)
                if time.monotonic() > answered_by_s:
                    raise ChildError(
                        f"{view.seen.answers} of {total} clicks were answered {DRAIN_DEADLINE_S:g} s after the last"
                    )
            if self._error:
                raise self._error
            self._worker.check()
            self._trainer.check()
            time.sleep(LOOK_S)

    def _produce(self) -> None:
        def progressed(done: int) -> None:
            self._produced = done

        try:
            replay(
                self._options.clicks,
                self._connection,
                topic=self._settings.topics.clicks,
                pace=Pace(rate=self._options.rate),
                on_progress=progressed,
                stop=self._stop,
            )
        except Exception as error:  # noqa: BLE001 - a thread has no caller: `run` raises it there
            self._error = error


def _delete_topics(plan: TopicPlan, kafka: KafkaSettings) -> None:
    """Delete the demo's topics, as far as the cluster lets us."""
    client = AdminClient({"log_level": 0, **kafka.librdkafka_options()})
    for answer in client.delete_topics(list(plan.partition_counts()), request_timeout=kafka.timeout_s).values():
        with suppress(KafkaException):
            answer.result()


def summary(view: DemoView) -> dict[str, Any]:
    """Return what `--json` prints.

    `recall_at_20` counts the answers of trained versions only, so from the first swap on; `recall_at_20_popularity` is
    streaming popularity's on the same clicks.
    """
    seen = view.seen
    trained = [score for score in seen.versions if score.version != "popularity"]
    cases = max(sum(score.cases for score in trained), 1)
    p50, p99 = seen.latency_all_ms
    return {
        "clicks": view.produced,
        "answers": seen.answers,
        "copies": seen.copies,
        "dead_letters": seen.dead_letters,
        "swaps": len(trained),
        "recall_at_20": round(sum(score.hits for score in trained) / cases, 4),
        "recall_at_20_popularity": round(sum(score.popularity_hits for score in trained) / cases, 4),
        "recall_at_20_best_possible": None if view.best_recall is None else round(view.best_recall, 4),
        "latency_ms_p50": round(p50, 2),
        "latency_ms_p99": round(p99, 2),
        "longest_gap_ms": round(seen.longest_gap_ms, 1),
        "swap_gap_ms": round(seen.swap_gap_ms, 1),
        "seconds": round(view.elapsed_s, 1),
        "versions": [
            {
                "version": score.version,
                "answers": score.answers,
                "recall_at_20": round(score.recall, 4),
                "recall_at_20_popularity": round(score.popularity_recall, 4),
            }
            for score in seen.versions
        ],
    }
