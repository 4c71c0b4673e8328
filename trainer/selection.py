"""Which clicks of the window train a candidate and which are held out for the gate: split by time only."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.clicks import ClickTable, Sessions, sessionise
from model.companion import HISTORY
from trainer.window import WindowClicks


@dataclass(frozen=True)
class Lesson:
    """Sessions to learn from.

    Attributes:
        sessions: Of codes, or of rows where a caller mapped them.
        learned: bool, one for each of `sessions.items`: whether it is to be learned; the others only lead up to those.
        is_new: bool, one for each of `sessions.items`: whether no version has learned it.
    """

    sessions: Sessions
    learned: NDArray[np.bool_]
    is_new: NDArray[np.bool_]

    def followed_by(self, later: "Lesson") -> "Lesson":
        """Return the sessions of both; one that a cut has parted stays two."""
        mine, theirs = self.sessions, later.sessions
        sessions = Sessions(
            items=np.concatenate([mine.items, theirs.items]),
            offsets=np.concatenate([mine.offsets, mine.offsets[-1] + theirs.offsets[1:]]),
            start_ms=np.concatenate([mine.start_ms, theirs.start_ms]),
            end_ms=np.concatenate([mine.end_ms, theirs.end_ms]),
        )
        return Lesson(
            sessions, np.concatenate([self.learned, later.learned]), np.concatenate([self.is_new, later.is_new])
        )


@dataclass(frozen=True)
class Selection:
    """One round's clicks. `items` of all sessions are codes into `item_ids`.

    Every held-out click is newer than every new training click, and its offset is at or after `trained_until`; every
    training click lies before it.

    Attributes:
        item_ids: What the codes mean.
        training: New clicks, the newest but few of their session that lead up to them, and replayed older sessions.
        held_out: Sessions with at least one case, earlier clicks included: they lead up to it.
        counted: bool, one for each of `held_out.items`: whether it is a case, a held-out click with a click before it.
        rest: The held-out clicks as a lesson, for when the gate has seen them.
        new_clicks: New training clicks.
        replayed_clicks: Clicks of replayed sessions.
        trained_until: For each partition, the first offset that a candidate trained on `training` has not seen.
        read_until: For each partition, the first offset that one trained on `rest` too has not seen.
    """

    item_ids: list[str]
    training: Lesson
    held_out: Sessions
    counted: NDArray[np.bool_]
    rest: Lesson
    new_clicks: int
    replayed_clicks: int
    trained_until: dict[int, int]
    read_until: dict[int, int]


def select(
    window: WindowClicks,
    trained_until: Mapping[int, int],
    *,
    misleading: NDArray[np.bool_] | None = None,
    holdout_share: float,
    holdout_clicks: int | None = None,
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
        misleading: bool, one for each click of the window: not to be learned, now or replayed; they may lead up to
            others. None: there are none.
        holdout_share: Between 0 and 1.
        holdout_clicks: Of that share at most so many; None for all of it.
        replay_share: 0 or more.
        idle_ms: Longest pause inside a session.
        generator: Draws the sessions to replay.
    """
    table = window.table
    if misleading is None:
        misleading = np.zeros(len(window), dtype=np.bool_)
    is_new = _is_new(window, trained_until) & ~misleading
    kept_back = min(max(1, int(is_new.sum() * holdout_share)), holdout_clicks or len(window))
    cut = _cut(window, is_new, trained_until, kept_back)
    older = sessions_of_places(table, np.flatnonzero(cut.trainable), idle_ms)
    training, new_clicks, replayed_clicks = _training(older, is_new, misleading, replay_share, generator)
    whole = sessions_of_places(table, np.flatnonzero(cut.trainable | cut.held_out), idle_ms)
    held_out = whole.subset(_having(whole, cut.held_out))
    cases = cut.held_out[held_out.items]
    cases[held_out.offsets[:-1]] = False
    rest, is_rest = _leading_up(held_out, cut.held_out)
    return Selection(
        item_ids=table.item_ids,
        training=_with_items(training, table),
        held_out=replace(held_out, items=table.item[held_out.items]),
        counted=cases,
        rest=_with_items(Lesson(rest, is_rest, is_rest), table),
        new_clicks=new_clicks,
        replayed_clicks=replayed_clicks,
        trained_until=cut.trained_until,
        read_until=dict(trained_until) | window.next_offsets,
    )


