"""Which images go when their disk is full, or when nobody used them for long: the least recently used first.

An image that any container of the runtime uses (ours or not), that is pinned, or that was first seen a short while ago
never goes. What is remembered is only when an image was first seen, and last in use.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Image:
    id: str
    names: tuple[str, ...]  # tags and digests
    size: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    image: Image
    reason: str  # "space" or "age"


@dataclass(slots=True)
class _Record:
    image: Image
    first_seen: float
    last_used: float = 0.0


def in_use(image: Image, references: set[str]) -> bool:
    return image.id in references or not references.isdisjoint(image.names)


@dataclass(slots=True)
class ImageAges:
    _records: dict[str, _Record] = field(default_factory=dict)

    def observe(self, images: Iterable[Image], references: set[str], now: float) -> None:
        """`references`: by whatever name containers refer to their images."""
        found = {}
        for image in images:
            record = self._records.get(image.id) or _Record(image, now)
            record.image = image
            if in_use(image, references):
                record.last_used = now
            found[image.id] = record
        self._records = found

    def plan(
        self, references: set[str], now: float, age_min_s: float, age_max_s: float, started_at: float
    ) -> list[Removal]:
        """Every image that may go, in order; of those, "age" ones go whether space is short or not.

        Without `age_max_s` (0) none is too old; and before the kubelet itself has run that long, nobody knows.
        """
        free = [
            record
            for record in self._records.values()
            if not record.image.pinned and not in_use(record.image, references)
        ]
        free.sort(key=lambda record: (record.last_used, record.first_seen, record.image.id))
        removals = []
        for record in free:
            if record.last_used >= now:
                continue  # in use when it was looked at
            too_old = 0 < age_max_s < now - (record.last_used or record.first_seen) and now - started_at > age_max_s
            if too_old:
                removals.append(Removal(record.image, "age"))
            elif now - record.first_seen >= age_min_s:
                removals.append(Removal(record.image, "space"))
        return removals


def bytes_to_free(capacity: int, available: int, high_percent: int, low_percent: int) -> int:
    """How much must go so that the disk is at the low mark; 0 while it is below the high one. 100 % is never."""
    if capacity <= 0 or high_percent >= 100:
        return 0
    used_percent = 100 - available * 100 // capacity
    if used_percent < high_percent:
        return 0
    return max(capacity * (100 - low_percent) // 100 - available, 0)


def largest(images: Iterable[Image], most: int) -> list[dict[str, object]]:
    """The Node's list of images: names and sizes, the largest first."""
    named = sorted((image for image in images if image.names), key=lambda image: (-image.size, image.names))
    chosen = named[: most if most >= 0 else None]
    return [{"names": list(image.names), "sizeBytes": image.size} for image in chosen]
