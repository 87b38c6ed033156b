"""A dumb twin of the scheduler's scores, from what upstream documents of each: loops over objects, no columns.

`totals(world, pod)` gives each node that fits its total with the default weights. Scores are not rounded.
"""

from collections import Counter
from math import log
from typing import Any

from raykube.api.quantity import parse
from tests.scheduler import oracle
from tests.scheduler.oracle import World, expression_holds, reasons, selects, term_means, tolerated

Object = dict[str, Any]
Scores = dict[str, float]

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
HOSTNAME = "kubernetes.io/hostname"
MIB = 1 << 20


def totals(world: World, pod: Object) -> Scores:
    fitting = [name for name in world.nodes if not reasons(world, pod, name)]
    parts = [
        (3, taints(world, pod, fitting)),
        (2, node_affinity(world, pod, fitting)),
        (1, {name: least_allocated(world, pod, name) for name in fitting}),
        (1, {name: balance(world, pod, name) for name in fitting}),
        (2, spreading(world, pod, fitting)),
        (2, company(world, pod, fitting)),
        (1, {name: images(world, pod, name) for name in fitting}),
    ]
    return {name: sum(weight * scores[name] for weight, scores in parts) for name in fitting}


def labels_of(world: World, name: str) -> dict[str, str]:
    return dict(world.nodes[name]["metadata"]["labels"])


# -- the node


def taints(world: World, pod: Object, fitting: list[str]) -> Scores:
    """Fewest PreferNoSchedule taints that the pod does not tolerate get 100, the most 0."""
    soft = {
        name: sum(
            taint["effect"] == "PreferNoSchedule" and not tolerated(pod, taint)
            for taint in world.nodes[name]["spec"].get("taints", [])
        )
        for name in fitting
    }
    most = max(soft.values(), default=0)
    return {name: 100.0 - 100.0 * count / most if most else 100.0 for name, count in soft.items()}


def node_affinity(world: World, pod: Object, fitting: list[str]) -> Scores:
    """The weights of the preferred terms that a node matches; the most gets 100."""
    terms = pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get(PREFERRED, [])
    found = {
        name: sum(
            term["weight"]
            for term in terms
            if all(expression_holds(one, labels_of(world, name)) for one in term["preference"]["matchExpressions"])
        )
        for name in fitting
    }
    most = max(found.values(), default=0)
    return {name: 100.0 * weight / most if most else 0.0 for name, weight in found.items()}


def images(world: World, pod: Object, name: str) -> float:
    """The bytes of the pod's images on the node, each times the part of nodes that have it; from 23 MiB to 1000 MiB."""
    wanted = [container["image"] for container in pod["spec"]["containers"]]
    wanted = [image if ":" in image.rpartition("/")[2] else f"{image}:latest" for image in wanted]
    total = 0.0
    for image in wanted:
        held = {node: size for node in world.nodes for size in [size_on(world, node, image)] if size}
        if name in held:
            total += held[name] * len(held) / len(world.nodes)
    most = 1000 * MIB * len(wanted)
    return 100.0 * (min(max(total, 23 * MIB), most) - 23 * MIB) / (most - 23 * MIB)


def size_on(world: World, name: str, image: str) -> int:
    for one in world.nodes[name]["status"].get("images", []):
        if image in one["names"]:
            return int(one["sizeBytes"])
    return 0


# -- resources


def requested(pod: Object, resource: str, default: float) -> float:
    amount = pod["spec"]["containers"][0]["resources"].get("requests", {}).get(resource)
    return default if amount is None else float(parse(amount))


def least_allocated(world: World, pod: Object, name: str) -> float:
    """The mean of the free parts of cpu and memory; containers that say nothing count as small ones."""
    allocatable = world.nodes[name]["status"]["allocatable"]
    parts = []
    for resource, default in (("cpu", 0.1), ("memory", 200.0 * MIB)):
        size = float(parse(allocatable[resource]))
        if size:
            used = sum(requested(one, resource, default) for one in [*world.on(name), pod])
            parts.append(max(0.0, 1.0 - used / size))
    return 100.0 * sum(parts) / len(parts) if parts else 0.0


def balance(world: World, pod: Object, name: str) -> float:
    """75, and half of what the pod makes more or less even; nothing for a pod that asks for neither cpu nor memory."""
    if not any(requested(pod, resource, 0.0) for resource in ("cpu", "memory")):
        return 0.0
    return 75.0 + (evenness(world, name, [*world.on(name), pod]) - evenness(world, name, world.on(name))) / 2


