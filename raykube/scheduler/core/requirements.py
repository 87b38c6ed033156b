"""What a pod asks of a node. Pods that ask for the same share one `Requirements` object: a class.

The class key is made of the raw parts of the spec that matter, so that a pod of a known class costs one JSON dump and
one dict look-up, and is not parsed. spec.nodeName is no part of it: a pod that has one is never scheduled (that is
all there is to upstream's NodeName filter), and a pod keeps its class when it is bound. Profiles whose arguments
differ read the same spec differently, so the profile's name is a part.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from raykube.api import inputs
from raykube.api.inputs import Input
from raykube.api.selectors import LabelSelector
from raykube.scheduler.core.arguments import DEFAULTS, Arguments
from raykube.scheduler.core.requests import CPU, MEMORY, nonzero, pod_requests

Object = dict[str, Any]

HOSTNAME = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


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


@dataclass(frozen=True, slots=True)
class PodTerm:
    """An (anti-)affinity term: pods that the selector matches, in namespaces by name or by label."""

    topology_key: str
    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = self.topology_key, self.selector, self.namespaces, self.namespace_selector
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """Computed once: every pod that comes or goes is looked up by its terms."""
        return self._hash

    def matches(self, namespace: str, namespace_labels: dict[str, str], labels: dict[str, str]) -> bool:
        meant = namespace in self.namespaces or self.namespace_selector.matches(namespace_labels)
        return meant and self.selector.matches(labels)


class WeightedTerm(NamedTuple):
    """A preferred (anti-)affinity term; of anti-affinity the weight is negative."""

    term: PodTerm
    weight: int


@dataclass(frozen=True, eq=False, slots=True)
class Requirements:
    """What all pods of a class ask for."""

    key: bytes
    profile: str
    namespace: str
    resources: tuple[tuple[str, int], ...]  # without zero amounts
    unasked: tuple[tuple[str, int], ...]  # cpu and memory that it counts for in scores without asking for them
    best_effort: bool
    node_selector: tuple[tuple[str, str], ...]
    affinity_terms: tuple[Term, ...] | None  # any must match; None: no required affinity
    added_terms: tuple[Term, ...] | None  # the same, by the profile
    preferred_terms: tuple[PreferredTerm, ...]
    tolerations: tuple[Toleration, ...]
    host_ports: tuple[HostPort, ...]
    hard: tuple[Constraint, ...]
    soft: tuple[Constraint, ...]
    soft_is_default: bool
    pod_affinity: tuple[PodTerm, ...]
    pod_anti_affinity: tuple[PodTerm, ...]
    pod_preferences: tuple[WeightedTerm, ...]
    has_pod_terms: bool  # some of these three
    own_labels: dict[str, str]  # of a pod with affinity terms, which may look for pods like itself
    images: tuple[str, ...]  # of all containers and image volumes, with their tags
    inputs: tuple[Input, ...]  # what it reads, and where that lies
    never_preempts: bool
    wants_devices: bool  # names ResourceClaims


class RequirementsCache:
    """Requirements by class key; the least recently used are forgotten."""

    def __init__(self, size_max: int = 4096) -> None:
        self._known: OrderedDict[bytes, Requirements] = OrderedDict()
        self._size_max = size_max

    def of(self, pod: Object, owner: str, profile: str = "", arguments: Arguments = DEFAULTS) -> Requirements:
        spec = pod["spec"]
        key = class_key(pod, spec, owner, profile)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = parse(pod, owner, key, profile, arguments)
            if len(self._known) > self._size_max:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known


def class_key(pod: Object, spec: Object, owner: str, profile: str = "") -> bytes:
    metadata = pod["metadata"]
    constraints = spec.get("topologySpreadConstraints")
    affinity = spec.get("affinity")
    return orjson.dumps(
        (
            profile,
            metadata.get("namespace"),
            owner,
            [(c.get("image"), c.get("resources"), c.get("ports")) for c in spec["containers"]],
            [
                (c.get("image"), c.get("resources"), c.get("ports"), c.get("restartPolicy"))
                for c in spec.get("initContainers") or ()
            ],
            [volume["image"] for volume in spec.get("volumes") or () if "image" in volume],
            spec.get("resources"),
            spec.get("overhead"),
            spec.get("nodeSelector"),
            affinity and affinity.get("nodeAffinity"),
            spec.get("tolerations"),
            constraints and (constraints, metadata.get("labels")),
            affinity and _pod_affinity_key(affinity, metadata),
            spec.get("preemptionPolicy"),
            bool(spec.get("resourceClaims")),
            (metadata.get("annotations") or {}).get(inputs.ANNOTATION),
        ),
        option=orjson.OPT_SORT_KEYS,
    )


def _pod_affinity_key(affinity: Object, metadata: Object) -> tuple[Any, ...] | None:
    rules = [affinity.get(kind) for kind in ("podAffinity", "podAntiAffinity")]
    return (*rules, metadata.get("labels")) if any(rules) else None


def parse(
    pod: Object, owner: str, key: bytes = b"", profile: str = "", arguments: Arguments = DEFAULTS
) -> Requirements:
    metadata, spec = pod["metadata"], pod["spec"]
    namespace = metadata.get("namespace", "")
    resources = pod_requests(spec)
    labels = metadata.get("labels") or {}
    affinity = spec.get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    near = tuple(_pod_terms(affinity.get("podAffinity"), namespace, labels))
    away = tuple(_pod_terms(affinity.get("podAntiAffinity"), namespace, labels))
    preferences = (
        *_pod_preferences(affinity.get("podAffinity"), 1, namespace, labels),
        *_pod_preferences(affinity.get("podAntiAffinity"), -1, namespace, labels),
    )
    constraints = tuple(_constraints(spec, labels))
    is_default = bool(owner) and not constraints
    if is_default:
        constraints = tuple(
            Constraint(key, skew, hard, None, owner, 1, True, False, True)
            for key, skew, hard in arguments.default_constraints
        )
    return Requirements(
        key=key,
        profile=profile,
        namespace=namespace,
        resources=tuple((name, amount) for name, amount in resources.items() if amount > 0),
        unasked=tuple(
            (name, counted - resources.get(name, 0))
            for name, counted in zip((CPU, MEMORY), nonzero(spec), strict=True)
            if counted > resources.get(name, 0)
        ),
        best_effort=not (resources.get(CPU) or resources.get(MEMORY)),
        node_selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        affinity_terms=_required(node_affinity),
        added_terms=_required(arguments.added_affinity),
        preferred_terms=(*_preferred(node_affinity), *_preferred(arguments.added_affinity)),
        tolerations=tuple(map(_toleration, spec.get("tolerations") or ())),
        host_ports=tuple(_host_ports(spec)),
        hard=tuple(constraint for constraint in constraints if constraint.hard),
        soft=tuple(constraint for constraint in constraints if not constraint.hard),
        soft_is_default=is_default and arguments.system_defaulted,
        pod_affinity=near,
        pod_anti_affinity=away,
        pod_preferences=preferences,
        has_pod_terms=bool(near or away or preferences),
        own_labels=labels if near else {},
        images=tuple(map(with_tag, _images(spec))),
        inputs=inputs.read(pod),
        never_preempts=spec.get("preemptionPolicy") == "Never",
        wants_devices=bool(spec.get("resourceClaims")),
    )


def with_tag(image: str) -> str:
    """An image's name as nodes report it: one without tag and digest means the latest."""
    return image if image.rfind(":") > image.rfind("/") else f"{image}:latest"


def _images(spec: Object) -> Iterable[str]:
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        if container.get("image"):
            yield container["image"]
    for volume in spec.get("volumes") or ():
        if (volume.get("image") or {}).get("reference"):
            yield volume["image"]["reference"]


def _required(node_affinity: Object) -> tuple[Term, ...] | None:
    required = node_affinity.get(REQUIRED)
    return None if required is None else tuple(map(term_of, required.get("nodeSelectorTerms") or ()))


def _preferred(node_affinity: Object) -> Iterable[PreferredTerm]:
    for item in node_affinity.get(PREFERRED) or ():
        if item.get("weight"):
            yield PreferredTerm(int(item["weight"]), term_of(item.get("preference") or {}))


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
        yield _pod_term(item, namespace, labels)


def _pod_preferences(rules: Object | None, sign: int, namespace: str, labels: dict[str, str]) -> Iterable[WeightedTerm]:
    for item in (rules or {}).get(PREFERRED) or ():
        if item.get("weight"):
            yield WeightedTerm(_pod_term(item["podAffinityTerm"], namespace, labels), sign * int(item["weight"]))


def _pod_term(item: Object, namespace: str, labels: dict[str, str]) -> PodTerm:
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
    return PodTerm(
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
