"""The README says what is so."""

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from stream.metrics import WorkerMetrics
from tests.conftest import REPOSITORY
from trainer.metrics import TrainerMetrics

ROW = re.compile(r"^\| `(nextclick_\w+)` \| (\w+) \| ([^|]+) \| (.+) \|$", re.MULTILINE)
# By the end of the name; what ends in none of these counts things.
UNITS = {"_timestamp_seconds": "Unix time, s", "_seconds": "s", "_per_second": "1/s", "_info": "1"}
FRACTIONS = ("_leading", "_recall_at_20", "_mrr_at_20", "_gate", "_live_difference", "_loss", "_reciprocal_ranks")


def families() -> list[Metric]:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    TrainerMetrics(registry)
    return list(registry.collect())


def unit(name: str) -> str:
    if name.endswith(FRACTIONS):
        return "1"
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "count")


def test_the_readme_lists_every_metric_with_its_type_unit_and_meaning_and_no_other() -> None:
    rows = ROW.findall((REPOSITORY / "README.md").read_text())
    listed = {name: (kind, measured_in, meaning) for name, kind, measured_in, meaning in rows}
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            unit(family.name),
            family.documentation,
        )
        for family in families()
    }
    assert listed == exposed


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_metric_name_has_our_prefix_and_a_base_unit(family: Metric) -> None:
    assert family.name.startswith("nextclick_")
    assert not family.name.endswith(("_ms", "_milliseconds", "_minutes", "_kb", "_mb"))
