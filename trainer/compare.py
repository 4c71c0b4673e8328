"""Recommenders side by side on the same clicks: how well they foresee, how long they train, how fast they answer.

Shape letters: N items.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.baselines.contract import settings_to_dict
from model.baselines.kinds import BASELINES, SYSTEMS
from model.baselines.scorer import BaselineScorer
from model.baselines.shelf import KeptBaseline, Shelf
from model.clicks import Sessions, sessionise
from model.ranking import RankingMetrics, Ties
from model.recommender import Recommender
from model.vocabulary import Vocabulary
from trainer import protocols
from trainer.evaluate import GRU4REC, GRU4REC_NETWORK
from trainer.fine_tune import OnProgress
from trainer.fit import fit
from trainer.learner import as_rows, in_order_of_appearance
from trainer.scorers import scorer_of
from trainer.settings import TrainerSettings
from trainer.systems import (
    CUTOFF,
    BaselineSystem,
    GRU4RecSystem,
    System,
    answer_metrics,
    histories_before,
    intervals,
)

MODELS = (GRU4REC, GRU4REC_NETWORK, *SYSTEMS)
BY_DEFAULT = (GRU4REC, GRU4REC_NETWORK, *BASELINES)
ALWAYS = (10, CUTOFF)
_TIMED_ANSWERS = 200

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What is compared.

    Attributes:
        protocol: The clicks.
        ks: Cut-offs, beside `ALWAYS`.
        ties: See `model.ranking.ranks`.
        removes_seen: Whether items that the session has clicked already are left out of the ranking.
        settings: Of GRU4Rec; the device and the seed of all.
    """

    protocol: protocols.Protocol
    ks: Sequence[int]
    ties: Ties
    removes_seen: bool
    settings: TrainerSettings


