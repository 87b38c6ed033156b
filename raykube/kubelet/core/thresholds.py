"""Eviction thresholds: what of the machine must stay free, and which of it does not.

    memory.available<100Mi      hard: acts at once
    nodefs.available<10%        of the capacity; nodefs is the disk of volumes and logs, imagefs and containerfs are the
    nodefs.inodesFree<5%        runtime's (often the same one)
    pid.available<5%

A *soft* threshold acts when it has been met for its grace period. A threshold that acted counts as met until its
*minimum reclaim* is free on top of it. A node condition stays for the transition period after it was last observed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from raykube.api import quantity
from raykube.base.duration import parse_duration

MEMORY_PRESSURE, DISK_PRESSURE, PID_PRESSURE = "MemoryPressure", "DiskPressure", "PIDPressure"

# signal → (resource that is short, node condition)
SIGNALS = {
    "memory.available": ("memory", MEMORY_PRESSURE),
    "nodefs.available": ("ephemeral-storage", DISK_PRESSURE),
    "nodefs.inodesFree": ("inodes", DISK_PRESSURE),
    "imagefs.available": ("ephemeral-storage", DISK_PRESSURE),
    "imagefs.inodesFree": ("inodes", DISK_PRESSURE),
    "containerfs.available": ("ephemeral-storage", DISK_PRESSURE),
    "containerfs.inodesFree": ("inodes", DISK_PRESSURE),
    "pid.available": ("pids", PID_PRESSURE),
}


@dataclass(frozen=True, slots=True)
class Amount:
    """An absolute amount, or a share of the capacity."""

    absolute: int = 0
    share: Fraction | None = None

    def of(self, capacity: int) -> int:
        return int(capacity * self.share) if self.share is not None else self.absolute


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Threshold:
    signal: str
    amount: Amount
    grace_s: float = 0.0
    soft: bool = False
    reclaim: Amount = NOTHING

    @property
    def resource(self) -> str:
        return SIGNALS[self.signal][0]

    @property
    def condition(self) -> str:
        return SIGNALS[self.signal][1]


@dataclass(frozen=True, slots=True)
class Observation:
    available: int
    capacity: int
    at: float


Observations = Mapping[str, Observation]


def _amount(text: str, what: str) -> Amount | None:
    """None for a share of 0% or 100%, which switches a threshold off. Raises ValueError."""
    try:
        if text.endswith("%"):
            share = Fraction(text[:-1]) / 100
            if not 0 <= share <= 1:
                raise ValueError(f"{text} is not between 0% and 100%")
            return Amount(share=share) if 0 < share < 1 else None
        absolute = quantity.value(text)
        if absolute < 0:
            raise ValueError(f"{text} is negative")
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{what}: {error}") from None
    return Amount(absolute)


def _pairs(text: str, operator: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        signal, separator, value = part.partition(operator)
        signal, value = signal.strip(), value.strip()
        if not separator or not value:
            raise ValueError(f"invalid eviction threshold syntax {part}, expected <signal><operator><value>")
        if signal not in SIGNALS:
            raise ValueError(f"unsupported eviction signal {signal}")
        if signal in found:
            raise ValueError(f"duplicate eviction threshold for signal {signal}")
        found[signal] = value
    return found


def parse_thresholds(hard: str, soft: str = "", soft_grace: str = "", reclaim: str = "") -> tuple[Threshold, ...]:
    """The four flags. Raises ValueError that says what is wrong."""
    graces = {}
    for signal, value in _pairs(soft_grace, "=").items():
        graces[signal] = parse_duration(value)
        if graces[signal] < 0:
            raise ValueError(f"invalid eviction grace period specified: {value} for {signal}, must be positive")
    reclaims = {signal: _amount(value, signal) or NOTHING for signal, value in _pairs(reclaim, "=").items()}
    found = []
    for signal, value in _pairs(hard, "<").items():
        amount = _amount(value, signal)
        if amount is not None:
            found.append(Threshold(signal, amount, reclaim=reclaims.get(signal, NOTHING)))
    for signal, value in _pairs(soft, "<").items():
        if signal not in graces:
            raise ValueError(f"grace period must be specified for the soft eviction threshold {signal}")
        amount = _amount(value, signal)
        if amount is not None:
            found.append(Threshold(signal, amount, graces[signal], True, reclaims.get(signal, NOTHING)))
    return tuple(found)


def _is_met(threshold: Threshold, observations: Observations, with_reclaim: bool) -> bool:
    seen = observations.get(threshold.signal)
    if seen is None:
        return False
    wanted = threshold.amount.of(seen.capacity)
    if with_reclaim:
        wanted += threshold.reclaim.of(seen.capacity)
    return seen.available < wanted


def _order(threshold: Threshold) -> tuple[bool, bool, str]:
    """Memory first: a machine without any is lost soonest. Hard before soft."""
    return threshold.resource != "memory", threshold.soft, threshold.signal


@dataclass(slots=True)
class Pressure:
    """Follows observations; `conditions` are those that the node has."""

    thresholds: tuple[Threshold, ...]
    transition_s: float
    conditions: frozenset[str] = frozenset()
    _acting: tuple[Threshold, ...] = ()
    _since: dict[Threshold, float] = field(default_factory=dict)
    _observed_at: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)  # signal → time of its last observation

    def observe(self, observations: Observations, now: float) -> tuple[Threshold, ...]:
        """The thresholds to act on, the most urgent first."""
        met = [one for one in self.thresholds if _is_met(one, observations, False)]
        met += [one for one in self._acting if one not in met and _is_met(one, observations, True)]
        self._since = {one: self._since.get(one, now) for one in met}
        for one in met:
            self._observed_at[one.condition] = now
        self.conditions = frozenset(
            condition for condition, at in self._observed_at.items() if at == now or now - at < self.transition_s
        )
        # What was seen before says nothing about what an eviction brought meanwhile.
        acting = [
            one
            for one in met
            if now - self._since[one] >= one.grace_s
            and observations[one.signal].at > self._last.get(one.signal, float("-inf"))
        ]
        self._last = {signal: seen.at for signal, seen in observations.items()}
        self._acting = tuple(sorted(acting, key=_order))
        return self._acting

    def relieved(self, threshold: Threshold, observations: Observations) -> bool:
        """Whether a threshold is not met any more, its minimum reclaim included."""
        return not _is_met(threshold, observations, True)


def hard_amounts(thresholds: Iterable[Threshold]) -> dict[str, Amount]:
    """What hard thresholds keep from pods, by the resource of allocatable that it lessens."""
    found = {}
    for one in thresholds:
        if not one.soft and one.signal in ("memory.available", "nodefs.available"):
            found["memory" if one.signal == "memory.available" else "ephemeral-storage"] = one.amount
    return found
