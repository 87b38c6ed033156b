"""What a pod asks of a node. Pods that ask for the same share one `Requirements` object: a class.

The class key is made of the raw parts of the spec that matter, so that a pod of a known class costs one JSON dump and
one dict look-up, and is not parsed. spec.nodeName is no part of it: a pod that has one is never scheduled (that is
all there is to upstream's NodeName filter), and a pod keeps its class when it is bound. cpu is counted in milli
units, everything else in whole units.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from raykube.api.quantity import milli, value
from raykube.api.selectors import LabelSelector

Object = dict[str, Any]

CPU, MEMORY, EPHEMERAL = "cpu", "memory", "ephemeral-storage"
# What a container without requests counts as in scores, so that empty pods spread too (upstream's util/pod_resources).
DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024

HOSTNAME = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ZONE = "topology.kubernetes.io/zone"


class Toleration(NamedTuple):
    key: str
    operator: str
    value: str
    effect: str


class Expression(NamedTuple):
    """One requirement on a node's label, or on its name when `field`."""

    key: str
    operator: str
    values: tuple[str, ...]
    field: bool


Term = tuple[Expression, ...]  # all must hold; an empty term matches nothing


class PreferredTerm(NamedTuple):
    weight: int
    term: Term


class HostPort(NamedTuple):
    ip: str
    protocol: str
    port: int


class Constraint(NamedTuple):
    """A topology spread constraint. `owner` is set instead of `selector` for the system's default ones."""

    topology_key: str
    max_skew: int
    hard: bool
    selector: LabelSelector | None
    owner: str
    min_domains: int
    honor_affinity: bool
    honor_taints: bool
    counts_itself: bool


class PodTerm(NamedTuple):
    """A required (anti-)affinity term: pods that the selector matches, in namespaces by name or by label."""

    topology_key: str
    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector

    def matches(self, namespace: str, namespace_labels: dict[str, str], labels: dict[str, str]) -> bool:
        meant = namespace in self.namespaces or self.namespace_selector.matches(namespace_labels)
        return meant and self.selector.matches(labels)


@dataclass(frozen=True, eq=False, slots=True)
class Requirements:
    """What all pods of a class ask for."""

    key: bytes
    namespace: str
    resources: tuple[tuple[str, int], ...]  # without zero amounts
    nonzero_cpu: int
    nonzero_memory: int
    best_effort: bool
    node_selector: tuple[tuple[str, str], ...]
    affinity_terms: tuple[Term, ...] | None  # any must match; None: no required affinity
    preferred_terms: tuple[PreferredTerm, ...]
    tolerations: tuple[Toleration, ...]
    host_ports: tuple[HostPort, ...]
    hard: tuple[Constraint, ...]
    soft: tuple[Constraint, ...]
    soft_is_default: bool
    pod_affinity: tuple[PodTerm, ...]
    pod_anti_affinity: tuple[PodTerm, ...]
    own_labels: dict[str, str]  # of a pod with affinity terms, which may look for pods like itself
    never_preempts: bool


class RequirementsCache:
    """Requirements by class key; the least recently used are forgotten."""

    def __init__(self, size_max: int = 4096) -> None:
        self._known: OrderedDict[bytes, Requirements] = OrderedDict()
        self._size_max = size_max

    def of(self, pod: Object, owner: str) -> Requirements:
        spec = pod["spec"]
        key = class_key(pod, spec, owner)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = parse(pod, owner, key)
            if len(self._known) > self._size_max:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known


def class_key(pod: Object, spec: Object, owner: str) -> bytes:
    metadata = pod["metadata"]
    constraints = spec.get("topologySpreadConstraints")
    affinity = spec.get("affinity")
    return orjson.dumps(
        (
            metadata.get("namespace"),
            owner,
            [(c.get("resources"), c.get("ports")) for c in spec["containers"]],
            [(c.get("resources"), c.get("ports"), c.get("restartPolicy")) for c in spec.get("initContainers") or ()],
            spec.get("resources"),
            spec.get("overhead"),
            spec.get("nodeSelector"),
            affinity and affinity.get("nodeAffinity"),
            spec.get("tolerations"),
            constraints and (constraints, metadata.get("labels")),
            affinity and _pod_affinity_key(affinity, metadata),
            spec.get("preemptionPolicy"),
        ),
        option=orjson.OPT_SORT_KEYS,
    )


def _pod_affinity_key(affinity: Object, metadata: Object) -> tuple[Any, ...] | None:
    required = [(affinity.get(kind) or {}).get(REQUIRED) for kind in ("podAffinity", "podAntiAffinity")]
    return (*required, metadata.get("labels")) if any(required) else None


def parse(pod: Object, owner: str, key: bytes = b"") -> Requirements:
    metadata, spec = pod["metadata"], pod["spec"]
    namespace = metadata.get("namespace", "")
    resources = pod_requests(spec)
    nonzero_cpu, nonzero_memory = _nonzero(spec)
    labels = metadata.get("labels") or {}
    affinity = spec.get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get(REQUIRED)
    near = tuple(_pod_terms(affinity.get("podAffinity"), namespace, labels))
    constraints = tuple(_constraints(spec, labels))
    defaults: tuple[Constraint, ...] = ()
    if owner and not constraints:
        defaults = (
            Constraint(HOSTNAME, 3, False, None, owner, 1, True, False, True),
            Constraint(ZONE, 5, False, None, owner, 1, True, False, True),
        )
    return Requirements(
        key=key,
        namespace=namespace,
        resources=tuple((name, amount) for name, amount in resources.items() if amount > 0),
        nonzero_cpu=nonzero_cpu,
        nonzero_memory=nonzero_memory,
        best_effort=not (resources.get(CPU) or resources.get(MEMORY)),
        node_selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        affinity_terms=None if required is None else tuple(map(term_of, required.get("nodeSelectorTerms") or ())),
        preferred_terms=tuple(
            PreferredTerm(int(item.get("weight", 0)), term_of(item.get("preference") or {}))
            for item in node_affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
            if item.get("weight")
        ),
        tolerations=tuple(map(_toleration, spec.get("tolerations") or ())),
        host_ports=tuple(_host_ports(spec)),
        hard=tuple(constraint for constraint in constraints if constraint.hard),
        soft=tuple(constraint for constraint in constraints if not constraint.hard) or defaults,
        soft_is_default=bool(defaults),
        pod_affinity=near,
        pod_anti_affinity=tuple(_pod_terms(affinity.get("podAntiAffinity"), namespace, labels)),
        own_labels=labels if near else {},
        never_preempts=spec.get("preemptionPolicy") == "Never",
    )


