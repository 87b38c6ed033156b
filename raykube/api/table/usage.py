"""Rows of the metrics API."""

from typing import Any

from raykube.api import quantity
from raykube.api.table.columns import NAME, Column, Object, Printer, name_of, text

_WINDOW = Column("Window", "The time over which the use was measured", format="duration")


def _cells(obj: Object, amounts: list[dict[str, str]]) -> list[Any]:
    """The name, the sums of all containers, the window."""
    sums: list[str] = []
    for name in ("cpu", "memory"):
        total = "0"
        for each in amounts:
            total = quantity.add(total, each.get(name, "0"))
        sums.append(total)
    return [name_of(obj), *sums, obj.get("window", "")]


def _node(obj: Object, _now: float) -> list[Any]:
    return _cells(obj, [obj.get("usage") or {}])


def _pod(obj: Object, _now: float) -> list[Any]:
    return _cells(obj, [each.get("usage") or {} for each in obj.get("containers") or ()])


_COLUMNS = (NAME, text("Cpu", "CPU in use, in cores"), text("Memory", "Memory in use, in bytes"), _WINDOW)

PRINTERS = {
    ("metrics.k8s.io", "nodes"): Printer(_COLUMNS, _node),
    ("metrics.k8s.io", "pods"): Printer(_COLUMNS, _pod),
}
