"""What is learned from and what is ranked: the next click at every position, or each session's last click alone."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.clicks import DEFAULT_IDLE_MS, ClickTable, Sessions, sessionise, split_table
from model.vocabulary import Vocabulary

LEAVE_ONE_OUT = "leave-one-out"


@dataclass(frozen=True)
class Protocol:
    """Clicks to learn from and clicks to rank.

    Attributes:
        train: Clicks to learn from.
        test: Clicks of the sessions that are ranked; with `last_only` those to learn from too, which lead up to a case.
        last_only: Whether the last click of each session is its only case.
        idle_ms: Longest pause inside a session.
    """

    train: ClickTable
    test: ClickTable
    last_only: bool
    idle_ms: int = DEFAULT_IDLE_MS

    def cases(self, vocabulary: Vocabulary) -> tuple[Sessions, NDArray[np.bool_]]:
        """Return sessions of rows and, for each of their clicks, whether it is a case.

        Clicks on items that the vocabulary lacks are no cases, and are not seen on the way to one.
        """
        if not self.last_only:
            sessions = known_sessions(self.test, vocabulary, self.idle_ms)
            counted = np.ones(len(sessions.items), dtype=np.bool_)
            counted[sessions.offsets[:-1]] = False
            return sessions, counted
        sessions = sessionise(self.test, idle_ms=self.idle_ms, minimum_length=2)
        sessions = replace(sessions, items=vocabulary.rows(self.test.item_ids)[sessions.items])
        counted = np.zeros(len(sessions.items), dtype=np.bool_)
        counted[sessions.offsets[1:] - 1] = True
        return sessions, counted & (sessions.items >= 0)


def known_sessions(table: ClickTable, vocabulary: Vocabulary, idle_ms: int) -> Sessions:
    """Return a table's sessions as rows, without the clicks on unknown items; those of one click are left out."""
    rows = vocabulary.rows(table.item_ids)[table.item]
    known = rows >= 0
    return sessionise(replace(table.select(known), item=rows[known]), idle_ms=idle_ms, minimum_length=2)


def split_protocol(table: ClickTable, how: str, *, idle_ms: int = DEFAULT_IDLE_MS) -> Protocol:
    """Split a table as `model.clicks.split_table` does, or by `leave-one-out`.

    Raises:
        ValueError: `how` is none of these.
        InvalidFileError: The table has no times or no periods to split by.
    """
    if how == LEAVE_ONE_OUT:
        places = sessionise(replace(table, item=np.arange(len(table))), idle_ms=idle_ms, minimum_length=2)
        is_last = np.zeros(len(table), dtype=np.bool_)
        is_last[places.items[places.offsets[1:] - 1]] = True
        return Protocol(table.select(~is_last), table, last_only=True, idle_ms=idle_ms)
    try:
        train, test = split_table(table, how, idle_ms=idle_ms)
    except ValueError as error:
        raise ValueError(str(error).replace("expected days:N", f"expected {LEAVE_ONE_OUT}, days:N")) from error
    return Protocol(train, test, last_only=False, idle_ms=idle_ms)