def unread(
    window: WindowClicks,
    trained_until: Mapping[int, int],
    idle_ms: int,
    misleading: NDArray[np.bool_] | None = None,
) -> Lesson:
    """Return the clicks at or after `trained_until` with those that lead up to them, as a lesson of codes.

    Args:
        window: The newest clicks.
        trained_until: As for `select`.
        idle_ms: Longest pause inside a session.
        misleading: As for `select`.
    """
    table = window.table
    is_new = _is_new(window, trained_until)
    if misleading is not None:
        is_new &= ~misleading
    goes_on = np.zeros(len(table.session_ids), dtype=np.bool_)
    goes_on[table.session[is_new]] = True
    sessions = sessions_of_places(table, np.flatnonzero(goes_on[table.session]), idle_ms)
    trimmed, wanted = _leading_up(sessions.subset(_having(sessions, is_new)), is_new)
    return _with_items(Lesson(trimmed, wanted, wanted), table)


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


def _cut(window: WindowClicks, is_new: NDArray[np.bool_], trained_until: Mapping[int, int], kept_back: int) -> _Cut:
    """Find the moment that splits the new clicks, and for each partition the offset that stands for it.

    An offset stands for it when as many new clicks lie before it as are older than the moment. So in a partition where
    times rise with offsets the two agree, and one click with a wrong clock costs at most itself.
    """
    timestamp_ms = window.table.timestamp_ms
    split_ms = _split_time(timestamp_ms[is_new], kept_back)
    is_old_enough = timestamp_ms < split_ms
    before_offset = ~is_new
    until = {partition: end for partition, end in trained_until.items() if partition not in window.next_offsets}
    for partition, end in window.next_offsets.items():
        places = np.flatnonzero(is_new & (window.partition == partition))
        before = places[: int(is_old_enough[places].sum())]
        before_offset[before] = True
        until[partition] = end if len(before) == len(places) else int(window.offset[places[len(before)]])
    return _Cut((is_old_enough | ~is_new) & before_offset, ~is_old_enough & ~before_offset, until)


def _split_time(new_ms: NDArray[np.int64], kept_back: int) -> int:
    """Return the event time from which on clicks are held out."""
    if len(new_ms) == 0:
        return 0
    return int(np.partition(new_ms, len(new_ms) - kept_back)[len(new_ms) - kept_back])


def _training(
    sessions: Sessions,
    is_new: NDArray[np.bool_],
    misleading: NDArray[np.bool_],
    replay_share: float,
    generator: np.random.Generator,
) -> tuple[Lesson, int, int]:
    """Return what to learn of sessions of places, how many new clicks that has and how many that are replayed."""
    goes_on = _having(sessions, is_new)
    new_clicks = int(is_new[sessions.items].sum())
    others = generator.permutation(np.flatnonzero(~goes_on & ~_having(sessions, misleading)))
    affordable = np.cumsum(sessions.lengths[others]) <= replay_share * new_clicks
    replayed = np.zeros(len(sessions), dtype=np.bool_)
    replayed[others[affordable]] = True
    chosen = sessions.subset(goes_on | replayed)
    # A replayed session is learned whole, and one that goes on from its first new click.
    wanted = is_new.copy()
    wanted[sessions.subset(replayed).items] = True
    trimmed, learned = _leading_up(chosen, wanted)
    return Lesson(trimmed, learned, is_new[trimmed.items]), new_clicks, int(sessions.lengths[replayed].sum())


def _having(sessions: Sessions, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which sessions of places have a wanted place, bool [S]."""
    if len(sessions) == 0:
        return np.zeros(0, dtype=np.bool_)
    return np.logical_or.reduceat(wanted[sessions.items], sessions.offsets[:-1])


def _leading_up(sessions: Sessions, wanted: NDArray[np.bool_]) -> tuple[Sessions, NDArray[np.bool_]]:
    """Drop what is over `HISTORY` clicks before a session's first wanted one; returns which of the others are wanted.

    Serving knows no more of a session than that either when it encodes one again.
    """
    is_wanted = wanted[sessions.items]
    if len(sessions) == 0:
        return sessions, is_wanted
    place = np.arange(len(is_wanted))
    first = np.minimum.reduceat(np.where(is_wanted, place, len(place)), sessions.offsets[:-1])
    kept = place >= np.repeat(first, sessions.lengths) - HISTORY
    lengths = np.add.reduceat(kept.astype(np.int64), sessions.offsets[:-1])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return replace(sessions, items=sessions.items[kept], offsets=offsets), is_wanted[kept]


def _with_items(lesson: Lesson, table: ClickTable) -> Lesson:
    return replace(lesson, sessions=replace(lesson.sessions, items=table.item[lesson.sessions.items]))


def sessions_of_places(table: ClickTable, places: NDArray[np.int64], idle_ms: int) -> Sessions:
    """Return the sessions of two and more of some clicks, with each click's place in `table` instead of its item."""
    return sessionise(replace(table.select(places), item=places), idle_ms=idle_ms, minimum_length=2)
