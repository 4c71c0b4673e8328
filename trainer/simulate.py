"""Test-then-train: what each way to stay up to date would have answered along the order of the clicks.

Shape letters: c cases.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.clicks import DAY_MS
from model.ranking import RankingMetrics, Ties
from model.registry import Registry
from trainer.learner import as_rows
from trainer.methods import REFRESHED, Counted, Method, Never, Ours, Plain, Retrain, Served
from trainer.settings import TrainerSettings
from trainer.timeline import Cases, Timeline

CUTOFF = 20
METHODS = ("never", "retrain", "plain", "ours", "popularity", "item-knn")
_AGES_S = (60, 600, 3600, 6 * 3600, 86_400)

Row = dict[str, Any]
OnPeriod = Callable[[Mapping[str, Row]], None]
"""Told what each row of a method reached in a period."""


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes:
        timeline: The clicks and their periods.
        settings: Of the network, of training and of the gate.
        ties: See `model.ranking.ranks`.
        period_days: How far the clock goes on with each period where the clicks have no times.
    """

    timeline: Timeline
    settings: TrainerSettings
    ties: Ties = "conservative"
    period_days: float = 1.0

    def now_ms(self, end: int) -> int:
        """Return the time at which the clicks before a place have come."""
        timeline = self.timeline
        if timeline.table.has_times:
            return int(timeline.table.timestamp_ms[end - 1])
        return int(np.searchsorted(timeline.ends, end) * self.period_days * DAY_MS)


def simulate(
    simulation: Simulation,
    methods: Sequence[str],
    registry: Registry,
    *,
    on_period: OnPeriod = lambda _rows: None,
) -> Iterator[Row]:
    """Let one method after the other learn and answer, and yield what each reached, with and without its companion.

    Args:
        simulation: What is simulated.
        methods: Of `METHODS`.
        registry: Where the rounds of `ours` keep their versions; empty.
        on_period: See `OnPeriod`.

    Yields:
        `method`; `recall@20`, `mrr@20` and `ndcg@20`, the mean over periods that stand alone, else over all cases;
        `cases`; `seconds` of processor time for learning; `periods`, a list of the same keys; `new_items`: how items
        fared that the answering version did not know; with times, `by_age` of what was learned last; of `ours`,
        `rounds` by result.
    """
    for name in methods:
        method = _method(name, simulation, registry)
        tallies: dict[str, _Tally] = {}
        for period in range(1, len(simulation.timeline) + 1):
            for row, seconds in _period(simulation, method, period, tallies).items():
                tallies[row].close(period, seconds)
            on_period({row: tally.periods[-1] for row, tally in tallies.items()})
        rounds = {"rounds": method.results} if isinstance(method, Ours) else {}
        for row, tally in tallies.items():
            yield {"method": row, **tally.summary(), **rounds}


def _period(simulation: Simulation, method: Method, period: int, tallies: dict[str, "_Tally"]) -> dict[str, float]:
    """Let a method learn and then answer a period; returns the seconds of processor time that each row learned."""
    timeline = simulation.timeline
    learned_s = refreshed_s = 0.0
    for start, end in timeline.stretches(period) if isinstance(method, Ours) else [timeline.bounds(period)]:
        started_s = time.process_time()
        if start == timeline.bounds(period)[0]:
            served = method.learn(start)
            learned_s = time.process_time() - started_s
        else:
            assert isinstance(method, Ours)
            served = method.refreshed(start)
            refreshed_s += time.process_time() - started_s
        cases = timeline.cases(start, end)
        for row, answering in served.answering.items():
            rows = as_rows(cases.sessions, timeline.table.item_ids, answering.vocabulary)
            ranks = answering.scorer.next_click_ranks(rows, cases.counted, simulation.ties)
            tallies.setdefault(row, _Tally(simulation)).add(cases, served, ranks)
    return {row: learned_s + (refreshed_s if row.endswith(REFRESHED) else 0.0) for row in served.answering}


def _method(name: str, simulation: Simulation, registry: Registry) -> Method:
    table, settings = simulation.timeline.table, simulation.settings
    match name:
        case "never":
            return Never(table, settings)
        case "retrain":
            return Retrain(table, settings)
        case "plain":
            return Plain(table, settings)
        case "ours":
            refreshes = bool(len(simulation.timeline.refreshes))
            return Ours(table, settings, registry, simulation.now_ms, refreshes=refreshes)
        case _:
            return Counted(name, table, settings)


@dataclass
class _Tally:
    """What one row reached so far."""

    simulation: Simulation
    periods: list[Row] = field(default_factory=list)
    ranks: list[NDArray[np.int64]] = field(default_factory=list)
    ages_ms: list[NDArray[np.int64]] = field(default_factory=list)
    is_new: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, cases: Cases, served: Served, ranks: NDArray[np.int64]) -> None:
        """Note the ranks of some cases of a period."""
        table = self.simulation.timeline.table
        places = cases.places[cases.counted]
        self.ranks.append(ranks)
        self.ages_ms.append(table.timestamp_ms[places] - table.timestamp_ms[max(0, served.learned_until - 1)])
        rows = served.vocabulary.rows(table.item_ids)
        self.is_new.append(rows[table.item[places]] < 0)

    def close(self, period: int, seconds: float) -> None:
        """Note that all cases of a period have been added."""
        ranks = np.concatenate(self.ranks)[sum(row["cases"] for row in self.periods) :]
        metrics = _shown(RankingMetrics.from_ranks(ranks, (CUTOFF,)).to_dict())
        self.periods.append({"period": period, "cases": len(ranks), **metrics, "seconds": round(seconds, 3)})

    def summary(self) -> Row:
        """Return the row but for its name."""
        timeline, ranks = self.simulation.timeline, np.concatenate(self.ranks)
        overall = _shown(RankingMetrics.from_ranks(ranks, (CUTOFF,)).to_dict())
        if timeline.stands_alone:
            overall = {name: float(np.mean([row[name] for row in self.periods])) for name in overall}
        seconds = round(sum(row["seconds"] for row in self.periods), 3)
        found = {"cases": len(ranks), **overall, "seconds": seconds, "new_items": self._new_items(ranks)}
        if timeline.table.has_times:
            found["by_age"] = self._by_age(ranks)
        return found | {"periods": self.periods}

    def _new_items(self, ranks: NDArray[np.int64]) -> Row:
        is_new, hits = np.concatenate(self.is_new), ranks <= CUTOFF
        return {
            "cases": int(is_new.sum()),
            f"recall@{CUTOFF}": float(hits[is_new].mean()) if is_new.any() else 0.0,
            "share_of_hits": float(hits[is_new].sum() / max(1, hits.sum())),
        }

    def _by_age(self, ranks: NDArray[np.int64]) -> list[Row]:
        ages_s = np.concatenate(self.ages_ms) / 1000
        bounds = (0, *_AGES_S, np.inf)
        rows = []
        for low, high in pairwise(bounds):
            which = (ages_s >= low) & (ages_s < high)
            if which.any():
                hits = float((ranks[which] <= CUTOFF).mean())
                upto = None if high == np.inf else int(high)
                rows.append({"upto_s": upto, "cases": int(which.sum()), f"recall@{CUTOFF}": hits})
        return rows


def _shown(metrics: Mapping[str, float]) -> Row:
    return {name: metrics[name] for name in (f"recall@{CUTOFF}", f"mrr@{CUTOFF}", f"ndcg@{CUTOFF}")}
