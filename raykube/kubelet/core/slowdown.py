"""How much longer pods' work takes because others have the CPUs: from what the kernel's scheduler counts per thread."""

from collections.abc import Mapping
from typing import NamedTuple

SHARE_MIN = 0.01  # of a core; what ran less says nothing about waiting


class Ran(NamedTuple):
    """Of one thread since it began, in nanoseconds: on a CPU, and ready but waiting for one."""

    on_cpu_ns: int
    waiting_ns: int


Threads = Mapping[tuple[int, int], Ran]  # by thread id and start time: ids are used again


def slowdown(before: Threads, after: Threads, seconds: float) -> float | None:
    """(ran + waited) / ran between two readings; None where it hardly ran. Threads that ended do not count."""
    ran = waited = 0
    for key, now in after.items():
        then = before.get(key, Ran(0, 0))
        ran += max(now.on_cpu_ns - then.on_cpu_ns, 0)
        waited += max(now.waiting_ns - then.waiting_ns, 0)
    if seconds <= 0 or ran < SHARE_MIN * seconds * 1e9:
        return None
    return (ran + waited) / ran
