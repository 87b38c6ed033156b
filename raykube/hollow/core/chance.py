"""Seeded chance: what is drawn depends on the seed and on what it is drawn for, never on what was drawn before.

So a run is the same whatever the order in which pods arrive, and a process that is started again draws for a pod what
the one before it drew.
"""

import math
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

_MASK = (1 << 64) - 1
Kind = Literal["constant", "uniform", "exponential", "normal"]


def fraction(seed: int, *purpose: str | int) -> float:
    """A number in [0, 1) that belongs to `purpose`."""
    text = "\0".join(map(str, purpose)).encode()
    # splitmix64 (Steele, Lea, Flood 2014) over two checksums: neighbouring names give unrelated numbers.
    state = (seed * 0x9E3779B97F4A7C15 + (crc32(text) << 32 | crc32(text, 0x5BD1E995))) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((state ^ (state >> 31)) >> 11) / (1 << 53)


@dataclass(frozen=True, slots=True)
class Delay:
    """A distribution of seconds. `low` and `high` by kind:

    constant: low; uniform: from low to high; exponential: mean low, at most high; normal: mean low, deviation high,
    never below zero.
    """

    kind: Kind = "constant"
    low: float = 0.0
    high: float = 0.0

    def seconds(self, share: float) -> float:
        """The delay that a share in [0, 1) of all delays stays below."""
        if self.kind == "constant":
            return self.low
        if self.kind == "uniform":
            return self.low + share * (self.high - self.low)
        if self.kind == "exponential":
            return min(-math.log(1.0 - share) * self.low, self.high)
        return max(0.0, self.low + self.high * _normal(share))


def _normal(share: float) -> float:
    """The standard normal quantile, to three digits: Abramowitz and Stegun 26.2.23."""
    tail = min(max(min(share, 1.0 - share), 1e-12), 0.5)
    t = math.sqrt(-2.0 * math.log(tail))
    size = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    return -size if share < 0.5 else size
