import gc

from prometheus_client import CollectorRegistry

from stream.garbage import GarbageWatch
from stream.histogram import Histogram


def test_each_collection_is_observed_until_it_stops() -> None:
    registry = CollectorRegistry()
    watch = GarbageWatch(Histogram("pauses", "Of collections", (0.001, 60.0), registry))
    callbacks = len(gc.callbacks)

    def observed() -> float:
        return registry.get_sample_value("pauses_count") or 0.0

    watch.start()
    before = observed()
    gc.collect()
    gc.collect(0)
    assert observed() - before >= 2
    assert 0 < (registry.get_sample_value("pauses_sum") or 0.0) < 60
    for _ in range(2):
        watch.stop()
        assert len(gc.callbacks) == callbacks


def test_what_was_made_before_is_not_walked_again() -> None:
    watch = GarbageWatch(Histogram("pauses", "Of collections", (1.0,), CollectorRegistry()))
    frozen = gc.get_freeze_count()
    try:
        watch.start()
        assert gc.get_freeze_count() > frozen
    finally:
        watch.stop()
        gc.unfreeze()
