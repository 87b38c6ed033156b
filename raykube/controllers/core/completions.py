"""Sets of completion indexes, as Jobs write them: "0-2,5" for {0, 1, 2, 5}."""

from collections.abc import Iterable


def parse(text: str, limit: int) -> set[int]:
    """The indexes below `limit` that `text` names. Parts that make no sense are skipped."""
    indexes: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            indexes.update(range(int(first), min(int(last or first), limit - 1) + 1))
    return indexes


def render(indexes: Iterable[int]) -> str:
    """The shortest text for `indexes`."""
    parts: list[str] = []
    start = previous = -2
    for index in [*sorted(indexes), -1]:
        if index == previous + 1:
            previous = index
            continue
        if start >= 0:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = index
    return ",".join(parts)
