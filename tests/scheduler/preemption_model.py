"""A dumb twin of preemption: every node, every pod, plain loops, the oracle's filters."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from raykube.api.quantity import parse
from tests.scheduler.oracle import World, reasons

Object = dict[str, Any]
HELPLESS = (
    "node(s) were unschedulable",
    "node(s) had untolerated taint(s)",
    "node(s) didn't match Pod's node affinity/selector",
    "node(s) didn't match pod topology spread constraints (missing required label)",
    "node(s) didn't match pod affinity rules",
)


@dataclass
class Model:
    world: World = field(default_factory=World)
    nominated: dict[str, tuple[Object, str]] = field(default_factory=dict)
    budgets: list[Object] = field(default_factory=list)  # labels, allowed
    leaving: set[str] = field(default_factory=set)

    def why(self, pod: Object, node: str) -> list[str]:
        """Why the pod cannot be on the node, beside the pods that were promised it, and without them.

        They count by resources and ports alone."""
        name = pod["metadata"]["name"]
        guests = {
            key: (anonymous(entry[0]), entry[1])
            for key, entry in self.nominated.items()
            if entry[1] == node and key != name and priority(entry[0]) >= priority(pod)
        }
        real = dict(self.world.pods)
        self.world.pods.update(guests)
        try:
            found = reasons(self.world, pod, node)
        finally:
            self.world.pods = real
        return found or reasons(self.world, pod, node)

    def victims(self, pod: Object, node: str) -> tuple[list[Object], int] | list[str]:
        """Who would have to leave, and how many budgets that breaks; or the reasons why nobody helps."""
        lower = [obj for obj in self.world.on(node) if priority(obj) < priority(pod)]
        if not lower:
            return ["No preemption victims found for incoming pod"]
        real = dict(self.world.pods)
        try:
            for obj in lower:
                del self.world.pods[obj["metadata"]["name"]]
            found = self.why(pod, node)
            if found:
                return found
            lower.sort(key=importance)
            broken = self.broken(lower)
            chosen: list[Object] = []
            for obj in [o for o in lower if name(o) in broken] + [o for o in lower if name(o) not in broken]:
                self.world.pods[name(obj)] = obj, node
                if self.why(pod, node):
                    del self.world.pods[name(obj)]
                    chosen.append(obj)
            return sorted(chosen, key=importance), sum(name(obj) in broken for obj in chosen)
        finally:
            self.world.pods = real

    def broken(self, pods: list[Object]) -> set[str]:
        found = set()
        left = [budget["allowed"] for budget in self.budgets]
        for obj in pods:
            for index, budget in enumerate(self.budgets):
                labels = obj["metadata"]["labels"]
                if all(labels.get(key) == value for key, value in budget["labels"].items()):
                    left[index] -= 1
                    if left[index] < 0:
                        found.add(name(obj))
        return found

    def preempt(self, pod: Object) -> tuple[str, list[str], int] | str:
        """The node, the victims' names and the broken budgets; or the message about preemption."""
        total: Counter[str] = Counter()
        best: tuple[Any, ...] | None = None
        for node in self.world.nodes:
            found = self.why(pod, node)
            if helpless(self.world.nodes[node], pod, found):
                total["Preemption is not helpful for scheduling"] += 1
                continue
            picked = self.victims(pod, node)
            if isinstance(picked, list):
                total.update(picked)
                continue
            victims, violations = picked
            highest = priority(victims[0])
            started = min(start(obj) for obj in victims if priority(obj) == highest)
            key = violations, highest, sum(priority(obj) + 2**31 for obj in victims), len(victims), invert(started)
            if best is None or key < best[0]:
                best = key, node, [name(obj) for obj in victims], violations
        if best is not None:
            return best[1], best[2], best[3]
        text = ", ".join(sorted(f"{count} {reason}" for reason, count in total.items()))
        return f"0/{len(self.world.nodes)} nodes are available: {text}."


def anonymous(obj: Object) -> Object:
    """The pod as nobody's company."""
    kept = {key: value for key, value in obj["spec"].items() if key not in ("affinity", "topologySpreadConstraints")}
    return obj | {"metadata": obj["metadata"] | {"labels": {}}, "spec": kept}


def name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def priority(obj: Object) -> int:
    return int(obj["spec"].get("priority", 0))


def start(obj: Object) -> str:
    return str(obj["status"].get("startTime", "~"))


def importance(obj: Object) -> tuple[int, str]:
    return -priority(obj), start(obj)


def invert(text: str) -> list[int]:
    return [-ord(character) for character in text]


def helpless(node: Object, pod: Object, found: list[str]) -> bool:
    """Whether no eviction can change what the filters said."""
    if any(
        reason == text or (text.endswith("taint") and reason.startswith(text)) for reason in found for text in HELPLESS
    ):
        return True
    requests = pod["spec"]["containers"][0]["resources"].get("requests", {})
    allocatable = node["status"]["allocatable"]
    return any(
        f"Insufficient {resource}" in found and parse(needed) > parse(allocatable.get(resource, "0"))
        for resource, needed in requests.items()
    )
