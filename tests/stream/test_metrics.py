import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream.metrics import ONLINE_K, VERSIONS_TOLD, BatchTimes, WorkerMetrics
from stream.processor import Outcome
from stream.records import POPULARITY, SourceRecord
from tests.stream.builders import ITEMS, NOW_MS, recommender, record
from tests.stream.deliveries_of_kafka import Delivered, answer, new_processor

TIMES = BatchTimes(process_s=0.004, store_read_s=0.001, store_write_s=0.002, delivery_s=0.03)
PREFIX = "nextclick_"


@pytest.fixture
def scrape() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(scrape: CollectorRegistry) -> WorkerMetrics:
    return WorkerMetrics(scrape)


def value(scrape: CollectorRegistry, name: str, **labels: str) -> float | None:
    return scrape.get_sample_value(PREFIX + name, labels)


def outcome(*records: SourceRecord) -> Outcome:
    return answer(new_processor(), records, recommender(), Delivered())


def test_one_batch_is_counted(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    batch = outcome(
        record(0),
        record(1, "never-known"),
        record(0),
        SourceRecord(0, 2, 0, None, b"junk"),
        record(0, "?", session_id="t"),
    )
    metrics.batch_answered(batch, TIMES, NOW_MS + 40)
    assert value(scrape, "clicks_total", result="applied") == 3
    assert value(scrape, "clicks_total", result="replayed") == 1
    assert value(scrape, "clicks_total", result="dead") == 1
    assert value(scrape, "dead_letters_total", reason="malformed") == 1
    assert value(scrape, "unknown_items_total") == 2
    assert value(scrape, "answers_total", model_version="v1") == 3
    assert value(scrape, "answers_total", model_version=POPULARITY) == 1
    assert value(scrape, "sessions_started_total") == 2
    assert value(scrape, "batch_clicks_sum") == 5
    assert value(scrape, "last_progress_timestamp_seconds") == (NOW_MS + 40) / 1000


def test_every_stage_is_timed(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    metrics.batch_answered(outcome(record(0)), TIMES, NOW_MS)
    for stage in ("process", "store_read", "store_write", "delivery"):
        assert value(scrape, f"{stage}_seconds_sum") == pytest.approx(getattr(TIMES, f"{stage}_s"))
    assert value(scrape, "forward_seconds_count") == 1


def test_latency_runs_from_the_record_to_the_delivery_of_its_answer(
    scrape: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    metrics.batch_answered(outcome(record(0, event_ms=NOW_MS - 100), record(1, event_ms=NOW_MS)), TIMES, NOW_MS + 100)
    assert value(scrape, "click_to_answer_seconds_sum") == pytest.approx(0.3)
    assert value(scrape, "click_to_answer_seconds_count") == 2


def test_a_record_stamped_in_the_future_does_not_lower_the_latency(
    scrape: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    metrics.batch_answered(outcome(record(0, event_ms=NOW_MS + 5_000)), TIMES, NOW_MS)
    assert value(scrape, "click_to_answer_seconds_sum") == 0


def test_a_batch_of_dead_letters_alone_is_counted(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    metrics.batch_answered(outcome(SourceRecord(0, 0, 0, None, None)), TIMES, NOW_MS)
    assert value(scrape, "dead_letters_total", reason="empty") == 1
    assert value(scrape, "click_to_answer_seconds_count") == 0


def test_online_recall_and_mrr_add_up_over_batches(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    metrics.evaluated("v1", np.array([1, 0, 4]))
    metrics.evaluated("v1", np.array([2]))
    metrics.evaluated("v2", np.array([0]))
    assert value(scrape, "online_clicks_total", model_version="v1") == 4
    assert value(scrape, "online_hits_total", model_version="v1") == 3
    assert value(scrape, "online_reciprocal_ranks_total", model_version="v1") == pytest.approx(1.75)
    assert value(scrape, "online_recall_at_20", model_version="v1") == pytest.approx(3 / 4)
    assert value(scrape, "online_mrr_at_20", model_version="v1") == pytest.approx(1.75 / 4)
    assert value(scrape, "online_recall_at_20", model_version="v2") == 0


def test_only_the_versions_used_last_are_told_of(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    for number in range(VERSIONS_TOLD + 5):
        metrics.evaluated(f"v{number}", np.array([1]))
        metrics.evaluated("v1", np.array([2]))
    told = {
        sample.labels["model_version"]
        for family in scrape.collect()
        for sample in family.samples
        if sample.name == "nextclick_online_recall_at_20"
    }
    assert told == {"v1"} | {f"v{number}" for number in range(6, VERSIONS_TOLD + 5)}
    assert value(scrape, "online_clicks_total", model_version="v1") == VERSIONS_TOLD + 6
    assert value(scrape, "online_clicks_total", model_version="v0") is None


def test_a_rank_beyond_twenty_is_no_hit(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    metrics.evaluated("v1", np.array([ONLINE_K, ONLINE_K + 1]))
    assert value(scrape, "online_hits_total", model_version="v1") == 1
    assert value(scrape, "online_mrr_at_20", model_version="v1") == pytest.approx(1 / ONLINE_K / 2)


def test_the_clicks_of_a_batch_are_evaluated(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    processor, kept = new_processor(), Delivered()
    first = answer(processor, [record(0)], recommender(), kept)
    best = first.answers[0].recommendation.items
    metrics.batch_answered(answer(processor, [record(1, best[1])], recommender(), kept), TIMES, NOW_MS)
    assert value(scrape, "online_mrr_at_20", model_version="v1") == 0.5


def test_active_sessions_follow_new_ones_expired_ones_and_the_count_of_a_whole_sweep(
    scrape: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    metrics.batch_answered(outcome(*(record(0, session_id=name) for name in "abc")), TIMES, NOW_MS)
    assert value(scrape, "sessions_active") == 3
    metrics.swept(1, None)
    assert value(scrape, "sessions_active") == 2
    metrics.swept(0, 7)
    assert value(scrape, "sessions_active") == 7
    metrics.batch_answered(outcome(record(0)), TIMES, NOW_MS)
    assert value(scrape, "sessions_active") == 8
    assert value(scrape, "sessions_expired_total") == 1


def test_expired_sessions_of_an_earlier_life_do_not_make_the_count_negative(
    scrape: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    metrics.swept(5, None)
    assert value(scrape, "sessions_active") == 0


def test_an_assignment_forgets_the_lag_of_partitions_that_may_be_gone(
    scrape: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    metrics.lag.labels("0").set(9)
    metrics.assigned(1)
    assert value(scrape, "lag_records", partition="0") is None
    assert value(scrape, "assigned_partitions") == 1
    assert value(scrape, "rebalances_total") == 1


def test_the_exposition_is_valid_prefixed_and_described(scrape: CollectorRegistry, metrics: WorkerMetrics) -> None:
    metrics.batch_answered(outcome(record(0), record(1, ITEMS[1])), TIMES, NOW_MS)
    families = list(text_string_to_metric_families(generate_latest(scrape).decode()))
    assert len(families) > 20
    assert all(family.name.startswith(PREFIX) and family.documentation for family in families)
