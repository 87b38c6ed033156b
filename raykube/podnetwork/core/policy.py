"""A NetworkPolicy, parsed: whom it selects, and whom its rules let in or out. Pure.

What is kept of an object is checked and written in one way here, for a rule is a line of text for a program that runs
as root. A rule that cannot be read lets nobody through; its policy still isolates whom it selects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from raykube.api.label_selectors import LabelSelector
from raykube.podnetwork.core.endpoints import PROTOCOLS, Endpoint, Object, is_port

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
    """A NetworkPolicy, parsed. `flaws`: why rules of it were left out."""

    namespace: str
    selector: LabelSelector
    directions: frozenset[str]
    allowances: tuple[Allowance, ...]
    flaws: tuple[str, ...] = ()

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
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r} is not known")
        if port is None:
            found.append(Port(protocol))
        elif isinstance(port, int):
            last = one.get("endPort") or port
            if not (is_port(port) and is_port(last) and port <= last):
                raise ValueError(f"ports {port} to {last} are no range")
            found.append(Port(protocol, port, last))
        else:
            found.append(Port(protocol, name=str(port)))
    return tuple(found)


def _network(text: str) -> IPv4Network | IPv6Network:
    if "%" in text:
        raise ValueError(f"{text!r} is no network")
    return ip_network(text, strict=False)


def _block(block: Object) -> Block:
    whole = _network(block["cidr"])
    parts = [_network(text) for text in block.get("except") or ()]
    if any(part.version != whole.version for part in parts):
        raise ValueError(f"not every exception is in {whole}")
    # nft refuses ranges that overlap.
    excepted = collapse_addresses(parts)  # type: ignore[type-var]
    return Block(str(whole), tuple(map(str, excepted)))


def _allowance(direction: str, namespace: str, rule: Object) -> Allowance:
    peers = rule.get("from" if direction == INGRESS else "to")
    pods, blocks = [], []
    for peer in peers or ():
        if "ipBlock" in peer:
            blocks.append(_block(peer["ipBlock"]))
        else:
            among = peer.get("namespaceSelector")
            pods.append(
                PodPeers(namespace, None if among is None else _selector(among), _selector(peer.get("podSelector")))
            )
    return Allowance(direction, tuple(pods), tuple(blocks), not peers, _ports(rule.get("ports")))


def parse(policy: Object) -> Policy:
    """Never fails: what cannot be read of it is among its flaws, and allows nothing."""
    namespace, spec = policy["metadata"].get("namespace", ""), policy.get("spec") or {}
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    directions = frozenset(str(text).lower() for text in types) & {INGRESS, EGRESS}
    allowances, flaws = [], []
    for direction in sorted(directions):
        for index, rule in enumerate(spec.get(direction) or ()):
            try:
                allowances.append(_allowance(direction, namespace, rule))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                flaws.append(f"spec.{direction}[{index}]: {error}")
    try:
        selector = _selector(spec.get("podSelector"))
    except ValueError as error:
        flaws.append(f"spec.podSelector: {error}")
        selector = _selector({})  # whom it means is not known: everybody is isolated
    return Policy(namespace, selector, directions, tuple(allowances), tuple(flaws))
