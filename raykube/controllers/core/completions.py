"""Sets of completion indexes, as Jobs write them: "0-2,5" for {0, 1, 2, 5}.

They are kept in ranges. A Job's pods mostly end in their order, so that a hundred thousand indexes are a few ranges,
and whatever is done with a set costs its ranges.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

DIGITS_MAX = 10  # of the most that `spec.completions` may be


def index_of(text: str) -> int | None:
    """The index that a text says; None when it says none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX else None


class Indexes:
    """A set of indexes."""

    def __init__(self) -> None:
        self._firsts: list[int] = []  # of the ranges, in order; no two of them touch
        self._lasts: list[int] = []
        self._count = 0

    @classmethod
    def parse(cls, text: str, limit: int) -> "Indexes":
        """The indexes below `limit` that `text` names. Parts that make no sense are skipped."""
        found = cls()
        pairs = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            low, high = index_of(first), index_of(last or first)
            if low is not None and high is not None:
                pairs.append((low, min(high, limit - 1)))
        pairs.sort()  # as they are, unless somebody else wrote them
        for low, high in pairs:
            found._append(low, high)
        return found

    def _append(self, first: int, last: int) -> None:
        """A range that begins no earlier than the others."""
        if self._lasts:
            first = max(first, self._lasts[-1] + 1)
        if first > last:
            return
        self._count += last - first + 1
        if self._lasts and self._lasts[-1] == first - 1:
            self._lasts[-1] = last
        else:
            self._firsts.append(first)
            self._lasts.append(last)

    def add(self, index: int) -> None:
        if index in self:
            return
        self._count += 1
        at = bisect_right(self._firsts, index)
        follows = at > 0 and self._lasts[at - 1] == index - 1
        precedes = at < len(self._firsts) and self._firsts[at] == index + 1
        if follows and precedes:
            self._lasts[at - 1] = self._lasts.pop(at)
            del self._firsts[at]
        elif follows:
            self._lasts[at - 1] = index
        elif precedes:
            self._firsts[at] = index
        else:
            self._firsts.insert(at, index)
            self._lasts.insert(at, index)

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._firsts, index)
        return at > 0 and index <= self._lasts[at - 1]

    def __len__(self) -> int:
        return self._count

    def has_any(self, indexes: Sequence[int]) -> bool:
        """Whether one of `indexes`, which are in order, is in the set."""
        for first, last in zip(self._firsts, self._lasts, strict=True):
            at = bisect_left(indexes, first)
            if at == len(indexes):
                return False
            if indexes[at] <= last:
                return True
        return False

    def common(self, other: "Indexes") -> int:
        """How many indexes are in both sets."""
        mine, others = (
            list(zip(self._firsts, self._lasts, strict=True)),
            list(zip(other._firsts, other._lasts, strict=True)),
        )
        found = left = right = 0
        while left < len(mine) and right < len(others):
            first, last = max(mine[left][0], others[right][0]), min(mine[left][1], others[right][1])
            found += max(last - first + 1, 0)
            if mine[left][1] < others[right][1]:
                left += 1
            else:
                right += 1
        return found

    def others(self, limit: int) -> Iterator[int]:
        """The indexes below `limit` that are not in the set, in order."""
        start = 0
        for first, last in zip(self._firsts, self._lasts, strict=True):
            yield from range(start, min(first, limit))
            start = last + 1
        yield from range(start, limit)

    def __str__(self) -> str:
        """The shortest text."""
        ranges = zip(self._firsts, self._lasts, strict=True)
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
