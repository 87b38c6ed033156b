"""How fast pods are evicted when nodes stop answering: by zone, slower or not at all when many do at once.

| zone | when | rate |
|---|---|---|
| normal | fewer than `unhealthy_threshold` of its nodes (or at most 2) are not ready | `rate` nodes a second |
| partial | otherwise, and at least one is ready | `secondary_rate`; 0 in zones of at most `large_size` nodes |
| full | none is ready | `rate`; when every zone is full, it is rather us who are cut off: no pod has to leave |
"""

from collections import Counter
from dataclasses import dataclass, field

NORMAL, PARTIAL, FULL = "normal", "partial", "full"


@dataclass(slots=True)
class Zones:
    """Ready and not ready nodes by zone, and when the next node of each may be evicted."""

    rate: float = 0.1
    secondary_rate: float = 0.01
    unhealthy_threshold: float = 0.55
    large_size: int = 50
    _place: dict[str, tuple[str, bool]] = field(default_factory=dict)  # node → zone, whether it is ready
    _ready: Counter[str] = field(default_factory=Counter)
    _lost: Counter[str] = field(default_factory=Counter)
    _next_at: dict[str, float] = field(default_factory=dict)

    def put(self, node: str, zone: str, ready: bool) -> bool:
        """Records a node; whether the rate of any zone may have changed with it."""
        if self._place.get(node) == (zone, ready):
            return False  # as with nearly every report of a node
        before = self._states()
        self._take_out(node)
        self._place[node] = (zone, ready)
        (self._ready if ready else self._lost)[zone] += 1
        return self._states() != before

    def remove(self, node: str) -> bool:
        """Forgets a node; whether the rate of any zone may have changed with it."""
        before = self._states()
        self._take_out(node)
        return self._states() != before

    def _take_out(self, node: str) -> None:
        if node in self._place:
            zone, ready = self._place.pop(node)
            counter = self._ready if ready else self._lost
            counter[zone] -= 1
            if not counter[zone]:
                del counter[zone]

    def lost(self) -> list[str]:
        """The nodes that are not ready."""
        return [node for node, (_, ready) in self._place.items() if not ready]

    def state_of(self, zone: str) -> str:
        """NORMAL, PARTIAL or FULL."""
        ready, lost = self._ready[zone], self._lost[zone]
        if not ready and lost:
            return FULL
        if lost > 2 and lost / (ready + lost) >= self.unhealthy_threshold:
            return PARTIAL
        return NORMAL

    def _states(self) -> dict[str, str]:
        return {zone: self.state_of(zone) for zone in self._ready.keys() | self._lost.keys()}

    def all_lost(self) -> bool:
        """Whether no node is ready: it is rather us who are cut off."""
        return not self._ready and bool(self._lost)

    def rate_of(self, zone: str) -> float:
        """Nodes a second that may be evicted in a zone."""
        state = self.state_of(zone)
        if state == FULL:
            return 0.0 if self.all_lost() else self.rate
        if state == PARTIAL:
            return self.secondary_rate if self._ready[zone] + self._lost[zone] > self.large_size else 0.0
        return self.rate

    def wait_s(self, node: str, now: float) -> float | None:
        """Seconds until this node may be evicted (0: now, and its turn is taken); None: not until a zone changes."""
        zone, _ = self._place.get(node, ("", False))
        rate = self.rate_of(zone)
        if rate <= 0:
            return None
        due = self._next_at.get(zone, 0.0)
        if due > now:
            return due - now
        self._next_at[zone] = now + 1.0 / rate
        return 0.0
