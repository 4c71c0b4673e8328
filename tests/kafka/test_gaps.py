"""`nextclick bench gaps` on Apache Kafka: every cause is brought about, and every click answered all the while."""

import pytest

from deploy.bench.gaps import GapsBench, run
from deploy.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


@pytest.mark.usefixtures("real_kafka")
def test_each_cause_has_its_stretch_and_none_leaves_a_click_unanswered() -> None:
    heard: list[str] = []
    bench = GapsBench(items=300, hidden=8, rate=100.0, seconds=5.0, ended=2_000)
    found = run(bench, Settings(), heard.append)
    causes = ["commits", "sweep", "swap", "rebalance of another group"]
    assert list(found["causes"]) == causes == heard[-len(causes) :]
    for row in found["causes"].values():
        assert row["unanswered"] == 0
        assert 0 < row["longest_gap_ms"] < 1_000 * bench.seconds
        assert 0 <= row["garbage_ms_at_most"] <= 1_000
        assert row["compaction_s"] >= 0
