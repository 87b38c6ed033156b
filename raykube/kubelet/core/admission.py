"""Whether a pod that was bound to this node may run on it: the node checks again what the scheduler decided."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil

from raykube.api import quantity
from raykube.api.label_selectors import LabelSelector
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import Amounts, pod_requests
from raykube.kubelet.core.status import Verdict

AFFINITY_MESSAGE = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"


def _reject(reason: str, message: str) -> Verdict:
    return Verdict("Failed", reason, f"Pod was rejected: {message}")


def _shown(name: str, amount: int | Fraction) -> int:
    return ceil(amount * 1000) if name == "cpu" else ceil(amount)


def _term_matches(term: Object, node: Object) -> bool:
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels = node["metadata"].get("labels") or {}
    names = {"metadata.name": node["metadata"]["name"]}
    return _requirements_match(expressions, labels) and _requirements_match(fields, names)


def _requirements_match(expressions: list[Object], labels: dict[str, str]) -> bool:
    for expression in expressions:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        if operator in ("Gt", "Lt"):
            try:
                have, bound = int(labels[key]), int(values[0])
            except (KeyError, ValueError, IndexError):
                return False
            if not (have > bound if operator == "Gt" else have < bound):
                return False
        elif not LabelSelector.from_object({"matchExpressions": [expression]}).matches(labels):
            return False
    return True


def matches_node(pod: Object, node: Object) -> bool:
    """nodeSelector and required node affinity."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod["spec"].get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return False
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def shortage(pod: Object, others: Iterable[Object], node: Object) -> tuple[str, str] | None:
    """(resource, message) of the first that the node has too little of for `pod` beside `others`."""
    others = list(others)
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    capacity = {name: quantity.parse(text) for name, text in allocatable.items()}
    used: Amounts = {}
    for other in others:
        for name, amount in pod_requests(other).items():
            used[name] = used.get(name, 0) + amount
    text = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}"
    if "pods" in capacity and len(others) + 1 > capacity["pods"]:
        return "pods", text.format("pods", 1, len(others), _shown("pods", capacity["pods"]))
    for name, amount in sorted(pod_requests(pod).items()):
        if amount and used.get(name, 0) + amount > capacity.get(name, 0):
            shown = [_shown(name, value) for value in (amount, used.get(name, 0), capacity.get(name, 0))]
            return name, text.format(name, *shown)
    return None


def admit(pod: Object, others: Iterable[Object], node: Object) -> Verdict | None:
    """None for a pod that may run here beside `others`; otherwise why not."""
    if not matches_node(pod, node):
        return _reject("NodeAffinity", AFFINITY_MESSAGE)
    missing = shortage(pod, others, node)
    return None if missing is None else _reject(f"OutOf{missing[0]}", missing[1])
