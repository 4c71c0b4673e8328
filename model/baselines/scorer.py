"""Where the next clicks of whole sessions stand among all items, for any baseline.

Shape letters: S sessions, n clicks, c counted ones, N items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.baselines.contract import Baseline
from model.baselines.histories import Histories, Integers, spans, starts_of
from model.clicks import Sessions
from model.ranking import UNRANKED, Ties, ranks
from model.seen import without_seen

_MOST_SCORES = 1 << 22  # 16 MiB of float32 at a time, as in serving


@dataclass(frozen=True)
class BaselineScorer:
    """Ranks what was clicked next as `trainer.evaluate` asks for it, from the clicks before it in the session.

    Attributes:
        baseline: Any.
        users: int64 [S], the user of each session that is ranked, -1 for an unknown one; None for nobody known.
        removes_seen: Whether items that the session has clicked already are left out of the ranking.
    """

    baseline: Baseline
    users: NDArray[np.int64] | None = None
    removes_seen: bool = False

    def next_click_ranks(self, sessions: Sessions, counted: NDArray[np.bool_], ties: Ties) -> NDArray[np.int64]:
        """Return the 1-based ranks of the counted clicks, int64 [c], in the order of `sessions.items`.

        Args:
            sessions: Of rows; a row that the baseline does not know, -1 included, tells it nothing.
            counted: bool [n], which of `sessions.items` to rank; never the first click of a session.
            ties: See `model.ranking.ranks`.
        """
        before = _KnownBefore.of(sessions, self.baseline.item_count)
        places = np.flatnonzero(counted)
        found = np.full(len(places), UNRANKED, dtype=np.int64)
        asked = np.flatnonzero(before.is_known[places] & (before.count[places] > 0))
        most = max(1, _MOST_SCORES // self.baseline.item_count)
        for start in range(0, len(asked), most):
            some = asked[start : start + most]
            histories = before.histories(places[some], self.baseline.window, self.users)
            scores = self.baseline.score(histories)
            if self.removes_seen:
                scores = without_seen(scores, sessions, places[some])
            targets = torch.from_numpy(sessions.items[places[some]]).to(scores.device)
            found[some] = ranks(scores, targets, ties).cpu().numpy()
        return found


@dataclass(frozen=True)
class _KnownBefore:
    """What of its session is known before each click.

    Attributes:
        rows: The known rows of all sessions.
        session: int64 [n], of each click.
        is_known: bool [n], whether the click itself is on a known row.
        count: int64 [n], known clicks of its session before each click.
        end: int64 [n], where those end in `rows`.
    """

    rows: Integers
    session: Integers
    is_known: NDArray[np.bool_]
    count: Integers
    end: Integers

    @staticmethod
    def of(sessions: Sessions, item_count: int) -> "_KnownBefore":
        session = np.repeat(np.arange(len(sessions)), sessions.lengths)
        is_known = (sessions.items >= 0) & (sessions.items < item_count)
        end = np.asarray(np.cumsum(is_known) - is_known, dtype=np.int64)
        begin = end[np.minimum(sessions.offsets[:-1], max(len(end) - 1, 0))] if len(end) else end
        return _KnownBefore(sessions.items[is_known], session, is_known, end - begin[session], end)

    def histories(self, places: Integers, window: int | None, users: Any) -> Histories:
        """Return what is known before the clicks at these places, no more of it than the window."""
        lengths = self.count[places] if window is None else np.minimum(self.count[places], window)
        rows = self.rows[spans(self.end[places] - lengths, lengths)]
        return Histories(rows, starts_of(lengths), None if users is None else users[self.session[places]])
