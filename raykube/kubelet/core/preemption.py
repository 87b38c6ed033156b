"""Who makes room on this machine for a critical pod that does not fit: as few as possible, best effort first.

    1. guaranteed pods, as far as all others together would not suffice
    2. burstable pods, as far as those and all best-effort pods would not suffice
    3. best-effort pods, for what is missing then

Within a class the pod goes that meets most of what is missing; of two that meet as much, the one that asked for less.
"""

from collections.abc import Iterable

from raykube.api import quantity
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import Amounts, pod_requests, qos_class
from raykube.kubelet.core.ranking import DISRUPTION_REASON, is_critical, priority
from raykube.kubelet.core.status import Verdict

VERDICT = Verdict(
    "Failed",
    "Preempting",
    "Preempted in order to admit critical pod",
    disruption=DISRUPTION_REASON,
    disruption_message="Pod was preempted by Kubelet to accommodate a critical pod.",
)


def _asked(pod: Object) -> Amounts:
    return pod_requests(pod) | {"pods": 1}


def deficits(pod: Object, others: Iterable[Object], node: Object) -> Amounts:
    """How much of each resource the node lacks for `pod` beside `others`."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    free: Amounts = {name: quantity.parse(text) for name, text in allocatable.items()}
    for other in others:
        for name, amount in _asked(other).items():
            free[name] = free.get(name, 0) - amount
    lacking = {name: amount - free.get(name, 0) for name, amount in _asked(pod).items() if amount}
    return {name: amount for name, amount in lacking.items() if amount > 0}


def _less(missing: Amounts, leaving: Iterable[Object]) -> Amounts:
    """What is still missing when some have left."""
    left = dict(missing)
    for pod in leaving:
        for name, amount in _asked(pod).items():
            if name in left:
                left[name] -= amount
    return {name: amount for name, amount in left.items() if amount > 0}


def _distance(missing: Amounts, pod: Object) -> float:
    """How far the pod's leaving would be from enough; each resource counts alike."""
    return sum(float(amount / missing[name]) ** 2 for name, amount in _less(missing, [pod]).items())


def _nearest(candidates: list[Object], missing: Amounts) -> list[Object]:
    """Those of `candidates` that leave until nothing is missing any more, or all."""
    left, chosen = list(candidates), []
    while missing and left:
        best = min(left, key=lambda one: (_distance(missing, one), *_size(one)))
        left.remove(best)
        chosen.append(best)
        missing = _less(missing, [best])
    return chosen


def _size(pod: Object) -> tuple[float, float]:
    asked = pod_requests(pod)
    return float(asked.get("memory", 0)), float(asked.get("cpu", 0))


def victims(pod: Object, others: Iterable[Object], node: Object) -> list[Object]:
    """Who leaves for `pod`; nobody where it is not critical, lacks nothing, or even all of them would not do."""
    others = list(others)
    missing = deficits(pod, others, node)
    if not missing or not is_critical(pod):
        return []
    classes: dict[str, list[Object]] = {"Guaranteed": [], "Burstable": [], "BestEffort": []}
    for other in others:
        if not is_critical(other) or priority(pod) > priority(other):
            classes[qos_class(other)].append(other)
    best_effort, burstable, guaranteed = classes["BestEffort"], classes["Burstable"], classes["Guaranteed"]
    if _less(missing, best_effort + burstable + guaranteed):
        return []
    first = _nearest(guaranteed, _less(missing, best_effort + burstable))
    second = _nearest(burstable, _less(missing, best_effort + first))
    third = _nearest(best_effort, _less(missing, first + second))
    return first + second + third
