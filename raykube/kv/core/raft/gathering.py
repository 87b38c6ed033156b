"""When a leader's new entries leave for the disks: what leaves together costs each member one message, one frame, one
fdatasync.

While entries are on their way to a quorum, new ones wait for each other. And when those are there, whoever asked for
them hears so, and a client that waits for one answer to ask the next asks now. A *hold* of a moment, until most of what
was answered has come back, keeps such clients in one round; without it they part into two halves that wait for each
other, and a round carries half of what it could.

Others do not come back, or not so soon, and a hold for them is lost time. It shows in two ways: the hold ends by the
clock; or requests arrive while its round is under way, at the pace at which they arrived during the hold, though all
who wait for answers are waiting. Each such hold pays for many good ones, so that clients who do not wait meet holds in
less than one of a hundred rounds.

A hundred clients, or a busy machine, take longer to come back than a few clients of an idle one, and rounds take longer
there too: what a hold may last is counted in rounds, and grows with those that were good.
"""

HOLD_ROUNDS = 4  # the longest hold, for a start
HOLD_ROUNDS_MAX = 8  # the longest of all
TRUST = 8  # good holds, for a round more
HOLD_S_MAX = 0.025
PRICE = 128  # rounds without a hold, or good holds, for one that was for nothing


def hold_s(rounds: float, round_s: float) -> float:
    """`rounds` as seconds; `round_s`: what the last round took, from when it left until a quorum had it."""
    return min(rounds * round_s, HOLD_S_MAX)


class Gathering:
    """The entries that wait at one leader. Beyond `bytes_max` they wait for nothing. All sizes are in bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._hold = 0  # the number of the last hold
        self.clear()

    def clear(self) -> None:
        """Another leader, or none: all begins anew."""
        self._bytes = 0  # of what waits
        self._wanted_bytes = 0  # while a hold lasts: with how many of them it is fulfilled
        self._was_fulfilled = False  # the hold before the round that is under way
        self._credit = 0  # good holds, up to the price of a bad one; below 0: rounds without a hold that are owed
        self._begun = 0
        self._granted_rounds = 0.0  # to the last hold

    def add(self, size: int) -> None:
        """A new entry waits."""
        self._bytes += size

    def may_leave(self, *, is_idle: bool) -> bool:
        """Whether what waits should go; `is_idle`: nothing is on its way to a quorum."""
        return self._bytes >= self._bytes_max or (is_idle and self._bytes >= self._wanted_bytes)

    def leave(self) -> None:
        """It goes, because it may or because it must."""
        self._was_fulfilled = 0 < self._wanted_bytes <= self._bytes
        self._bytes = self._wanted_bytes = 0

    def on_commit(self, size: int, entries: int) -> None:
        """Nothing is on its way any more: the last `size` of it are committed. `entries`: how many that were, and those
        that wait."""
        if self._was_fulfilled:
            self._was_fulfilled = False
            # Within so many rounds came `size`: as much as came now, within one, or less.
            if self._granted_rounds * self._bytes > size:
                self._credit -= PRICE
            else:
                self._credit = min(self._credit + 1, PRICE)
        if entries < 2 or not size:
            return  # a lone entry's client has nobody to wait for
        if self._credit < 0:
            self._credit += 1
            return
        self._hold += 1
        self._begun = self._hold
        self._granted_rounds = min(HOLD_ROUNDS + self._credit / TRUST, HOLD_ROUNDS_MAX)
        self._wanted_bytes = self._bytes + size - size // 16  # somebody may be late, or ask for something smaller

    @property
    def has_begun(self) -> bool:
        """Whether `begun` has a hold to tell of."""
        return self._begun != 0

    def begun(self) -> tuple[int, float]:
        """The number of the hold that began since the last call, 0: none did; and how many rounds it may last. Whoever
        has a clock ends it."""
        begun, self._begun = self._begun, 0
        return begun, self._granted_rounds if begun else 0.0

    def let_go(self, hold: int) -> bool:
        """Ends a hold by the clock; False: it was over."""
        if hold != self._hold or not self._wanted_bytes:
            return False
        self._wanted_bytes = 0
        self._credit -= PRICE
        return True
