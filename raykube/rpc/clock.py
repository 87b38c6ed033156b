"""The shells' clock."""

import time


class SystemClock:
    """The machine's clock, as `raykube.base.clock.Clock`."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
