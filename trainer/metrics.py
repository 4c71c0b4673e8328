"""What Prometheus sees of the trainer; the closed list of its metric names."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from model.refresh import Refresh
from trainer.gate import Verdict
from trainer.rollback import Watched
from trainer.round import Published, Refused, RoundResult, Skipped, Stopped

_PREFIX = "nextclick_trainer"
_RESULTS = ("published", "refused", "skipped", "stopped", "failed")
_SECONDS_BUCKETS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)


class TrainerMetrics:
    """The trainer's metrics on a registry of the caller's, and its two health probes.

    Args:
        registry: Where the metrics appear.
        clock: Seconds that only go forward.
        alive_for_s: How long after a turn of the reading loop the trainer counts as alive.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic, alive_for_s: float = 60.0
    ) -> None:
        self._clock = clock
        self._alive_for_s = alive_for_s
        self._turn_s = clock()
        self._reads_kafka = False
        self._has_read_back = False
        self._leads = False
        self._failed_rounds = 0
        self._last_failure: str | None = None
        counter = partial(Counter, namespace=_PREFIX, registry=registry)
        gauge = partial(Gauge, namespace=_PREFIX, registry=registry)
        seconds = partial(Histogram, namespace=_PREFIX, registry=registry, buckets=_SECONDS_BUCKETS)
        self.rounds = counter("rounds", "Rounds by what came of them.", ["result"])
        for result in _RESULTS:
            self.rounds.labels(result)
        self.consecutive_failed_rounds = gauge(
            "consecutive_failed_rounds", "Rounds failed since the last that did not."
        )
        self.round_seconds = seconds("round_seconds", "Wall time of rounds.")
        self.refreshes = counter("refreshes", "Refreshes of the serving version by what came of them.", ["result"])
        self.refresh_seconds = seconds("refresh_seconds", "Wall time of refreshes.")
        self.refreshed_items = gauge("refreshed_items", "Items that the last refresh appended to the version.")
        self.train_seconds = seconds("train_seconds", "Wall time of training in rounds that came to the gate.")
        self.clicks_per_second = gauge("clicks_per_second", "Training speed of the last round, every epoch counted.")
        self.loss = gauge("loss", "Mean training loss of the last round's last epoch.")
        self.gate = gauge(
            "gate", "What the last gate measured, of the candidate and of what it had to match.", ["metric", "side"]
        )
        self.gate_cases = gauge("gate_cases", "Next clicks that the last gate ranked.")
        self.rollbacks = counter(
            "rollbacks",
            "Versions taken back: worse on live clicks, or rejected so before a crash (unfinished).",
            ["cause"],
        )
        for cause in ("worse", "unfinished"):
            self.rollbacks.labels(cause)
        self.live_difference = gauge(
            "live_difference",
            "Serving version less its parent on live clicks, mean and upper bound.",
            ["metric", "value"],
        )
        self.live_cases = gauge("live_cases", "Live next clicks that both were last compared on.")
        self.window_clicks = gauge("window_clicks", "Clicks held in memory.")
        self.new_clicks = gauge("new_clicks", "Clicks read since the last round began.")
        self.lag_clicks = gauge("lag_clicks", "Records of the clicks topic that are not read yet.")
        self.invalid_clicks = counter("invalid_clicks", "Records that are no clicks, passed over.", ["reason"])
        self.leading = gauge("leading", "1 where this trainer holds rounds, 0 where it stands by for another.")
        self.kafka_failures = counter("kafka_failures", "Times that reading the clicks topic failed.")
        self.last_published_timestamp_seconds = gauge(
            "last_published_timestamp_seconds", "When the last version was published, Unix time; 0 before the first."
        )
        self.version_info = gauge("version_info", "1 for the last version published.", ["version"])

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether Kafka is read and the window was read back, with details; may be called from any thread.

        Failed rounds are told but leave it ready: clicks are read on, and a restart would mend nothing. One that stands
        by is ready, too: a rolling update ends the old trainer only when the new one is.
        """
        needed = {"kafka_reached": self._reads_kafka, "window_read_back": self._has_read_back}
        told = {
            "leads": self._leads,
            "consecutive_failed_rounds": self._failed_rounds,
            "last_failure": self._last_failure,
        }
        return all(needed.values()), needed | told

    def liveness(self) -> tuple[bool, dict[str, Any]]:
        """Whether the reading loop turned lately, Kafka there or not; may be called from any thread."""
        idle_s = self._clock() - self._turn_s
        return idle_s <= self._alive_for_s, {"seconds_since_last_turn": round(idle_s, 3)}

    def turned(self) -> None:
        """Note that the reading loop turns."""
        self._turn_s = self._clock()

    def kafka_reached(self) -> None:
        """Note that Kafka answers."""
        self._reads_kafka = True

    def kafka_failed(self) -> None:
        """Count a failure to read, and note that Kafka does not answer."""
        self._reads_kafka = False
        self.kafka_failures.inc()

    def window_read_back(self) -> None:
        """Note that the window holds what the topic held at the start."""
        self._has_read_back = True

    def leads(self, *, leads: bool) -> None:
        """Note whether this trainer holds rounds or stands by for another."""
        self._leads = leads
        self.leading.set(leads)

    def round_failed(self, consecutive: int, why: str) -> None:
        """Count a round that could not be held, the `consecutive`-th in a row."""
        self.rounds.labels("failed").inc()
        self._note_failures(consecutive, why)

    def _note_failures(self, consecutive: int, why: str | None) -> None:
        self._failed_rounds, self._last_failure = consecutive, why
        self.consecutive_failed_rounds.set(consecutive)

    def refresh_ended(self, refresh: Refresh | None, seconds: float) -> None:
        """Count a look for what to refresh, which may have found nothing."""
        self.refreshes.labels("nothing-new" if refresh is None else "announced").inc()
        if refresh is not None:
            self.refresh_seconds.observe(seconds)
            self.refreshed_items.set(len(refresh.item_ids))

    def round_ended(self, result: RoundResult, seconds: float) -> None:
        """Count a round and take over what it measured."""
        self.round_seconds.observe(seconds)
        self._note_failures(0, None)
        match result:
            case Published(announcement=announcement):
                self.rounds.labels("published").inc()
                self.last_published_timestamp_seconds.set(announcement.announced_at_ms / 1000)
                self.version_info.clear()
                self.version_info.labels(announcement.version).set(1)
            case Refused():
                self.rounds.labels("refused").inc()
            case Skipped():
                self.rounds.labels("skipped").inc()
            case Stopped():
                self.rounds.labels("stopped").inc()
        if isinstance(result, Published | Refused):
            self._measured(result)

    def looked(self, found: Watched) -> None:
        """Take over what live clicks showed of the version that serves, and count a rollback."""
        if found.outcome != "kept":
            self.rollbacks.labels(found.outcome).inc()
        if found.look is None:
            return
        measured = found.look.metrics
        self.live_cases.set(measured["cases"])
        for metric in ("recall@20", "mrr@20"):
            self.live_difference.labels(metric, "mean").set(measured[f"{metric}_difference"])
            self.live_difference.labels(metric, "upper").set(measured[f"{metric}_difference_upper"])

    def _measured(self, result: Published | Refused) -> None:
        if result.report is not None:
            self.train_seconds.observe(result.report.seconds)
            self.clicks_per_second.set(result.report.clicks_per_second)
            self.loss.set(result.report.loss)
        if result.verdict is not None:
            self._judged(result.verdict)

    def _judged(self, verdict: Verdict) -> None:
        self.gate_cases.set(verdict.metrics["cases"])
        for side, prefix in (("candidate", ""), ("incumbent", "incumbent_")):
            for metric in ("recall@20", "mrr@20"):
                self.gate.labels(metric, side).set(verdict.metrics[prefix + metric])
