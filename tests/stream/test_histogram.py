import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream.histogram import Histogram

BUCKETS = (0.001, 0.01, 0.5, 1.0, 64)


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Return what a scrape of the registry says, by sample name and bucket."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.lists(st.floats(0, 100) | st.sampled_from(BUCKETS), max_size=10), max_size=5))
def test_a_scrape_equals_that_of_the_library_s_histogram(batches: list[list[float]]) -> None:
    ours, reference = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("wait_seconds", "Waiting", BUCKETS, ours)
    expected = prometheus_client.Histogram("wait_seconds", "Waiting", buckets=BUCKETS, registry=reference)
    for values in batches:
        histogram.observe(np.array(values, np.float64) if len(values) != 1 else float(values[0]))
        for value in values:
            expected.observe(value)
    got, want = samples(ours), samples(reference)
    assert got.keys() == want.keys()
    np.testing.assert_allclose([got[name] for name in want], list(want.values()))


def test_a_single_value_is_counted() -> None:
    registry = CollectorRegistry()
    Histogram("wait_seconds", "Waiting", BUCKETS, registry).observe(0.01)
    assert registry.get_sample_value("wait_seconds_bucket", {"le": "0.01"}) == 1
    assert registry.get_sample_value("wait_seconds_bucket", {"le": "0.001"}) == 0
    assert registry.get_sample_value("wait_seconds_count") == 1


def test_its_name_cannot_be_registered_twice() -> None:
    registry = CollectorRegistry()
    Histogram("wait_seconds", "Waiting", BUCKETS, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("wait_seconds", "Waiting", BUCKETS, registry)