def amount(name: str, quantity: Any) -> int:
    return milli(quantity) if name == CPU else value(quantity)


def pod_requests(spec: Object) -> dict[str, int]:
    """What the pod needs at its worst moment: all containers and side-cars, or one init container and the side-cars
    before it, plus overhead; requests of the pod itself come first (upstream's component-helpers/resource)."""
    total: dict[str, int] = {}
    for container in spec["containers"]:
        _add(total, _requests(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, own)
            _add(total, own)
            moment = dict(sidecars)
        else:
            moment = dict(sidecars)
            _add(moment, own)
        for name, needed in moment.items():
            peak[name] = max(peak.get(name, 0), needed)
    for name, needed in peak.items():
        total[name] = max(total.get(name, 0), needed)
    total |= _requests(spec)
    for name, quantity in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, 0) + amount(name, quantity)
    return total


def _requests(container: Object) -> dict[str, int]:
    resources = container.get("resources") or {}
    requests = dict(resources.get("requests") or {})
    for name, quantity in (resources.get("limits") or {}).items():
        requests.setdefault(name, quantity)  # a limit without a request is a request too
    return {name: amount(name, quantity) for name, quantity in requests.items()}


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, needed in more.items():
        total[name] = total.get(name, 0) + needed


def _nonzero(spec: Object) -> tuple[int, int]:
    filled = []
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        own = _requests(container)
        requests = {CPU: f"{own.get(CPU) or DEFAULT_MILLI_CPU}m", MEMORY: own.get(MEMORY) or DEFAULT_MEMORY_BYTES}
        filled.append({"resources": {"requests": requests}, "restartPolicy": container.get("restartPolicy")})
    split = len(spec["containers"])
    parts = {"containers": filled[:split], "initContainers": filled[split:]}
    needed = pod_requests(parts | {key: spec[key] for key in ("resources", "overhead") if key in spec})
    return needed.get(CPU, 0), needed.get(MEMORY, 0)


def term_of(term: Object) -> Term:
    """A term of a NodeSelector."""
    return tuple(
        Expression(item.get("key", ""), item.get("operator", ""), tuple(item.get("values") or ()), is_field)
        for name, is_field in (("matchExpressions", False), ("matchFields", True))
        for item in term.get(name) or ()
    )


def _toleration(toleration: Object) -> Toleration:
    return Toleration(
        toleration.get("key") or "",
        toleration.get("operator") or "Equal",
        toleration.get("value") or "",
        toleration.get("effect") or "",
    )


def _host_ports(spec: Object) -> Iterable[HostPort]:
    sidecars = (c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always")
    for container in (*spec["containers"], *sidecars):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield HostPort(port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", port["hostPort"])


def _pod_terms(rules: Object | None, namespace: str, labels: dict[str, str]) -> Iterable[PodTerm]:
    for item in (rules or {}).get(REQUIRED) or ():
        chosen = item.get("labelSelector")
        if chosen is not None:
            # Only pods with this pod's value of the label, or with another one.
            expressions = [
                {"key": key, "operator": operator, "values": [labels[key]]}
                for name, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
                for key in item.get(name) or ()
                if key in labels
            ]
            chosen = dict(chosen) | {"matchExpressions": [*(chosen.get("matchExpressions") or ()), *expressions]}
        named, by_label = item.get("namespaces") or (), item.get("namespaceSelector")
        yield PodTerm(
            topology_key=item["topologyKey"],
            selector=LabelSelector.from_object(chosen),
            namespaces=frozenset(named) if named or by_label is not None else frozenset((namespace,)),
            namespace_selector=LabelSelector.from_object(by_label),
        )


def _constraints(spec: Object, labels: dict[str, str]) -> Iterable[Constraint]:
    for item in spec.get("topologySpreadConstraints") or ():
        chosen = dict(item.get("labelSelector") or {})
        # matchLabelKeys: only pods with this pod's values of these labels count (one revision of a Deployment).
        extra = {key: labels[key] for key in item.get("matchLabelKeys") or () if key in labels}
        if extra:
            chosen["matchLabels"] = (chosen.get("matchLabels") or {}) | extra
        selector = LabelSelector.from_object(chosen if item.get("labelSelector") is not None or extra else None)
        yield Constraint(
            topology_key=item["topologyKey"],
            max_skew=int(item["maxSkew"]),
            hard=item.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
            selector=selector,
            owner="",
            min_domains=int(item.get("minDomains") or 1),
            honor_affinity=item.get("nodeAffinityPolicy", "Honor") == "Honor",
            honor_taints=item.get("nodeTaintsPolicy", "Ignore") == "Honor",
            counts_itself=selector.matches(labels),
        )
