"""A Prometheus histogram for whole micro-batches."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Histogram(Collector):
    """Counts a whole batch of values at once.

    `prometheus_client.Histogram` takes about a microsecond a value, which on this path is a cost per click.

    Args:
        name: Metric name, with its unit.
        documentation: What it measures.
        buckets: Upper bounds, rising; +Inf is added.
        registry: Where it is registered.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.array(buckets, np.float64)
        self._counts = np.zeros(len(buckets) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: NDArray[np.float64] | float) -> None:
        """Count every value."""
        flat = np.atleast_1d(np.asarray(values, np.float64))
        places = np.searchsorted(self._bounds, flat)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(flat.sum())

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Return the family without values."""
        return [HistogramMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the cumulative buckets and the sum."""
        family = HistogramMetricFamily(self._name, self._documentation)
        bounds = [*map(str, self._bounds.tolist()), "+Inf"]
        cumulative = np.cumsum(self._counts).tolist()
        family.add_metric([], list(zip(bounds, cumulative, strict=True)), self._sum)
        return [family]
