"""What a worker exposes to Prometheus: the closed list of its metrics, which the README repeats and a test compares."""

from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from stream.histogram import Histogram
from stream.processor import Outcome

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STAGE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
DELAY_BUCKETS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ONLINE_K = 20
VERSIONS_TOLD = 32

Told = TypeVar("Told")


@dataclass(frozen=True)
class BatchTimes:
    """Seconds that one micro-batch spent in each stage."""

    process_s: float
    store_read_s: float
    store_write_s: float
    delivery_s: float


class WorkerMetrics:
    """Every metric of a worker.

    Args:
        registry: The process's own registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"nextclick_{name}_total", documentation, labels, registry=registry)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(f"nextclick_{name}", documentation, labels, registry=registry)

        def seconds(name: str, documentation: str, buckets: tuple[float, ...] = STAGE_BUCKETS_S) -> Histogram:
            return Histogram(f"nextclick_{name}_seconds", documentation, buckets, registry)

        self.clicks = counter("clicks", "Records read, by result: applied, replayed or dead", "result")
        self.unknown_items = counter("unknown_items", "Applied clicks on items that the version does not know")
        self.answers = counter("answers", "Answers delivered, by version", "model_version")
        self.dead_letters = counter("dead_letters", "Records that are not clicks, by reason", "reason")
        self.latency = seconds(
            "click_to_answer", "From the click's record timestamp to its answer's delivery", LATENCY_BUCKETS_S
        )
        self.batch_clicks = Histogram("nextclick_batch_clicks", "Records per micro-batch", BATCH_BUCKETS, registry)
        self.process_time = seconds("process", "Decoding, states, network and answers of one micro-batch")
        self.forward_time = seconds("forward", "Network and top k of one micro-batch")
        self.store_read_time = seconds("store_read", "Reading the states of one micro-batch")
        self.store_write_time = seconds("store_write", "Writing the states of one micro-batch")
        self.delivery_time = seconds("delivery", "From sending one micro-batch's records to their acknowledgement")
        self.garbage_time = seconds("garbage_collection", "One collection of garbage; nothing else runs meanwhile")
        self.lag = gauge("lag_records", "Clicks of the partition that are not answered yet", "partition")
        self.last_progress = gauge("last_progress_timestamp_seconds", "When a micro-batch was last finished")
        self.partitions = gauge("assigned_partitions", "Partitions that this worker answers")
        self.rebalances = counter("rebalances", "Assignments received")
        self.recovery_time = gauge("recovery_seconds", "From the newest assignment to its first look for clicks")
        self.sessions_active = gauge("sessions_active", "Session records held: the newest sweep's count and since")
        self.sessions_started = counter("sessions_started", "Sessions begun")
        self.sessions_expired = counter("sessions_expired", "Session records swept after their end")
        self.version_info = gauge("version_info", "1 for the version that serves", "model_version")
        self.version_created = gauge("version_created_timestamp_seconds", "When the serving version was made")
        self.refreshed = gauge(
            "refreshed_timestamp_seconds", "When the serving version's newest refresh was made, or else the version"
        )
        self.refreshes = counter("refreshes", "Refreshes, by result: applied, or why not", "result")
        self.new_item_delay = seconds(
            "new_item_delay",
            "From an item's first click that no version knew it at until one that knows it answers",
            DELAY_BUCKETS_S,
        )
        self.swaps = counter("swaps", "Announced versions, by result: swapped, or why it was refused", "result")
        self.online_clicks = counter(
            "online_clicks", "Clicks that met an earlier answer of their session, by its version", "model_version"
        )
        self.online_hits = counter("online_hits", "Those whose item was in that answer's first 20", "model_version")
        self.online_reciprocal_ranks = counter(
            "online_reciprocal_ranks", "Sum of 1/rank of those items in that answer", "model_version"
        )
        self.online_recall = gauge("online_recall_at_20", "online_hits over online_clicks", "model_version")
        self.online_mrr = gauge("online_mrr_at_20", "online_reciprocal_ranks over online_clicks", "model_version")
        # A labelled metric takes as long to find as to count, and here are several for every lone click.
        self._applied, self._replayed, self._dead = (
            self.clicks.labels(result) for result in ("applied", "replayed", "dead")
        )
        self._answers_of: _ByVersion[Counter] = _ByVersion(self.answers.labels, self.answers)
        self._online_of = _ByVersion(
            lambda version: _Online(self, version),
            self.online_clicks,
            self.online_hits,
            self.online_reciprocal_ranks,
            self.online_recall,
            self.online_mrr,
        )
        self._active_sessions = 0

    def batch_answered(self, outcome: Outcome, times: BatchTimes, now_ms: int) -> None:
        """Count one micro-batch after its deliveries.

        Args:
            outcome: What the batch led to.
            times: How long each stage took.
            now_ms: When its deliveries were acknowledged, ms since the Unix epoch.
        """
        self.batch_clicks.observe(float(len(outcome.answers) + len(outcome.dead_letters)))
        self.process_time.observe(times.process_s)
        self.forward_time.observe(outcome.forward_s)
        self.store_read_time.observe(times.store_read_s)
        self.store_write_time.observe(times.store_write_s)
        self.delivery_time.observe(times.delivery_s)
        produced_ms = np.array([answer.record.timestamp_ms for answer in outcome.answers])
        self.latency.observe(np.maximum(now_ms - produced_ms, 0) / 1000)
        for counter, count in (
            (self._applied, outcome.applied),
            (self._replayed, outcome.replayed),
            (self._dead, len(outcome.dead_letters)),
            (self.unknown_items, len(outcome.unknown)),
            (self.sessions_started, outcome.started),
        ):
            if count:
                counter.inc(count)
        for letter in outcome.dead_letters:
            self.dead_letters.labels(letter.reason).inc()
        for version, count in Tally(answer.version for answer in outcome.answers).items():
            self._answers_of[version].inc(count)
        for evaluation in outcome.evaluations:
            self.evaluated(evaluation.version, evaluation.ranks)
        self._active_sessions += outcome.first_seen
        self.sessions_active.set(self._active_sessions)
        self.last_progress.set(now_ms / 1000)

    def evaluated(self, version: str, ranks: NDArray[np.int64]) -> None:
        """Count how `version`'s answers met the clicks after them.

        Args:
            version: Version that answered.
            ranks: 1-based rank of each clicked item in the answer before it; 0 where it was not in it.
        """
        self._online_of[version].evaluated(ranks)

    def swept(self, expired: int, kept: int | None) -> None:
        """Count expired sessions; `kept` is the number of sessions left when a whole sweep ended, else None."""
        self.sessions_expired.inc(expired)
        self._active_sessions = max(self._active_sessions - expired, 0) if kept is None else kept
        self.sessions_active.set(self._active_sessions)

    def assigned(self, partitions: int) -> None:
        """Count an assignment; what was known of the partitions before is forgotten."""
        self.rebalances.inc()
        self.partitions.set(partitions)
        self.lag.clear()


class _ByVersion(Generic[Told]):
    """What is told of the `VERSIONS_TOLD` versions used last; a worker runs for months, and each round brings one.

    Args:
        make: Finds or begins what is told of a version.
        metrics: By version alone; all have been told something of a version once it was made.
    """

    def __init__(self, make: Callable[[str], Told], *metrics: Counter | Gauge) -> None:
        self._make, self._metrics = make, metrics
        self._told: dict[str, Told] = {}  # the one used last stands last

    def __getitem__(self, version: str) -> Told:
        told = self._told.pop(version, None)
        self._told[version] = told = self._make(version) if told is None else told
        if len(self._told) > VERSIONS_TOLD:
            oldest = next(iter(self._told))
            del self._told[oldest]
            for metric in self._metrics:
                metric.remove(oldest)
        return told


class _Online:
    """How one version's answers meet the clicks after them."""

    def __init__(self, metrics: WorkerMetrics, version: str) -> None:
        self._online_clicks = metrics.online_clicks.labels(version)
        self._online_hits = metrics.online_hits.labels(version)
        self._online_reciprocal_ranks = metrics.online_reciprocal_ranks.labels(version)
        self._clicks, self._hits, self._reciprocal = 0, 0, 0.0
        metrics.online_recall.labels(version).set_function(lambda: self._hits / max(1, self._clicks))
        metrics.online_mrr.labels(version).set_function(lambda: self._reciprocal / max(1, self._clicks))

    def evaluated(self, ranks: NDArray[np.int64]) -> None:
        """Count some clicks, at least one."""
        found = ranks[(ranks > 0) & (ranks <= ONLINE_K)]
        reciprocal = float((1.0 / found).sum())
        self._clicks += len(ranks)
        self._hits += len(found)
        self._reciprocal += reciprocal
        self._online_clicks.inc(len(ranks))
        if len(found):
            self._online_hits.inc(len(found))
            self._online_reciprocal_ranks.inc(reciprocal)
