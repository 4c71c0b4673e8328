"""A made-up shop whose visitors have habits: the distribution behind generated clicks, known exactly.

Items belong to categories. Inside a category an item has a few successors with fixed probabilities: the habits.
Attraction is Zipf-like over the items of a category and, flatter, over categories. Time runs in blocks: some items
are always there, the others appear, are soon at their best, fade and are gone. A visit lies within one block.

The next click after item i in block b is
    with probability `habit`:  successor s of i, chosen by `habits`; if it is not alive in b, then as in browsing
    with probability `browse`: an item of i's category, by its attraction in b
    else:                      any item, by its attraction in b
so item and block are all that there is to know about the next click: a first-order chain.

Letters: N items, C categories, S successors, B blocks.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CATEGORY_NAMES: Final = (
    *("shoes", "bags", "hats", "coats", "jeans", "shirts", "socks", "belts", "scarves", "gloves"),
    *("lamps", "chairs", "tables", "rugs", "plates", "cups", "knives", "pans", "towels", "pillows"),
    *("books", "games", "toys", "bikes", "tents", "balls", "radios", "phones", "cables", "clocks"),
)
# Habits lead mostly to items that are there while the item is: weight is the shared part of its life to this power.
_OVERLAP_POWER: Final = 4
_LEAST_OVERLAP: Final = 1e-12
_CATEGORY_ZIPF: Final = 0.5
_RISING_SHARE: Final = 0.1
# Lives of items that are not evergreen, as a share of all blocks.
_SHORTEST_LIFE: Final = 1 / 6
_LONGEST_LIFE: Final = 1 / 2


@dataclass(frozen=True)
class ShopSettings:
    """What the shop and its visitors are like.

    Attributes:
        items: N.
        categories: C; every one gets N/C items.
        successors: S, habits of each item; fewer than the items of a category.
        habit: Chance that the next click follows a habit.
        browse: Chance that it is any item of the same category; the rest goes anywhere in the shop.
        zipf: Exponent of the attraction over the items of a category.
        evergreen: Share of items that are alive all the time; at least one of each category is.
        blocks: B.
        block_ms: Length of a block.
        start_ms: When the first block begins, ms since the epoch (default: 2026-01-01 UTC).
        mean_length: Clicks of a visit on average, before the cut at `longest`.
        longest: Most clicks of a visit.
        mean_gap_ms: Mean time between two clicks of a visit, beyond a second.
    """

    items: int = 2_000
    categories: int = 20
    successors: int = 5
    habit: float = 0.7
    browse: float = 0.2
    zipf: float = 1.0
    evergreen: float = 0.4
    blocks: int = 48
    block_ms: int = 60 * 60 * 1000
    start_ms: int = 1_767_225_600_000
    mean_length: float = 5.0
    longest: int = 50
    mean_gap_ms: float = 30_000.0

    def __post_init__(self) -> None:
        if min(self.categories, self.successors, self.blocks, self.block_ms, self.longest) < 1:
            raise ValueError("categories, successors, blocks, block_ms and longest must be at least 1")
        if self.items // self.categories <= self.successors:
            raise ValueError(
                f"a category needs more items than an item has successors: {self.items} items in "
                f"{self.categories} categories, {self.successors} successors"
            )
        if self.habit < 0 or self.browse < 0 or self.habit + self.browse > 1:
            raise ValueError(f"habit and browse are chances and sum to at most 1, got {self.habit} and {self.browse}")
        if not 0 <= self.evergreen <= 1 or self.mean_length < 1 or self.mean_gap_ms < 0:
            raise ValueError("evergreen is a share, mean_length at least 1 and mean_gap_ms not negative")


class Shop:
    """One shop, drawn once and then fixed; the same settings and generator draw the same shop.

    Attributes:
        settings: What it was drawn from.
        item_ids: N readable ids; an item's code is its place here, and the items of a category lie together.
        category: int64 [N].
        category_start: int64 [C + 1]; category c holds `category_start[c]` to `category_start[c + 1] - 1`.
        alive_blocks: int64 [N, 2], first block of each item's life and the one after its last.
        attraction: float64 [B, N], 0 where an item is not alive.
        successors: int64 [N, S], different ones of the same category, never the item itself.
        habits: float64 [S], chances of the successors once a habit is followed; falling, sum 1.
    """

    def __init__(self, settings: ShopSettings, generator: np.random.Generator) -> None:
        self.settings = settings
        self.category: NDArray[np.int64] = np.arange(settings.items) * settings.categories // settings.items
        self.category_start = np.searchsorted(self.category, np.arange(settings.categories + 1))
        self.item_ids = _item_ids(self.category, self.category_start)
        # Place in its category's order of attraction; the order has nothing to do with the number in the id.
        place = np.concatenate([generator.permutation(size) for size in np.diff(self.category_start)])
        self.alive_blocks = _draw_lives(settings, place, generator)
        self.attraction = _attraction(settings, place, self.category, self.alive_blocks)
        self.successors = self._draw_successors(generator)
        self.habits = 0.5 ** np.arange(settings.successors)
        self.habits /= self.habits.sum()

    @property
    def life_ms(self) -> NDArray[np.int64]:
        """Begin and end (not included) of each item's life, int64 [N, 2], ms since the epoch."""
        return self.settings.start_ms + self.alive_blocks * self.settings.block_ms

    def block_of(self, timestamp_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Block that each time falls into, int64 of the same shape."""
        return (timestamp_ms - self.settings.start_ms) // self.settings.block_ms

    def next_chances(self, item: int, block: int) -> NDArray[np.float64]:
        """Chance of every item to be clicked after `item` in `block`, float64 [N], sum 1."""
        settings = self.settings
        attraction = self.attraction[block]
        inside = np.where(self.category == self.category[item], attraction, 0.0)
        successors = self.successors[item]
        habitual = settings.habit * np.where(attraction[successors] > 0, self.habits, 0.0)
        browsing = settings.browse + settings.habit - habitual.sum()
        chances: NDArray[np.float64] = browsing * inside / inside.sum()
        chances += (1 - settings.habit - settings.browse) * attraction / attraction.sum()
        chances[successors] += habitual
        return chances

    def _draw_successors(self, generator: np.random.Generator) -> NDArray[np.int64]:
        chosen = []
        for begin, end in zip(self.category_start[:-1], self.category_start[1:], strict=True):
            first, last = self.alive_blocks[begin:end].T
            shared = np.minimum(last[:, None], last) - np.maximum(first[:, None], first)
            weight = (np.maximum(shared, 0) / (last - first)[:, None]) ** _OVERLAP_POWER
            # The S largest of u^(1/w) are a weighted sample without replacement: Efraimidis and Spirakis 2006.
            keys = np.log(generator.random(weight.shape)) / np.maximum(weight, _LEAST_OVERLAP)
            np.fill_diagonal(keys, -np.inf)
            chosen.append(begin + np.argsort(-keys, axis=1)[:, : self.settings.successors])
        return np.concatenate(chosen)


def _draw_lives(settings: ShopSettings, place: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """First block of each life and the one after its last, int64 [N, 2], within the shop's blocks."""
    blocks = settings.blocks
    shortest, longest = max(1, round(blocks * _SHORTEST_LIFE)), max(1, round(blocks * _LONGEST_LIFE))
    span = generator.integers(shortest, longest + 1, settings.items)
    # Some lives began before the first block and some end after the last, so that no block is special.
    first = np.floor(generator.random(settings.items) * (blocks + span - 1)).astype(np.int64) - span + 1
    lives = np.stack([np.maximum(first, 0), np.minimum(first + span, blocks)], axis=1)
    # Whatever is most attractive in its category stays, so that no category is ever empty.
    is_evergreen = (generator.random(settings.items) < settings.evergreen) | (place == 0)
    lives[is_evergreen] = (0, blocks)
    return lives


def _attraction(
    settings: ShopSettings,
    place: NDArray[np.int64],
    category: NDArray[np.int64],
    alive_blocks: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Zipf by place in the category and by category, times the course of the life; float64 [B, N]."""
    zipf = (1.0 + place) ** -settings.zipf * (1.0 + category) ** -_CATEGORY_ZIPF
    block = np.arange(settings.blocks)[:, None]
    first, end = alive_blocks.T
    span = end - first
    rise = (block - first + 1) / np.ceil(_RISING_SHARE * span)
    fall = (end - block) / np.ceil((1 - _RISING_SHARE) * span)
    course = np.where(span == settings.blocks, 1.0, np.minimum(np.minimum(rise, fall), 1.0))
    return zipf * np.maximum(course, 0.0)


def _item_ids(category: NDArray[np.int64], category_start: NDArray[np.int64]) -> list[str]:
    numbers = np.arange(len(category)) - category_start[category]
    names = [_category_name(number) for number in range(len(category_start) - 1)]
    return [f"{names[c]}-{number:04d}" for c, number in zip(category.tolist(), numbers.tolist(), strict=True)]


def _category_name(number: int) -> str:
    turn, place = divmod(number, len(_CATEGORY_NAMES))
    return _CATEGORY_NAMES[place] + (str(turn + 1) if turn else "")
