"""A dumb twin of the scheduler's filters: one pod, one node, plain loops over objects."""

from collections import Counter
from fractions import Fraction
from typing import Any

from raykube.api.quantity import parse

Object = dict[str, Any]


class World:
    """Nodes by name, and pods with the name of their node."""

    def __init__(self) -> None:
        self.nodes: dict[str, Object] = {}
        self.pods: dict[str, tuple[Object, str]] = {}
        self.namespaces: dict[str, dict[str, str]] = {}

    def on(self, name: str) -> list[Object]:
        return [obj for obj, node in self.pods.values() if node == name]


def requests(pod: Object) -> dict[str, Fraction]:
    found = pod["spec"]["containers"][0]["resources"].get("requests", {})
    return {name: Fraction(parse(quantity)) for name, quantity in found.items()}


def used(world: World, name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for obj in world.on(name):
        for resource, needed in requests(obj).items():
            total[resource] += needed  # type: ignore[assignment]  # a Counter of fractions
    return total


def tolerated(pod: Object, taint: Object) -> bool:
    for item in pod["spec"].get("tolerations", []):
        if item.get("effect", taint["effect"]) not in ("", taint["effect"]):
            continue
        if item.get("operator", "Equal") == "Exists":
            if item.get("key", "") in ("", taint["key"]):
                return True
        elif item.get("key") == taint["key"] and item.get("value", "") == taint.get("value", ""):
            return True
    return False


def expression_holds(item: Object, labels: dict[str, str]) -> bool:
    key, operator, values = item["key"], item["operator"], item.get("values", [])
    has = key in labels
    if operator == "In":
        return has and labels[key] in values
    if operator == "NotIn":
        return not has or labels[key] not in values
    if operator == "Exists":
        return has
    if operator == "DoesNotExist":
        return not has
    if not has or not labels[key].lstrip("-").isdigit():
        return False
    return int(labels[key]) > int(values[0]) if operator == "Gt" else int(labels[key]) < int(values[0])


def affinity_holds(pod: Object, node: Object) -> bool:
    labels = node["metadata"]["labels"]
    if any(labels.get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items()):
        return False
    required = (
        pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    )
    if required is None:
        return True
    for term in required["nodeSelectorTerms"]:
        expressions = term.get("matchExpressions", [])
        if expressions and all(expression_holds(item, labels) for item in expressions):
            return True
    return False


def selects(constraint: Object, pod: Object, other: Object) -> bool:
    """Whether a spread constraint of `pod` counts `other`."""
    if other["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    wanted = dict(constraint["labelSelector"]["matchLabels"])
    own = pod["metadata"]["labels"]
    wanted |= {key: own[key] for key in constraint.get("matchLabelKeys", []) if key in own}
    return all(other["metadata"]["labels"].get(key) == value for key, value in wanted.items())


def included(pod: Object, node: Object, constraint: Object) -> bool:
    """Whether a node's domain counts for a constraint, by its policies."""
    if constraint.get("nodeAffinityPolicy") != "Ignore" and not affinity_holds(pod, node):
        return False
    if constraint.get("nodeTaintsPolicy") != "Honor":
        return True
    return all(
        tolerated(pod, taint) for taint in node["spec"].get("taints", []) if taint["effect"] != "PreferNoSchedule"
    )


def skew_reason(world: World, pod: Object, node: Object) -> str:
    constraints = [
        c for c in pod["spec"].get("topologySpreadConstraints", []) if c["whenUnsatisfiable"] != "ScheduleAnyway"
    ]
    text = "node(s) didn't match pod topology spread constraints"
    if any(c["topologyKey"] not in node["metadata"]["labels"] for c in constraints):
        return f"{text} (missing required label)"
    for constraint in constraints:
        key = constraint["topologyKey"]
        counts: Counter[str] = Counter()
        for name, other in world.nodes.items():
            have = other["metadata"]["labels"]
            if any(c["topologyKey"] not in have for c in constraints) or not included(pod, other, constraint):
                continue
            counts[have[key]] += sum(selects(constraint, pod, item) for item in world.on(name))
        if not counts:
            continue
        least = min(counts.values()) if len(counts) >= constraint.get("minDomains", 1) else 0
        own = selects(constraint, pod, pod)
        if counts[node["metadata"]["labels"][key]] + own - least > constraint["maxSkew"]:
            return text
    return ""


def reasons(world: World, pod: Object, name: str) -> list[str]:
    """Why the pod cannot be on the node; empty: it can."""
    node = world.nodes[name]
    spec = node["spec"]
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if spec.get("unschedulable") and not tolerated(pod, cordon):
        return ["node(s) were unschedulable"]
    for taint in spec.get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not tolerated(pod, taint):
            return ["node(s) had untolerated taint(s)"]
    if not affinity_holds(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    ports = {p["hostPort"] for p in pod["spec"]["containers"][0].get("ports", [])}
    for other in world.on(name):
        if ports & {p["hostPort"] for p in other["spec"]["containers"][0].get("ports", [])}:
            return ["node(s) didn't have free ports for the requested pod ports"]
    found = []
    allocatable = node["status"]["allocatable"]
    if len(world.on(name)) >= int(allocatable["pods"]):
        found.append("Too many pods")
    taken = used(world, name)
    for resource, needed in requests(pod).items():
        if needed and taken[resource] + needed > parse(allocatable.get(resource, "0")):
            found.append(f"Insufficient {resource}")
    if found:
        return found
    skewed = skew_reason(world, pod, node)
    if skewed:
        return [skewed]
    company = company_reason(world, pod, node)
    return [company] if company else []


def required_terms(pod: Object, kind: str) -> list[Object]:
    rules = pod["spec"].get("affinity", {}).get(kind, {})
    return list(rules.get("requiredDuringSchedulingIgnoredDuringExecution", []))


def term_means(world: World, carrier: Object, term: Object, other: Object) -> bool:
    """Whether a term of `carrier` is about the pod `other`."""
    namespace = other["metadata"]["namespace"]
    named = namespace in term.get("namespaces", [])
    if "namespaceSelector" in term:
        wanted = term["namespaceSelector"].get("matchLabels", {})
        have = world.namespaces.get(namespace, {})
        named = named or all(have.get(key) == value for key, value in wanted.items())
    elif not term.get("namespaces"):
        named = namespace == carrier["metadata"]["namespace"]
    selector = term.get("labelSelector")
    if not named or selector is None:
        return False
    labels, own = other["metadata"]["labels"], carrier["metadata"]["labels"]
    if any(key in own and labels.get(key) != own[key] for key in term.get("matchLabelKeys", [])):
        return False
    if any(key in own and labels.get(key) == own[key] for key in term.get("mismatchLabelKeys", [])):
        return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def company_reason(world: World, pod: Object, node: Object) -> str:
    """What the pods that run forbid, and those that the pod needs."""
    here = node["metadata"]["labels"]
    running = [
        (obj, world.nodes[name]["metadata"]["labels"]) for obj, name in world.pods.values() if name in world.nodes
    ]
    near = required_terms(pod, "podAffinity")
    if any(term["topologyKey"] not in here for term in near):
        return "node(s) didn't match pod affinity rules"
    wanted = [labels for obj, labels in running if all(term_means(world, pod, term, obj) for term in near)]
    found = any(term["topologyKey"] in labels for term in near for labels in wanted)
    if near and (found or not all(term_means(world, pod, term, pod) for term in near)):
        for term in near:
            if not any(labels.get(term["topologyKey"]) == here[term["topologyKey"]] for labels in wanted):
                return "node(s) didn't match pod affinity rules"
    for term in required_terms(pod, "podAntiAffinity"):
        key = term["topologyKey"]
        for obj, labels in running:
            if key in here and labels.get(key) == here[key] and term_means(world, pod, term, obj):
                return "node(s) didn't match pod anti-affinity rules"
    for obj, labels in running:
        for term in required_terms(obj, "podAntiAffinity"):
            key = term["topologyKey"]
            if key in here and labels.get(key) == here[key] and term_means(world, obj, term, pod):
                return "node(s) didn't satisfy existing pods anti-affinity rules"
    return ""
