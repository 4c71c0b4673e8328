"""What `stream.processor` notes of one micro-batch while it walks through its clicks, in order."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.clicks import Click
from model.companion import histories_of
from model.recommender import Played
from stream.records import DeadLetter, SourceRecord
from stream.session import Session

SessionKey = tuple[int, bytes]


@dataclass(slots=True)
class Life:
    """A session within the batch, from its first click here, or from its expiry, to its last click here."""

    slot: int
    session: Session
    # The answer that its first click here is checked against: version ("" for popularity) and fingerprints.
    stored_answer: tuple[str, NDArray[np.uint32]]
    # Known rows to encode again, because another version made the stored hidden vector; None when it can be used.
    encode: list[int] | None = None
    # Row of the last known item before the first click here, -1 for none.
    last_row: int = -1
    # Rows of the history before the first click here, -1 for an unknown item; empty where nothing asks for them.
    before: list[int] = field(default_factory=list)
    # Position in the batch of the newest answer.
    answered: int = -1


@dataclass(slots=True)
class MicroBatch:
    """The batch as its clicks are walked through once, in order."""

    lives: list[Life] = field(default_factory=list)
    current: dict[SessionKey, Life] = field(default_factory=dict)
    valid: list[tuple[SourceRecord, Click]] = field(default_factory=list)
    keys: list[SessionKey] = field(default_factory=list)
    # Row of each click's item, -1 for an unknown one.
    rows: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    # Whether each click was applied; else it is a replay.
    applied: list[bool] = field(default_factory=list)
    # Applied clicks with an answer before them: their position, and the position of that answer in the batch, or
    # -1 - slot where it is the one stored with the session.
    evaluated: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    replayed: int = 0
    unknown: list[str] = field(default_factory=list)
    started: int = 0
    first_seen: int = 0
    forward_s: float = 0.0

    def begin(self, key: SessionKey, session: Session) -> Life:
        """Let a session live on, or a new one begin, from here in the batch."""
        life = Life(slot=len(self.lives), session=session, stored_answer=(session.version, session.answer))
        self.lives.append(life)
        self.current[key] = life
        return life

    def played(self) -> Played:
        """Return what the sessions clicked, for a version with a companion."""
        return Played(histories_of([life.before for life in self.lives]), np.array(self.applied, dtype=np.bool_))
