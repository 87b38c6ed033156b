"""Time as an argument. Cores get `now`; shells get a Clock, so that tests and simulators can own time."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """A source of time. The shells' one is `raykube.rpc.clock.SystemClock`."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point. Never goes back."""


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


def rfc3339(now: float) -> str:
    """Kubernetes' `Time`: whole seconds, UTC. `1800000000.5` → `2027-01-15T08:00:00Z`."""
    return _second(int(now))


@lru_cache(maxsize=64)
def _second(now: int) -> str:
    """Bulks of objects are written within one second."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(now: float) -> str:
    """Kubernetes' `MicroTime`: six decimals, UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()
