"""Time as an argument. Cores get `now`; shells get a Clock, so that tests and simulators can own time."""

from datetime import UTC, datetime
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
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(now: float) -> str:
    """Kubernetes' `MicroTime`: six decimals, UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_nano(now_ns: int) -> str:
    """RFC 3339 with nine decimals, from integer nanoseconds: the time stamp of CRI log lines."""
    seconds, nanos = divmod(now_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{nanos:09d}Z"


def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()
