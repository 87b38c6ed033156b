"""How long a crashing container waits: 10 s, 20 s, … 5 min, and from the start again after a good while.

A delay counts from the end of the container's last run. The first restart is at once.
"""

from dataclasses import dataclass, field

INITIAL_S = 10.0
MAX_S = 300.0


@dataclass(slots=True)
class _Entry:
    delay_s: float
    updated_at: float


@dataclass(slots=True)
class RestartBackoff:
    """Delays by container name, for one pod."""

    initial_s: float = INITIAL_S
    max_s: float = MAX_S
    _entries: dict[str, _Entry] = field(default_factory=dict)

    def _entry(self, name: str, finished_at: float) -> _Entry | None:
        entry = self._entries.get(name)
        # A run that outlived the longest delay twice was no crash loop.
        if entry is not None and finished_at - entry.updated_at > 2 * self.max_s:
            return None
        return entry

    def delay_s(self, name: str, finished_at: float) -> float:
        """The delay that holds after a run that ended at `finished_at`; 0 for none."""
        entry = self._entry(name, finished_at)
        return 0.0 if entry is None else entry.delay_s

    def until(self, name: str, finished_at: float) -> float:
        """When the container may start again."""
        return finished_at + self.delay_s(name, finished_at)

    def restarted(self, name: str, finished_at: float, now: float) -> None:
        """The container is started again after a run that ended at `finished_at`."""
        entry = self._entry(name, finished_at)
        delay = self.initial_s if entry is None else min(entry.delay_s * 2, self.max_s)
        self._entries[name] = _Entry(delay, now)

    def forget(self, name: str) -> None:
        """The next failure is the first again."""
        self._entries.pop(name, None)
