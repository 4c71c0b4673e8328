"""Which clicks of the window train a candidate and which are held out for the gate: split by time only."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.clicks import ClickTable, Sessions, sessionise
from trainer.window import WindowClicks


@dataclass(frozen=True)
class Selection:
    """One round's clicks. `items` of both sessions are codes into `item_ids`.

    Every held-out click is newer than every training click, and its offset is at or after `trained_until`; every
    training click lies before it.

    Attributes:
        item_ids: What the codes mean.
        training: Sessions with at least one new click, and replayed older ones, by their start.
        is_new: bool, one for each of `training.items`: whether it is a new click, or an older one.
        held_out: Sessions with at least one case, earlier clicks included: they lead up to it.
        counted: bool, one for each of `held_out.items`: whether it is a case, a held-out click with a click before it.
        new_clicks: New training clicks.
        replayed_clicks: Clicks of `training` that are not new.
        trained_until: For each partition, the first offset that a candidate trained on this has not seen.
    """

    item_ids: list[str]
    training: Sessions
    is_new: NDArray[np.bool_]
    held_out: Sessions
    counted: NDArray[np.bool_]
    new_clicks: int
    replayed_clicks: int
    trained_until: dict[int, int]


def select(
    window: WindowClicks,
    trained_until: Mapping[int, int],
    *,
    holdout_share: float,
    replay_share: float,
    idle_ms: int,
    generator: np.random.Generator,
) -> Selection:
    """Choose the clicks of a round.

    New are the clicks at or after `trained_until`. The newest `holdout_share` of them, by event time, is held out; a
    click that arrived out of order at that boundary is neither trained on nor held out. Of the sessions without a new
    click, a random few are replayed: at most `replay_share` clicks for each new one.

    Args:
        window: The newest clicks.
        trained_until: What the incumbent has seen, as in its manifest; a partition that has since become shorter
            (the topic was made anew) counts as unseen.
        holdout_share: Between 0 and 1.
        replay_share: 0 or more.
        idle_ms: Longest pause inside a session.
        generator: Draws the sessions to replay.
    """
    is_new = _is_new(window, trained_until)
    cut = _cut(window, is_new, trained_until, holdout_share)
    training, is_new_session = _training_sessions(window.table, cut.trainable, is_new, idle_ms)
    kept, new_clicks = _with_replay(training, is_new_session, is_new, replay_share, generator)
    held_out, counted = _held_out_sessions(window.table, cut.trainable, cut.held_out, idle_ms)
    places = kept.items
    return Selection(
        item_ids=window.table.item_ids,
        training=replace(kept, items=window.table.item[places]),
        is_new=is_new[places],
        held_out=held_out,
        counted=counted,
        new_clicks=new_clicks,
        replayed_clicks=len(places) - new_clicks,
        trained_until=cut.trained_until,
    )


@dataclass(frozen=True)
class _Cut:
    trainable: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    trained_until: dict[int, int]


def _is_new(window: WindowClicks, trained_until: Mapping[int, int]) -> NDArray[np.bool_]:
    is_new = np.zeros(len(window), dtype=np.bool_)
    for partition, end in window.next_offsets.items():
        seen = trained_until.get(partition, 0)
        first_new = seen if seen <= end else 0
        is_new |= (window.partition == partition) & (window.offset >= first_new)
    return is_new


def _cut(
    window: WindowClicks, is_new: NDArray[np.bool_], trained_until: Mapping[int, int], holdout_share: float
) -> _Cut:
    """Find the moment that splits the new clicks, and for each partition the offset that stands for it.

    An offset stands for it when as many new clicks lie before it as are older than the moment. So in a partition where
    times rise with offsets the two agree, and one click with a wrong clock costs at most itself.
    """
    timestamp_ms = window.table.timestamp_ms
    split_ms = _split_time(timestamp_ms[is_new], holdout_share)
    is_old_enough = timestamp_ms < split_ms
    before_offset = ~is_new
    until = {partition: end for partition, end in trained_until.items() if partition not in window.next_offsets}
    for partition, end in window.next_offsets.items():
        places = np.flatnonzero(is_new & (window.partition == partition))
        before = places[: int(is_old_enough[places].sum())]
        before_offset[before] = True
        until[partition] = end if len(before) == len(places) else int(window.offset[places[len(before)]])
    return _Cut(is_old_enough & before_offset, ~is_old_enough & ~before_offset, until)


def _split_time(new_ms: NDArray[np.int64], holdout_share: float) -> int:
    """Return the event time from which on clicks are held out."""
    if len(new_ms) == 0:
        return 0
    kept_back = max(1, int(len(new_ms) * holdout_share))
    return int(np.partition(new_ms, len(new_ms) - kept_back)[len(new_ms) - kept_back])


def _training_sessions(
    table: ClickTable, trainable: NDArray[np.bool_], is_new: NDArray[np.bool_], idle_ms: int
) -> tuple[Sessions, NDArray[np.bool_]]:
    """Return sessions of places in `table`, and for each whether it has a new click."""
    sessions = _sessions_of_places(table, np.flatnonzero(trainable), idle_ms, minimum_length=2)
    if len(sessions) == 0:
        return sessions, np.zeros(0, dtype=np.bool_)
    return sessions, np.logical_or.reduceat(is_new[sessions.items], sessions.offsets[:-1])


def _with_replay(
    sessions: Sessions,
    is_new_session: NDArray[np.bool_],
    is_new: NDArray[np.bool_],
    replay_share: float,
    generator: np.random.Generator,
) -> tuple[Sessions, int]:
    """Keep the new sessions and a random few of the others; returns them and the count of their new clicks."""
    new_clicks = int(is_new[sessions.items].sum())
    others = generator.permutation(np.flatnonzero(~is_new_session))
    affordable = np.cumsum(sessions.lengths[others]) <= replay_share * new_clicks
    kept = is_new_session.copy()
    kept[others[affordable]] = True
    return sessions.subset(kept), new_clicks


def _held_out_sessions(
    table: ClickTable, trainable: NDArray[np.bool_], held_out: NDArray[np.bool_], idle_ms: int
) -> tuple[Sessions, NDArray[np.bool_]]:
    """Return the sessions with a case, as item codes, and which of their clicks are cases."""
    sessions = _sessions_of_places(table, np.flatnonzero(trainable | held_out), idle_ms, minimum_length=2)
    counted = held_out[sessions.items]
    counted[sessions.offsets[:-1]] = False
    if len(sessions):
        kept = np.logical_or.reduceat(counted, sessions.offsets[:-1])
        counted = counted[np.repeat(kept, sessions.lengths)]
        sessions = sessions.subset(kept)
    return replace(sessions, items=table.item[sessions.items]), counted


def _sessions_of_places(table: ClickTable, places: NDArray[np.int64], idle_ms: int, *, minimum_length: int) -> Sessions:
    """Return the sessions of some clicks with each click's place in `table` instead of its item."""
    return sessionise(replace(table.select(places), item=places), idle_ms=idle_ms, minimum_length=minimum_length)
