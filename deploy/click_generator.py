"""Clicks of a made-up shop: visits of many people, interleaved in time, as many as wanted.

Letters: V visits (each one session), N items, B blocks, n clicks.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploy.shop import Shop, ShopSettings
from model.clicks import ClickTable

_SHORTEST_GAP_MS: Final = 1_000.0
_WHOLE_SHOP: Final = -1


def generate_clicks(shop: Shop, clicks: int, generator: np.random.Generator) -> ClickTable:
    """Let visitors come until there are exactly `clicks` clicks; the same generator brings the same ones.

    Args:
        shop: Where they click.
        clicks: n, above 0.
        generator: All chance comes from it.

    Returns:
        The clicks by time. Sessions are numbered by their begin ("s-000123"); `item_ids` are those of the whole
        shop, so that an item has one code in every table of the shop; `period` is the block.
    """
    if clicks < 1:
        raise ValueError(f"expected at least 1 click, got {clicks}")
    settings = shop.settings
    lengths = _draw_lengths(settings, clicks, generator)
    block = np.sort(generator.integers(0, settings.blocks, len(lengths)))
    offsets = np.cumsum(lengths) - lengths
    times_ms = _draw_times(settings, lengths, offsets, block, generator)
    items = _Walk(shop, generator).items(lengths, offsets, block)
    number = np.empty(len(lengths), dtype=np.int64)
    number[np.argsort(times_ms[offsets], kind="stable")] = np.arange(len(lengths))
    order = np.argsort(times_ms, kind="stable")
    return ClickTable(
        session=np.repeat(number, lengths)[order],
        item=items[order],
        timestamp_ms=times_ms[order],
        period=np.repeat(block, lengths)[order],
        session_ids=[f"s-{place:06d}" for place in range(len(lengths))],
        item_ids=shop.item_ids,
    )


def _draw_lengths(settings: ShopSettings, clicks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Clicks of each visit, int64 [V], geometric from 1 up, cut at the longest; they sum to `clicks`."""
    lengths = np.empty(0, dtype=np.int64)
    while lengths.sum() < clicks:
        more = generator.geometric(1 / settings.mean_length, int(clicks / settings.mean_length) + 16)
        lengths = np.concatenate([lengths, np.minimum(more, settings.longest)])
    visits = int(np.searchsorted(np.cumsum(lengths), clicks)) + 1
    lengths = lengths[:visits]
    lengths[-1] -= lengths.sum() - clicks
    return lengths


def _draw_times(
    settings: ShopSettings,
    lengths: NDArray[np.int64],
    offsets: NDArray[np.int64],
    block: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """When each click happens, int64 [n], visit after visit; a visit ends in the block in which it began."""
    gaps = _SHORTEST_GAP_MS + generator.exponential(settings.mean_gap_ms, int(lengths.sum()))
    gaps[offsets] = 0.0
    since_begin = np.cumsum(gaps)
    since_begin -= np.repeat(since_begin[offsets], lengths)
    span = since_begin[offsets + lengths - 1]
    # A visit that would outlast its block goes faster instead.
    last_ms = settings.block_ms - 1
    haste = np.minimum(1.0, last_ms / np.maximum(span, 1.0))
    begin = generator.random(len(lengths)) * (last_ms - span * haste)
    within = np.repeat(begin, lengths) + since_begin * np.repeat(haste, lengths)
    times_ms: NDArray[np.int64] = np.clip(within, 0, last_ms).astype(np.int64)
    return times_ms + settings.start_ms + np.repeat(block, lengths) * settings.block_ms


class _Walk:
    """Draws what is clicked; all visits take their next step together."""

    def __init__(self, shop: Shop, generator: np.random.Generator) -> None:
        self._shop = shop
        self._generator = generator
        self._habit_limits = shop.settings.habit * np.cumsum(shop.habits)
        # One rising line over all blocks, block b going from b to b + 1, so that one search serves every visit.
        share = np.cumsum(shop.attraction, axis=1)
        share /= share[:, -1:]
        self._line: NDArray[np.float64] = (np.arange(len(share))[:, None] + share).ravel()

    def items(
        self, lengths: NDArray[np.int64], offsets: NDArray[np.int64], block: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the item of each click, int64 [n], visit after visit."""
        items = np.empty(int(lengths.sum()), dtype=np.int64)
        visits = np.arange(len(lengths))
        current = self._by_attraction(block, np.full(len(lengths), _WHOLE_SHOP))
        items[offsets] = current
        for step in range(1, int(lengths.max())):
            goes_on = lengths[visits] > step
            visits = visits[goes_on]
            current = self._next(current[goes_on], block[visits])
            items[offsets[visits] + step] = current
        return items

    def _next(self, current: NDArray[np.int64], block: NDArray[np.int64]) -> NDArray[np.int64]:
        shop, settings = self._shop, self._shop.settings
        chance = self._generator.random(len(current))
        slot = np.searchsorted(self._habit_limits, chance, side="right")
        habitual = shop.successors[current, np.minimum(slot, settings.successors - 1)]
        follows = (slot < settings.successors) & (shop.attraction[block, habitual] > 0)
        category = np.where(chance < settings.habit + settings.browse, shop.category[current], _WHOLE_SHOP)
        return np.where(follows, habitual, self._by_attraction(block, category))

    def _by_attraction(self, block: NDArray[np.int64], category: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw an item for each visit by attraction in its block, out of its category or the whole shop."""
        shop, count = self._shop, self._shop.settings.items
        first_of, end_of = shop.category_start[category], shop.category_start[category + 1]
        row = block * count
        first = row + np.where(category == _WHOLE_SHOP, 0, first_of)
        last = row + np.where(category == _WHOLE_SHOP, count, end_of) - 1
        low = np.where(first == row, block, self._line[first - 1])
        high = self._line[last]
        point = low + self._generator.random(len(block)) * (high - low)
        # Rounding may reach `high` itself, which is where the item after the last begins.
        point = np.minimum(point, np.nextafter(high, low))
        return np.searchsorted(self._line, point, side="right") - row
