"""IntOrString values: a number, or a percentage of a whole."""

from typing import Any


def resolve(value: Any, whole: int, *, round_up: bool) -> int:
    """`value` of `whole`: 3 → 3, "25%" of 10 → 3 rounded up, 2 rounded down. Raises ValueError."""
    if isinstance(value, str):
        if not value.endswith("%"):
            raise ValueError(f"{value!r} is neither a number nor a percentage")
        scaled = int(value[:-1]) * whole
        return -(-scaled // 100) if round_up else scaled // 100
    return int(value)


def fenceposts(max_surge: Any, max_unavailable: Any, desired: int) -> tuple[int, int]:
    """(surge, unavailable) of a rolling update: surge rounds up, unavailable down, and never are both 0."""
    surge = resolve(max_surge, desired, round_up=True)
    unavailable = resolve(max_unavailable, desired, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, unavailable
