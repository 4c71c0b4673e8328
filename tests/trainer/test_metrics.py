from typing import Literal

from numpy.random import default_rng
from prometheus_client import CollectorRegistry

from model.announcements import Announcement
from tests.trainer.click_builders import cyclic_clicks, window_of
from trainer.fine_tune import TrainReport
from trainer.gate import Verdict
from trainer.metrics import TrainerMetrics
from trainer.rollback import Watched
from trainer.round import Published, Refused, Skipped, Stopped
from trainer.selection import select
from trainer.watch import Look

REPORT = TrainReport(loss=2.5, clicks=1000, seconds=0.5, is_complete=True)
VERDICT = Verdict(
    True,
    "not worse",
    {"cases": 40, "recall@20": 0.5, "mrr@20": 0.25, "incumbent_recall@20": 0.4, "incumbent_mrr@20": 0.2},
)


OUTCOMES: tuple[Literal["kept", "worse"], ...] = ("kept", "worse")


def published(version: str) -> Published:
    window = window_of(cyclic_clicks("ABC", sessions=10)).snapshot()
    selection = select(window, {}, holdout_share=0.2, replay_share=0, idle_ms=1, generator=default_rng(0))
    return Published(Announcement(version, "uri", "00", "promote", {}, 5_000), REPORT, VERDICT, selection)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"nextclick_trainer_{name}", labels)


def test_every_metric_has_the_prefix_and_every_result_starts_at_zero() -> None:
    registry = CollectorRegistry()
    TrainerMetrics(registry)
    assert all(family.name.startswith("nextclick_trainer_") for family in registry.collect())
    for result in ("published", "refused", "skipped", "stopped", "failed"):
        assert value(registry, "rounds_total", result=result) == 0


def test_a_published_round_shows_its_figures_and_its_version_alone() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    metrics.round_ended(published("v1"), 2.0)
    metrics.round_ended(published("v2"), 2.0)
    assert value(registry, "rounds_total", result="published") == 2
    assert value(registry, "clicks_per_second") == 2000
    assert value(registry, "loss") == 2.5
    assert value(registry, "gate", metric="recall@20", side="candidate") == 0.5
    assert value(registry, "gate", metric="mrr@20", side="incumbent") == 0.2
    assert value(registry, "gate_cases") == 40
    assert value(registry, "last_published_timestamp_seconds") == 5
    assert value(registry, "version_info", version="v1") is None
    assert value(registry, "version_info", version="v2") == 1
    assert value(registry, "train_seconds_sum") == 1.0


def test_rounds_are_counted_by_result() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    metrics.round_ended(Refused("worse", "why", REPORT, VERDICT), 1.0)
    metrics.round_ended(Refused("superseded", "why"), 1.0)
    metrics.round_ended(Skipped("too-few-clicks", "why"), 1.0)
    metrics.round_ended(Stopped(), 1.0)
    counts = [value(registry, "rounds_total", result=name) for name in ("refused", "skipped", "stopped", "published")]
    assert counts == [2, 1, 1, 0]
    assert value(registry, "train_seconds_count") == 1


def test_looks_at_live_clicks_show_their_figures_and_rollbacks_are_counted_by_cause() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    measured = {"cases": 500.0}
    for name in ("recall@20", "mrr@20"):
        measured |= {f"{name}_difference": -0.25, f"{name}_difference_upper": -0.125}
    assert value(registry, "rollbacks_total", cause="worse") == 0
    for outcome in OUTCOMES:
        metrics.looked(Watched("v2", "v1", outcome, Look(0, outcome == "worse", measured)))
    metrics.looked(Watched("v2", "v1", "unfinished", None))
    assert value(registry, "rollbacks_total", cause="worse") == 1
    assert value(registry, "rollbacks_total", cause="unfinished") == 1
    assert value(registry, "live_cases") == 500
    assert value(registry, "live_difference", metric="recall@20", value="mean") == -0.25
    assert value(registry, "live_difference", metric="mrr@20", value="upper") == -0.125


def test_failed_rounds_in_a_row_are_shown_until_one_ends() -> None:
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    metrics.round_failed(1, "no room")
    metrics.round_failed(2, "diverged")
    assert value(registry, "consecutive_failed_rounds") == 2
    assert metrics.readiness()[1].items() >= {"consecutive_failed_rounds": 2, "last_failure": "diverged"}.items()
    metrics.round_ended(Skipped("too-few-clicks", "why"), 1.0)
    assert value(registry, "consecutive_failed_rounds") == 0
    assert metrics.readiness()[1].items() >= {"consecutive_failed_rounds": 0, "last_failure": None}.items()
    assert value(registry, "rounds_total", result="failed") == 2


def test_ready_means_kafka_answers_and_the_window_was_read_back_whatever_became_of_rounds() -> None:
    metrics = TrainerMetrics(CollectorRegistry())
    no_failure = {"leads": False, "consecutive_failed_rounds": 0, "last_failure": None}
    assert metrics.readiness() == (False, {"kafka_reached": False, "window_read_back": False} | no_failure)
    metrics.kafka_reached()
    assert not metrics.readiness()[0]
    metrics.window_read_back()
    assert metrics.readiness()[0]
    metrics.round_failed(1, "no room")
    assert metrics.readiness()[0]
    metrics.kafka_failed()
    assert not metrics.readiness()[0]
    metrics.kafka_reached()
    assert metrics.readiness()[0]


def test_alive_means_that_the_reading_loop_turned_lately() -> None:
    now_s = 100.0
    metrics = TrainerMetrics(CollectorRegistry(), clock=lambda: now_s, alive_for_s=60)
    now_s += 60
    assert metrics.liveness()[0]
    now_s += 1
    assert metrics.liveness() == (False, {"seconds_since_last_turn": 61.0})
    metrics.turned()
    assert metrics.liveness()[0]
