"""How long somebody has been looking: a clock that stands still while he does, and that nobody sets.

A process that was stopped, or whose machine was, has heard nothing of anybody meanwhile: that is not silence. Nor is it
when the clock is set. Whoever asks more often than every `gap_max_s` has the time in between; a longer gap, or a step
back, counts nothing.

    told         0   5   10   15   75   80   20   25
    the answer   0   5   10   15   15   20   20   25
"""


class Attention:
    """See the module's docstring."""

    def __init__(self, gap_max_s: float) -> None:
        self._gap_max_s = gap_max_s
        self._last: float | None = None
        self._missed_s = 0.0

    def at(self, now: float) -> float:
        """The time that has been attended, in seconds from anywhere."""
        if self._last is not None and not 0 <= now - self._last <= self._gap_max_s:
            self._missed_s += now - self._last
        self._last = now
        return now - self._missed_s
