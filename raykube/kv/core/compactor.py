"""Automatic compaction, as etcd's `--auto-compaction-mode` and `-retention`: up to which revision, and when.

    periodic, an hour     a compaction every 6 minutes, each to the revision of an hour ago
    revision, 10000       a compaction every 5 minutes, each to 10,000 revisions ago

No history is forgotten that is younger than the retention. What is kept beyond it is what is written in one interval:
etcd's is as long as the retention, up to an hour, ours a tenth of it.
"""

from collections import deque
from dataclasses import dataclass, field

INTERVALS_PER_RETENTION = 10
INTERVAL_S_MAX = 360.0
REVISION_INTERVAL_S = 300.0


@dataclass(slots=True)
class Compactor:
    """Keeps `retained_s` seconds (periodic) or `retained_revisions` (revision). Both 0: keeps everything."""

    retained_s: float = 0.0
    retained_revisions: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _next: float = float("-inf")

    def due(self, now: float, revision: int, compacted: int) -> int | None:
        """The revision to compact at, if it is time.

        Every member asks often, and only the leader acts on it: a new leader must know how old the revisions are, or
        leaders that change often would never compact.
        """
        if now < self._next or not (self.retained_s or self.retained_revisions):
            return None
        if self.retained_revisions:
            self._next = now + REVISION_INTERVAL_S
            target = revision - self.retained_revisions
            return target if target > compacted else None
        self._next = now + min(self.retained_s / INTERVALS_PER_RETENTION, INTERVAL_S_MAX)
        self._samples.append((now, revision))
        while len(self._samples) > 1 and self._samples[1][0] <= now - self.retained_s:
            self._samples.popleft()
        taken_at, target = self._samples[0]
        return target if taken_at <= now - self.retained_s and target > compacted else None
