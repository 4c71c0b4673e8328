"""How well the next click is foreseen: every position of every session, all items ranked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.baselines.popularity_baseline import PopularityBaseline, PopularitySettings
from model.baselines.scorer import BaselineScorer
from model.companion import Companion
from model.gru4rec import GRU4Rec
from model.ranking import RankingMetrics, Ties
from model.recommender import Recommender
from model.vocabulary import Vocabulary
from trainer.protocols import Protocol
from trainer.scorers import scorer_of
from trainer.systems import BaselineSystem, GRU4RecSystem, System, answer_metrics, histories_before, intervals

GRU4REC = "gru4rec"
"""What a worker serves: the network and its companion."""
GRU4REC_NETWORK = "gru4rec-network"


def evaluate(
    network: GRU4Rec,
    vocabulary: Vocabulary,
    protocol: Protocol,
    *,
    companion: Companion | None = None,
    ks: Sequence[int] = (1, 5, 10, 20),
    ties: Ties = "conservative",
    removes_seen: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compare a version with popularity on the same clicks, ranked among all items of the vocabulary.

    Args:
        network: On the device to score on.
        vocabulary: Its items.
        protocol: What popularity counts, and which clicks are ranked.
        companion: What is mixed with the network's scores; with one, the network alone is ranked too.
        ks: Cut-offs.
        ties: See `model.ranking.ranks`.
        removes_seen: Whether items that the session has clicked already are left out of the ranking.

    Returns:
        `{"gru4rec": {"cases": ..., "recall@20": ..., "mrr@20": ..., "ndcg@20": ...}, "popularity": {...}}`, and with a
        companion also "gru4rec-network"; where there are cases, each with intervals, coverage and popularity bias, see
        `trainer.systems`.
    """
    sessions, counted = protocol.cases(vocabulary)
    trained = vocabulary.rows(protocol.train.item_ids)[protocol.train.item]
    counts = np.bincount(trained[trained >= 0], minlength=len(vocabulary))
    popularity = PopularityBaseline(PopularitySettings(), torch.from_numpy(counts.astype(np.float32)))
    systems: dict[str, System] = {GRU4REC: _system(network, vocabulary, companion, removes_seen=removes_seen)}
    if companion:
        systems[GRU4REC_NETWORK] = _system(network, vocabulary, None, removes_seen=removes_seen)
    systems["popularity"] = BaselineSystem(popularity, BaselineScorer(popularity, removes_seen=removes_seen))
    histories, found = histories_before(sessions, counted), {}
    for name, system in systems.items():
        ranks = system.scorer.next_click_ranks(sessions, counted, ties)
        answered = answer_metrics(system.answer(histories), counts) if histories else {}
        found[name] = {**summary(ranks, ks), **intervals(ranks, sessions, counted, seed=0), **answered}
    return found


def _system(network: GRU4Rec, vocabulary: Vocabulary, companion: Companion | None, *, removes_seen: bool) -> System:
    recommender = Recommender(network, vocabulary, GRU4REC, network.input_table.device, companion)
    return GRU4RecSystem(recommender, scorer_of(network, companion, removes_seen=removes_seen))


def summary(found: NDArray[np.int64], ks: Sequence[int]) -> dict[str, float]:
    """Return the number of cases and their metrics by name."""
    metrics = RankingMetrics.from_ranks(found, ks)
    return {"cases": float(metrics.cases), **metrics.to_dict()}
