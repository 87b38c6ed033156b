"""When a leader's new entries leave for the disks: what leaves together costs each member one message, one frame, one
fdatasync.

While entries are on their way to a quorum, new ones wait for each other. And when they are there, those who get their
answers now ask again at once, if the group is busy with clients who wait: a moment's *hold*, until as much has gathered
as was asked for at a time, keeps all of them in one round. Without it they part into two halves that wait for each
other. A hold that was for nothing is followed by rounds without, twice as many each time: whoever does not come back
costs the others nothing in the long run.
"""

HOLD_S = 0.004  # at most: an answer's way to a client and the next request's way here, in a busy group
SKIPPED_MAX = 256  # rounds without a hold


class Gathering:
    """The entries that wait at one leader, by their size in bytes. Beyond `bytes_max` they wait for nothing."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._hold = 0  # the number of the last hold
        self.clear()

    def clear(self) -> None:
        """Another leader, or none: all begins anew."""
        self._bytes = 0  # that wait
        self._wanted = 0  # while a hold lasts: how many it waits for
        self._skips_left = 0  # rounds without a hold
        self._skips = 0  # how many followed the last fruitless hold
        self._begun = 0

    def add(self, size: int) -> None:
        """A new entry waits."""
        self._bytes += size

    def may_leave(self, *, is_idle: bool) -> bool:
        """Whether what waits should go; `is_idle`: nothing is on its way to a quorum."""
        return self._bytes >= self._bytes_max or (is_idle and self._bytes >= self._wanted)

    def leave(self) -> None:
        """It goes."""
        if self._wanted:
            self._wanted = self._skips = 0
        self._bytes = 0

    def on_round(self, size: int, entries: int) -> None:
        """All that was on its way is committed, `size` bytes; `entries`: how many those are with those that wait."""
        if entries < 2 or not size:
            return  # a lone writer has nobody to wait for; nor is anybody waiting for a leader's first entry
        if self._skips_left:
            self._skips_left -= 1
            return
        self._hold += 1
        self._begun = self._hold
        self._wanted = self._bytes + size * 3 // 4  # not all: somebody may be late, or ask for something smaller

    def begun(self) -> int:
        """The number of a hold that began since the last call, 0: none did. Whoever has a clock ends it."""
        begun, self._begun = self._begun, 0
        return begun

    def let_go(self, hold: int) -> bool:
        """Ends that hold; returns whether it lasted still: it was for nothing then."""
        if hold != self._hold or not self._wanted:
            return False
        self._wanted = 0
        self._skips_left = self._skips = min(max(1, 2 * self._skips), SKIPPED_MAX)
        return True
