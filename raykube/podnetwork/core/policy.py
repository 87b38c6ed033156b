"""A NetworkPolicy, parsed: whom it selects, and whom its rules let in or out. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from raykube.api.label_selectors import LabelSelector
from raykube.podnetwork.core.endpoints import Endpoint, Object

INGRESS, EGRESS = "ingress", "egress"


@dataclass(frozen=True, slots=True)
class PodPeers:
    """Pods of namespaces: those whose labels `namespaces` matches, or one by name."""

    namespace: str
    namespaces: LabelSelector | None
    pods: LabelSelector

    def matches(self, pod: Endpoint, namespace_labels: Mapping[str, str]) -> bool:
        if self.namespaces is None:
            return pod.namespace == self.namespace and self.pods.matches(pod.labels)
        return self.namespaces.matches(namespace_labels) and self.pods.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class Block:
    """An ipBlock."""

    cidr: str
    excepted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """`first` None: every port of the protocol. `name`: a container port's, looked up in each receiving pod."""

    protocol: str
    first: int | None = None
    last: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Allowance:
    """One ingress or egress rule. `peers` None: everybody; `ports` None: every port."""

    direction: str
    pods: tuple[PodPeers, ...]
    blocks: tuple[Block, ...]
    anybody: bool
    ports: tuple[Port, ...] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy, parsed."""

    namespace: str
    selector: LabelSelector
    directions: frozenset[str]
    allowances: tuple[Allowance, ...]

    def selects(self, pod: Endpoint) -> bool:
        return pod.namespace == self.namespace and self.selector.matches(pod.labels)


def _selector(value: Object | None) -> LabelSelector:
    return LabelSelector.from_object(value or {})


def _ports(listed: Iterable[Object] | None) -> tuple[Port, ...] | None:
    if not listed:
        return None
    found = []
    for one in listed:
        protocol, port = str(one.get("protocol") or "TCP").lower(), one.get("port")
        if port is None:
            found.append(Port(protocol))
        elif isinstance(port, int):
            found.append(Port(protocol, port, int(one.get("endPort") or port)))
        else:
            found.append(Port(protocol, name=str(port)))
    return tuple(found)


def _allowance(direction: str, namespace: str, rule: Object) -> Allowance:
    peers = rule.get("from" if direction == INGRESS else "to")
    pods, blocks = [], []
    for peer in peers or ():
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            excepted = tuple(str(ip_network(text, strict=False)) for text in block.get("except") or ())
            blocks.append(Block(str(ip_network(block["cidr"], strict=False)), excepted))
        else:
            among = peer.get("namespaceSelector")
            pods.append(
                PodPeers(namespace, None if among is None else _selector(among), _selector(peer.get("podSelector")))
            )
    return Allowance(direction, tuple(pods), tuple(blocks), not peers, _ports(rule.get("ports")))


def parse(policy: Object) -> Policy:
    """Raises ValueError for one that validation should not have let in."""
    namespace, spec = policy["metadata"].get("namespace", ""), policy.get("spec") or {}
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    directions = frozenset(text.lower() for text in types)
    allowances = tuple(
        _allowance(direction, namespace, rule)
        for direction in (INGRESS, EGRESS)
        if direction in directions
        for rule in spec.get(direction) or ()
    )
    return Policy(namespace, _selector(spec.get("podSelector")), directions, allowances)
