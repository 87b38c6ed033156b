"""Exponential back-off as a value: no clock, no sleep, no state outside the table."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays `initial_s`, `initial_s` x `factor`, … up to `max_s`."""

    initial_s: float = 0.005
    max_s: float = 1000.0
    factor: float = 2.0

    def delay_s(self, failures: int) -> float:
        """The delay after `failures` failures in a row (1 is the first)."""
        exponent = min(max(failures - 1, 0), 64)
        return min(self.initial_s * self.factor**exponent, self.max_s)


@dataclass(slots=True)
class BackoffTable(Generic[K]):
    """Back-off per key, with the number of failures in a row of each."""

    policy: Backoff
    failures: dict[K, int] = field(default_factory=dict)

    def fail(self, key: K) -> float:
        """Counts one more failure of `key`; returns the delay in seconds."""
        count = self.failures[key] = self.failures.get(key, 0) + 1
        return self.policy.delay_s(count)

    def forget(self, key: K) -> None:
        """Forgets the failures of `key`."""
        self.failures.pop(key, None)
