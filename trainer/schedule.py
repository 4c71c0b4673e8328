"""When the next round starts."""

from collections.abc import Callable


class Schedule:
    """Starts a round every N new clicks or every interval, whichever comes first; waits longer after each failure.

    New clicks are counted from the last round's start, whatever came of it: a candidate that was refused is not tried
    again on the same clicks at once.

    Args:
        round_clicks: New clicks that start a round; None where only the interval does.
        round_interval_s: Seconds between the starts of two rounds; None where only the clicks do.
        first_round_clicks: Clicks that start the first round.
        retry_wait_s: The wait after a failure, by how many others went before it.
        clock: Seconds that only go forward, such as `time.monotonic`.
    """

    def __init__(
        self,
        *,
        round_clicks: int | None,
        round_interval_s: float | None,
        first_round_clicks: int,
        retry_wait_s: Callable[[int], float],
        clock: Callable[[], float],
    ) -> None:
        self._round_clicks = round_clicks
        self._round_interval_s = round_interval_s
        self._first_round_clicks = first_round_clicks
        self._retry_wait_s = retry_wait_s
        self._clock = clock
        self._started_s = clock()
        self._not_before_s = self._started_s
        self._clicks_at_start = 0
        self._has_started = False
        self.failures = 0

    def waiting(self, clicks_added: int) -> int:
        """Return the new clicks since the last round's start, of `clicks_added` ever."""
        return clicks_added - self._clicks_at_start

    def is_due(self, clicks_added: int) -> bool:
        """Whether a round should start now, with `clicks_added` clicks ever read."""
        now_s = self._clock()
        if now_s < self._not_before_s:
            return False
        needed = self._round_clicks if self._has_started else self._first_round_clicks
        if self.failures or (needed is not None and self.waiting(clicks_added) >= needed):
            return True
        return self._round_interval_s is not None and now_s - self._started_s >= self._round_interval_s

    def started(self, clicks_added: int) -> None:
        """Note that a round starts now with `clicks_added` clicks ever read."""
        self._started_s = self._clock()
        self._clicks_at_start = clicks_added
        self._has_started = True

    def ended(self) -> None:
        """Note that the round came to a result, good or bad."""
        self.failures = 0

    def failed(self) -> float:
        """Note that the round could not be held; returns the seconds until the next try."""
        wait_s = self._retry_wait_s(self.failures)
        self.failures += 1
        self._not_before_s = self._clock() + wait_s
        return wait_s
