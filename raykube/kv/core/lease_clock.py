"""When leases end, by the leader's clock alone. Expiry becomes a log entry, so that all members revoke at one place."""

import heapq

OUTDATED_MAX = 1000  # entries of the queue that stand for nothing any more
RETRY_S = 2.0  # a revocation that the log did not take now is proposed again


class LeaseClock:
    """Deadlines of leases on the member that leads. Empty on all others."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}
        self._queue: list[tuple[float, int]] = []
        self._over: set[int] = set()  # leases whose revocation was asked for

    def start(self, lease: int, ttl_s: float, now: float) -> None:
        """Gives `lease` its whole time, from now."""
        deadline = now + ttl_s
        self._over.discard(lease)
        self._deadlines[lease] = deadline
        heapq.heappush(self._queue, (deadline, lease))
        if len(self._queue) > 2 * len(self._deadlines) + OUTDATED_MAX:
            self._sort_out()

    def _sort_out(self) -> None:
        """Drops what leases that were renewed or forgotten left in the queue: some would wait there for a day."""
        self._queue = [(deadline, lease) for lease, deadline in self._deadlines.items()]
        heapq.heapify(self._queue)

    def forget(self, lease: int) -> None:
        self._deadlines.pop(lease, None)
        self._over.discard(lease)

    def clear(self) -> None:
        self._deadlines.clear()
        self._queue.clear()
        self._over.clear()

    def is_over(self, lease: int) -> bool:
        """Whether `expired` has named the lease: nothing brings it back, or a renewal would be told a lie."""
        return lease in self._over

    def settle(self, lease: int) -> None:
        """The revocation of a lease that is over is in the log: it need not be named again.

        It must not: a second one could hit a new lease of the same name, granted in between.
        """
        self._deadlines.pop(lease, None)

    def remaining_s(self, lease: int, now: float) -> float | None:
        """Seconds that `lease` has left, None when its deadline is not known here."""
        if lease in self._over:
            return 0.0
        deadline = self._deadlines.get(lease)
        return None if deadline is None else max(0.0, deadline - now)

    def delay(self, seconds: float) -> None:
        """Moves every deadline: this process stood still, and could not hear who kept a lease alive."""
        self._deadlines = {lease: deadline + seconds for lease, deadline in self._deadlines.items()}
        self._sort_out()

    def expired(self, now: float) -> list[int]:
        """The leases whose time is over; each is named again after `RETRY_S` unless it was settled or forgotten."""
        over = []
        while self._queue and self._queue[0][0] <= now:
            deadline, lease = heapq.heappop(self._queue)
            if self._deadlines.get(lease) != deadline:
                continue  # renewed or forgotten: another entry stands for it, or none
            over.append(lease)
            self._over.add(lease)
            self._deadlines[lease] = now + RETRY_S
            heapq.heappush(self._queue, (now + RETRY_S, lease))
        return over
