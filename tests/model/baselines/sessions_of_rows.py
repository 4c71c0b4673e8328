"""Sessions of rows whose best possible recommender is known, and small recipes that learn them in a second or two."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from model.baselines.contract import Baseline, settings_from_dict
from model.baselines.histories import Histories
from model.baselines.kinds import BASELINES
from model.clicks import Sessions

TRANSFORMER = {"embedding_size": 32, "blocks": 1, "length": 12, "dropout": 0.0, "batch_size": 16}
SMALL: dict[str, dict[str, Any]] = {
    "popularity": {},
    "item-knn": {},
    "vmis-knn": {},
    "bpr-mf": {"factors": 16, "learning_rate": 0.1},
    "fpmc": {"factors": 16, "learning_rate": 0.1, "epochs": 30},
    "sasrec": TRANSFORMER | {"learning_rate": 0.005, "epochs": 8},
    "bert4rec": TRANSFORMER | {"learning_rate": 0.003, "epochs": 60, "last_share": 0.5},
}


def sessions_of(clicks: Sequence[Sequence[int]]) -> Sessions:
    """Return sessions a second apart, in the order given."""
    histories = Histories.of(clicks)
    start_ms = np.arange(len(clicks)) * 1000
    return Sessions(histories.rows, histories.offsets, start_ms, start_ms)


def cyclic(items: int, *, sessions: int, start: int = 0) -> Sessions:
    """Return sessions of 2 to 6 clicks that go round the items in order."""
    return sessions_of(
        [[(start + s // 5 + step) % items for step in range(2 + s % 5)] for s in range(sessions)],
    )


def shuffled(items: int, *, sessions: int, seed: int) -> Sessions:
    """Return sessions of 5 clicks in which every item is drawn anew, all equally likely: nothing can be learnt."""
    return sessions_of(np.random.default_rng(seed).integers(items, size=(sessions, 5)).tolist())


def cliques(groups: int, size: int, *, sessions: int, seed: int) -> Sessions:
    """Return sessions that click each item of one group once, in random order; group g begins at row g * size."""
    generator = np.random.default_rng(seed)
    return sessions_of([(s % groups * size + generator.permutation(size)).tolist() for s in range(sessions)])


def next_clicks(sessions: Sessions) -> tuple[Histories, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the history before every click but a session's first, and the item clicked, int64 [c]."""
    histories, targets = [], []
    for start, stop in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        for place in range(start + 1, stop):
            histories.append(sessions.items[start:place].tolist())
            targets.append(int(sessions.items[place]))
    return Histories.of(histories), np.array(targets)


def fitted(kind: str, sessions: Sessions, item_count: int, *, seed: int = 0, **settings: Any) -> Baseline:
    """Return a baseline of a kind, by its small recipe."""
    baseline = BASELINES[kind]
    chosen = settings_from_dict(baseline, SMALL[kind] | settings)
    return baseline.fit(sessions, item_count, chosen, torch.Generator().manual_seed(seed))
