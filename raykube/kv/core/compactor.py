"""Automatic compaction, as etcd's `--auto-compaction-mode` and `-retention`: up to which revision, and when."""

from collections import deque
from dataclasses import dataclass, field

CHECKS_PER_RETENTION = 10
INTERVAL_S_MAX = 300.0


@dataclass(slots=True)
class Compactor:
    """Keeps `retained_s` seconds (periodic) or `retained_revisions` (revision). Both 0: keeps everything."""

    retained_s: float = 0.0
    retained_revisions: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _next: float = 0.0

    def due(self, now: float, revision: int, compacted: int) -> int | None:
        """The revision to compact at, if it is time. Call it often, on the leader."""
        if now < self._next or not (self.retained_s or self.retained_revisions):
            return None
        interval = self.retained_s / CHECKS_PER_RETENTION if self.retained_s else INTERVAL_S_MAX
        self._next = now + min(interval, INTERVAL_S_MAX)
        if self.retained_revisions:
            target = revision - self.retained_revisions
        else:
            self._samples.append((now, revision))
            target = 0
            while self._samples and self._samples[0][0] <= now - self.retained_s:
                target = self._samples.popleft()[1]
        return target if target > compacted else None
