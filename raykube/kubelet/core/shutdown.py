"""Who ends when while the machine shuts down: pods by priority, the least important first, each group within its time.

--shutdown-grace-period=30s --shutdown-grace-period-critical-pods=10s
    ──► priority below 2,000,000,000: 20 s, then the others: 10 s
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.ranking import CRITICAL_PRIORITY, DISRUPTION_REASON, priority
from raykube.kubelet.core.status import Verdict

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
PROBLEM = "node is shutting down"
REFUSAL = Verdict("Failed", "NodeShutdown", "Pod was rejected as the node is shutting down.")


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of this priority and more, up to the next group's."""

    priority: int
    seconds: int


def groups(total_s: float, critical_s: float, by_priority: Mapping[str, str]) -> tuple[Group, ...]:
    """The groups in the order in which they end; none where shutdown is not waited for. Raises ValueError."""
    if by_priority:
        if total_s or critical_s:
            raise ValueError("--shutdown-grace-period goes without --shutdown-grace-period-by-pod-priority")
        try:
            pairs = [(int(key), int(value)) for key, value in by_priority.items()]
        except ValueError as error:
            raise ValueError(f"--shutdown-grace-period-by-pod-priority: {error}: want PRIORITY=SECONDS") from None
        return tuple(Group(level, seconds) for level, seconds in sorted(pairs))
    if critical_s > total_s:
        raise ValueError("--shutdown-grace-period-critical-pods must be at most --shutdown-grace-period")
    if 0 < total_s < 1 or 0 < critical_s < 1:
        raise ValueError("--shutdown-grace-period and --shutdown-grace-period-critical-pods are 0 or at least 1s")
    if not total_s:
        return ()
    return Group(0, int(total_s - critical_s)), Group(CRITICAL_PRIORITY, int(critical_s))


def assigned(order: tuple[Group, ...], members: Iterable[Object]) -> list[tuple[Group, list[Object]]]:
    """Each group with its pods; who has less priority than any group goes with the first."""
    found: list[tuple[Group, list[Object]]] = [(group, []) for group in order]
    for pod in members:
        index = max((index for index, group in enumerate(order) if group.priority <= priority(pod)), default=0)
        found[index][1].append(pod)
    return found


def ending(pod: Object, group: Group) -> Verdict:
    return Verdict("Failed", REASON, MESSAGE, DISRUPTION_REASON, min(pods.grace_s(pod), group.seconds))
