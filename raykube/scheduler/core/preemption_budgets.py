"""Disruption budgets, as preemption looks at them: which of a node's pods would leave against one.

Budgets are only a wish here: victims are chosen so that few are broken, and they are broken when nothing else helps.
"""

from typing import Any, NamedTuple

from raykube.api.selectors import LabelSelector
from raykube.scheduler.core.placed import Placed

Object = dict[str, Any]


class Budget(NamedTuple):
    selector: LabelSelector
    allowed: int
    disrupted: frozenset[str]  # names of pods that are spent already


class Budgets:
    """PodDisruptionBudgets by namespace and name."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Budget]] = {}
        self.revised = 0

    def on_budget(self, namespace: str, name: str, obj: Object | None) -> bool:
        """A budget as it is now (None: gone); whether that changed anything."""
        there = self._known.setdefault(namespace, {})
        old = there.pop(name, None)
        if obj is not None:
            selector = (obj.get("spec") or {}).get("selector")
            status = obj.get("status") or {}
            # An empty selector means no pod to preemption, whatever it means to evictions.
            if selector and (selector.get("matchLabels") or selector.get("matchExpressions")):
                disrupted = frozenset(status.get("disruptedPods") or ())
                found = LabelSelector.from_object(selector)
                there[name] = Budget(found, int(status.get("disruptionsAllowed") or 0), disrupted)
        if not there:
            del self._known[namespace]
        changed = old != self._known.get(namespace, {}).get(name)
        self.revised += changed
        return changed

    def violating(self, pods: list[Placed]) -> set[str]:
        """The uids of those that would break a budget, if all of them left in this order."""
        if not self._known:
            return set()
        found: set[str] = set()
        left: dict[tuple[str, str], int] = {}
        for placed in pods:
            pod = placed.pod
            if not pod.labels:
                continue
            for name, budget in self._known.get(pod.namespace, {}).items():
                if pod.name in budget.disrupted or not budget.selector.matches(pod.labels):
                    continue
                key = pod.namespace, name
                left[key] = left.get(key, budget.allowed) - 1
                if left[key] < 0:
                    found.add(pod.uid)
        return found