def compare(
    question: Question,
    models: Sequence[str],
    *,
    finished: "Finished | None" = None,
    kept: "Kept | None" = None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Iterator[Row]:
    """Fit one model after the other on the training clicks and yield what each is worth, in the order given.

    Args:
        question: What is compared.
        models: Of `MODELS`.
        finished: Where rows are kept as they are found; those there already are not found again.
        kept: Where baselines are kept as they are fitted; those there already are not fitted again.
        on_progress: Told how much of a model's training is done.

    Yields:
        `model`, `cases`, the metrics by name, `recall@20_interval` and `mrr@20_interval` (95 %, over sessions),
        `coverage@20` (share of all items that occur in the answers looked at), `popularity@20` (mean share of items
        less popular than an answered one), `train_s` and `ms_per_answer` (median over single histories).

    Raises:
        ValueError: No session teaches anything, or no click can be ranked.
    """
    sessions = sessionise(question.protocol.train, idle_ms=question.protocol.idle_ms, minimum_length=2)
    item_ids = question.protocol.train.item_ids
    vocabulary = Vocabulary(in_order_of_appearance(sessions, item_ids))
    learned = as_rows(sessions, item_ids, vocabulary)
    ranked, counted = question.protocol.cases(vocabulary)
    if not counted.any():
        raise ValueError("no held-out click is on an item of the training clicks: nothing to rank")
    clicks = _Clicks(learned, vocabulary, ranked, counted)
    for model in models:
        row = finished.get(model, question) if finished else None
        if row is None:
            row = _row(question, model, clicks, kept, on_progress)
            if finished:
                finished.add(model, question, row)
        yield row


def over_seeds(rows: Sequence[Row]) -> Row:
    """Return the mean of one model's rows under several seeds; `spread` has the least and the largest by metric."""
    first, *others = rows
    if not others:
        return first
    means = {name: np.mean([row[name] for row in rows], axis=0).tolist() for name in first if name != "model"}
    metrics = [name for name in first if name.split("@")[0] in {"recall", "hr", "mrr", "ndcg"} and "_" not in name]
    spread = {name: [min(row[name] for row in rows), max(row[name] for row in rows)] for name in metrics}
    return {"model": first["model"], **means, "cases": first["cases"], "spread": spread}


@dataclass(frozen=True)
class _Clicks:
    """The question's clicks as rows: sessions to learn from, and those whose counted clicks are ranked."""

    learned: Sessions
    vocabulary: Vocabulary
    ranked: Sessions
    counted: NDArray[np.bool_]

    @property
    def clicks_by_row(self) -> NDArray[np.int64]:
        """How often each item was clicked, int64 [N]."""
        return np.bincount(self.learned.items, minlength=len(self.vocabulary))


def _row(question: Question, model: str, clicks: _Clicks, kept: "Kept | None", on_progress: OnProgress) -> Row:
    system, train_s = _fitted(question, model, clicks, kept, on_progress)
    ranks = system.scorer.next_click_ranks(clicks.ranked, clicks.counted, question.ties)
    histories = histories_before(clicks.ranked, clicks.counted)
    return {
        "model": model,
        "cases": len(ranks),
        **RankingMetrics.from_ranks(ranks, sorted({*question.ks, *ALWAYS})).to_dict(),
        **intervals(ranks, clicks.ranked, clicks.counted, question.settings.seed),
        **answer_metrics(system.answer(histories), clicks.clicks_by_row),
        "train_s": round(train_s, 3),
        "ms_per_answer": round(_ms_per_answer(system, histories), 4),
    }


def _fitted(
    question: Question, model: str, clicks: _Clicks, kept: "Kept | None", on_progress: OnProgress
) -> tuple[System, float]:
    """Return a system that has learned, and the seconds that it took."""
    settings, removes_seen = question.settings, question.removes_seen
    started_s = time.perf_counter()
    if model in {GRU4REC, GRU4REC_NETWORK}:
        recipe = settings.model_copy(update={"companion": model == GRU4REC})
        version, _ = fit(question.protocol.train, recipe, version=model, created_at_ms=0, on_progress=on_progress)
        network, companion = version.network, version.companion
        recommender = Recommender(network, version.vocabulary, model, settings.torch_device(), companion)
        scorer = scorer_of(network, companion, removes_seen=removes_seen)
        return GRU4RecSystem(recommender, scorer), time.perf_counter() - started_s
    found = kept.get(model, question) if kept else None
    if found is None:
        kind, options = SYSTEMS[model]
        generator = torch.Generator(settings.torch_device()).manual_seed(settings.seed)
        baseline = kind.fit(clicks.learned, len(clicks.vocabulary), options, generator, on_progress)
        found = KeptBaseline(baseline, clicks.vocabulary, time.perf_counter() - started_s)
        if kept:
            kept.add(model, question, found)
    return BaselineSystem(found.baseline, BaselineScorer(found.baseline, removes_seen=removes_seen)), found.train_s


def _ms_per_answer(system: System, histories: list[list[int]]) -> float:
    taken_s = []
    for history in histories[:: max(1, len(histories) // _TIMED_ANSWERS)]:
        answer = system.ready(history)
        started_s = time.perf_counter()
        answer()
        taken_s.append(time.perf_counter() - started_s)
    return float(np.median(taken_s)) * 1000


class Finished:
    """Rows found so far, in a file of a line each: an interrupted comparison goes on after the last whole line.

    Args:
        path: Made with the first row.
        clicks: What tells this file of clicks and its split from others.
    """

    def __init__(self, path: Path, clicks: Mapping[str, Any]) -> None:
        self._path, self._clicks = path, dict(clicks)
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows: dict[str, Row] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                self._rows[entry["key"]] = entry["row"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} holds a line that is no row of a comparison: {line[:80]!r}") from error

    def get(self, model: str, question: Question) -> Row | None:
        """Return the row of a model, if it was found under the very same question."""
        return self._rows.get(self._key(model, question))

    def add(self, model: str, question: Question, row: Row) -> None:
        """Keep a row."""
        key = self._key(model, question)
        self._rows[key] = row
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "row": row}) + "\n")

    def _key(self, model: str, question: Question) -> str:
        recipe = question.settings.model_dump(mode="json")
        told = [model, self._clicks, list(question.ks), question.ties, question.removes_seen, recipe]
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class Kept:
    """Baselines that were fitted, on a shelf: other cut-offs, ties or rankings do not fit them again.

    Args:
        shelf: Where they are.
        clicks: What tells this file of clicks and its split from others.
    """

    def __init__(self, shelf: Shelf, clicks: Mapping[str, Any]) -> None:
        self._shelf, self._clicks = shelf, dict(clicks)

    def get(self, model: str, question: Question) -> KeptBaseline | None:
        """Return a baseline, if it was fitted on the very same clicks with the same options and seed."""
        name = self._name(model, question)
        return self._shelf.load(name) if name in self._shelf.names() else None

    def add(self, model: str, question: Question, kept: KeptBaseline) -> None:
        """Keep a baseline."""
        self._shelf.write(self._name(model, question), kept)

    def _name(self, model: str, question: Question) -> str:
        options, settings = settings_to_dict(SYSTEMS[model][1]), question.settings
        told = [self._clicks, options, settings.seed, settings.idle_ms, settings.torch_device().type]
        return f"{model}-{sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"