def evenness(world: World, name: str, pods: list[Object]) -> float:
    allocatable = world.nodes[name]["status"]["allocatable"]
    parts = []
    for resource in ("cpu", "memory"):
        size = float(parse(allocatable[resource]))
        if size:
            parts.append(min(1.0, sum(requested(one, resource, 0.0) for one in pods) / size))
    mean = sum(parts) / max(len(parts), 1)
    return 100.0 * (1.0 - (sum((part - mean) ** 2 for part in parts) / max(len(parts), 1)) ** 0.5)


# -- other pods


def soft_constraints(pod: Object) -> tuple[list[Object], bool]:
    """The pod's own, or the system's for the pods of one owner; and whether they are those."""
    given = pod["spec"].get("topologySpreadConstraints", [])
    if given or not pod["metadata"].get("ownerReferences"):
        return [one for one in given if one["whenUnsatisfiable"] == "ScheduleAnyway"], False
    defaults = [{"topologyKey": HOSTNAME, "maxSkew": 3}, {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 5}]
    return defaults, True


def counts(constraint: Object, pod: Object, other: Object) -> bool:
    if "labelSelector" not in constraint:
        return owner(pod) == owner(other)
    return selects(constraint, pod, other)


def owner(pod: Object) -> str:
    return str(next((one["uid"] for one in pod["metadata"].get("ownerReferences", [])), ""))


def spreading(world: World, pod: Object, fitting: list[str]) -> Scores:
    """Few pods of the group in the node's domains; a domain of many kinds weighs more (logarithm of their number)."""
    constraints, is_default = soft_constraints(pod)
    if not constraints:
        return dict.fromkeys(fitting, 0.0)
    keys = [one["topologyKey"] for one in constraints]
    compared = [name for name in fitting if is_default or all(key in labels_of(world, name) for key in keys)]
    raw = dict.fromkeys(compared, 0.0)
    for constraint in constraints:
        key = constraint["topologyKey"]
        domains = {labels_of(world, name)[key] for name in compared if key in labels_of(world, name)}
        size = len(compared) if key == HOSTNAME else len(domains)
        for name in compared:
            here = labels_of(world, name)
            if key not in here:
                continue
            matching = 0
            for node in world.nodes:
                there = labels_of(world, node)
                same = node == name if key == HOSTNAME else there.get(key) == here[key]
                if not same or (key != HOSTNAME and not included(world, pod, node, constraint, keys, is_default)):
                    continue
                matching += sum(counts(constraint, pod, other) for other in world.on(node))
            raw[name] += matching * log(size + 2) + constraint["maxSkew"] - 1
    most, least = max(raw.values(), default=0.0), min(raw.values(), default=0.0)
    scores = {name: 100.0 * (most + least - value) / most if most else 100.0 for name, value in raw.items()}
    return {name: scores.get(name, 0.0) for name in fitting}


def included(world: World, pod: Object, node: str, constraint: Object, keys: list[str], is_default: bool) -> bool:
    """Whether the pods of a node count (nodeAffinityPolicy, nodeTaintsPolicy)."""
    if not is_default and any(key not in labels_of(world, node) for key in keys):
        return False
    return oracle.included(pod, world.nodes[node], constraint)


def company(world: World, pod: Object, fitting: list[str]) -> Scores:
    """Weights of preferences between the pod and those in the node's domains, both ways; least 0, most 100."""
    raw: Counter[str] = Counter()
    for name in fitting:
        here = labels_of(world, name)
        for other, node in world.pods.values():
            if node not in world.nodes:
                continue
            there = labels_of(world, node)
            for carrier, about in ((pod, other), (other, pod)):
                for term, weight in weighted(carrier, required_counts=carrier is other):
                    key = term["topologyKey"]
                    if key in here and here[key] == there.get(key) and term_means(world, carrier, term, about):
                        raw[name] += weight
    most, least = max((raw[n] for n in fitting), default=0), min((raw[n] for n in fitting), default=0)
    return {name: 100.0 * (raw[name] - least) / (most - least) if most > least else 0.0 for name in fitting}


def weighted(carrier: Object, required_counts: bool) -> list[tuple[Object, int]]:
    """Preferred terms with their weights; required affinity of a pod that runs counts 1."""
    rules = carrier["spec"].get("affinity", {})
    found = []
    for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
        found += [(one["podAffinityTerm"], sign * one["weight"]) for one in rules.get(kind, {}).get(PREFERRED, [])]
    if required_counts:
        found += [(term, 1) for term in rules.get("podAffinity", {}).get(REQUIRED, [])]
    return found
