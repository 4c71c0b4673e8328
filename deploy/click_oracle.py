"""How well any recommender could do on the clicks of a made-up shop: the recommender that knows the shop.

Letters: M questions (an item clicked in a block), S successors, T = k + S candidates by attraction.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.shop import Shop
from model.clicks import ClickTable


@dataclass(frozen=True)
class BestPossible:
    """What nobody can beat on average, over every click of a table that has a next click in its session.

    Attributes:
        recall: Expected share of next clicks among the k likeliest items.
        mrr: Expected mean of 1 / rank of the next click among those k, 0 outside.
        cases: How many next clicks there are.
    """

    recall: float
    mrr: float
    cases: int


def best_possible(shop: Shop, table: ClickTable, k: int) -> BestPossible:
    """Work out the expected Recall@k and MRR@k of the recommender that knows the shop's distribution.

    Exact, not sampled: the chances of the k likeliest next items, averaged over the clicks that have a next one.
    What really came next has an influence only on what was asked, not on what was answered.

    Args:
        shop: Where the clicks are from.
        table: Clicks of that shop, all or a part; of a session cut in two, the parts count.
        k: Length of the recommendation.

    Raises:
        ValueError: The table has no next click, or an item that the shop does not have.
    """
    item, block, _ = next_click_cases(shop, table)
    if len(item) == 0:
        raise ValueError("no session of this table has a second click, so there is nothing to predict")
    _, chances = likeliest_next(shop, item, block, k)
    mrr = chances @ (1.0 / np.arange(1, chances.shape[1] + 1))
    return BestPossible(recall=float(chances.sum(axis=1).mean()), mrr=float(mrr.mean()), cases=len(item))


def next_click_cases(shop: Shop, table: ClickTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for every click with a next one in its session: its item, its block and the item that came next.

    Raises:
        ValueError: The table has an item that the shop does not have.
    """
    code_of = {item_id: code for code, item_id in enumerate(shop.item_ids)}
    codes = np.array([code_of.get(item_id, -1) for item_id in table.item_ids], dtype=np.int64)
    order = np.argsort(table.session, kind="stable")
    session, item = table.session[order], codes[table.item[order]]
    if (item < 0).any():
        stranger = table.item_ids[table.item[order][item < 0][0]]
        raise ValueError(f"item {stranger!r} is not of this shop: was the table generated with other settings?")
    has_next = session[:-1] == session[1:]
    block = shop.block_of(table.timestamp_ms[order])
    return item[:-1][has_next], block[:-1][has_next], item[1:][has_next]


def likeliest_next(
    shop: Shop, item: NDArray[np.int64], block: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the k likeliest next items of each question and their chances, likeliest first.

    Args:
        shop: Whose distribution.
        item: int64 [M], what was clicked.
        block: int64 [M], when.
        k: At most the number of items.

    Returns:
        Item codes int64 [M, k] and chances float64 [M, k]; -1 with chance 0 where fewer items are alive.
    """
    if not 1 <= k <= shop.settings.items:
        raise ValueError(f"k must be from 1 to the shop's {shop.settings.items} items, got {k}")
    count = shop.settings.items
    questions, place = np.unique(block * count + item, return_inverse=True)
    codes = np.empty((len(questions), k), dtype=np.int64)
    chances = np.empty((len(questions), k), dtype=np.float64)
    for one_block in np.unique(questions // count):
        here = np.flatnonzero(questions // count == one_block)
        ranking = _BlockRanking(shop, int(one_block), k)
        for rows in np.array_split(here, 1 + len(here) // 4096):
            codes[rows], chances[rows] = ranking.likeliest(questions[rows] % count)
    return codes[place], chances[place]


class _BlockRanking:
    """The likeliest next items in one block, out of a few candidates that are certain to hold them.

    Candidates are the item's successors, the T most attractive items of its category and the T most attractive of
    the whole shop. Any other item is less attractive than T - S = k of these that are no successors, and at most as
    likely as each of them.
    """

    def __init__(self, shop: Shop, block: int, k: int) -> None:
        self._shop = shop
        self._k = k
        self._attraction = shop.attraction[block]
        candidates = k + shop.settings.successors
        self._best_of_shop = np.argsort(-self._attraction, kind="stable")[:candidates]
        by_category = np.lexsort((-self._attraction, shop.category))
        begin, end = shop.category_start[:-1, None], shop.category_start[1:, None]
        place = begin + np.arange(candidates)
        self._best_of_category = np.where(
            place < end, by_category[np.minimum(place, len(by_category) - 1)], -1
        )  # [C, T]
        self._category_total = np.add.reduceat(self._attraction, shop.category_start[:-1])

    def likeliest(self, item: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As `likeliest_next`, for questions of this block."""
        shop, settings, attraction = self._shop, self._shop.settings, self._attraction
        category = shop.category[item]
        successors = shop.successors[item]  # [M, S]
        habitual = settings.habit * shop.habits * (attraction[successors] > 0)
        browsing = settings.browse + settings.habit - habitual.sum(axis=1)
        anywhere = (1 - settings.habit - settings.browse) / attraction.sum()
        inside = (browsing / self._category_total[category] + anywhere)[:, None]
        near = self._best_of_category[category]  # [M, T]
        is_new = (near >= 0) & ~(near[:, :, None] == successors[:, None, :]).any(axis=2)
        far = np.broadcast_to(self._best_of_shop, near.shape[:1] + self._best_of_shop.shape)
        is_outside = shop.category[far] != category[:, None]
        codes = np.concatenate([successors, near, far], axis=1)
        chances = np.concatenate(
            [
                attraction[successors] * inside + habitual,
                attraction[near] * inside * is_new,
                attraction[far] * anywhere * is_outside,
            ],
            axis=1,
        )
        order = np.argsort(-chances, axis=1, kind="stable")[:, : self._k]
        chances = np.take_along_axis(chances, order, axis=1)
        return np.where(chances > 0, np.take_along_axis(codes, order, axis=1), -1), chances
