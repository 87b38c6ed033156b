"""Which endpoints of a service port get traffic on one node, from its EndpointSlices.

Upstream's rules: ready endpoints, or, when there is none, those that still serve while they terminate. The node or zone
hints of the slices narrow the ready ones, if every one of them has a hint and one is for here. *Local* endpoints are
those of this node, chosen the same way among themselves and without hints.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raykube.kubeproxy.core.addresses import canonical, is_port, is_v6

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a connection may go: a port of a pod, and the node that the pod is on ("": unknown)."""

    address: str
    port: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What rules depend on: the node's name, its zone ("": unknown), and the addresses that serve node ports."""

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The endpoints of one service port, sorted: of the whole cluster, and of this node."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]


@dataclass(slots=True)
class _Candidate:
    ready: bool
    nodes: frozenset[str] = frozenset()  # hints
    zones: frozenset[str] = frozenset()


def _candidates(slices: Iterable[Object], port_name: str, protocol: str, v6: bool) -> dict[Endpoint, _Candidate]:
    found: dict[Endpoint, _Candidate] = {}
    for endpoint_slice in slices:
        if endpoint_slice.get("addressType") == "FQDN" or (endpoint_slice.get("addressType") == "IPv6") != v6:
            continue
        for port in endpoint_slice.get("ports") or ():
            if (port.get("name") or "") != port_name or (port.get("protocol") or "TCP") != protocol:
                continue
            if is_port(number := port.get("port")):
                for endpoint in endpoint_slice.get("endpoints") or ():
                    _add(found, endpoint, number, v6)
    return found


def _add(found: dict[Endpoint, _Candidate], endpoint: Object, port: int, v6: bool) -> None:
    conditions = endpoint.get("conditions") or {}
    ready = conditions.get("ready") is not False
    addresses = endpoint.get("addresses")
    if not addresses or not (ready or (conditions.get("serving") and conditions.get("terminating"))):
        return
    # Upstream's consumers take the first address: the others name the same endpoint.
    address = canonical(addresses[0])
    if address is None or is_v6(address) != v6:
        return
    key = Endpoint(address, port, endpoint.get("nodeName") or "")
    known = found.get(key)
    if known is not None and (known.ready or not ready):
        return  # two slices name it while one takes over from the other
    candidate = found[key] = _Candidate(ready)
    if hints := endpoint.get("hints"):
        candidate.nodes = frozenset(hint.get("name", "") for hint in hints.get("forNodes") or ())
        candidate.zones = frozenset(hint.get("name", "") for hint in hints.get("forZones") or ())


def choose(slices: Iterable[Object], port_name: str, protocol: str, v6: bool, node: NodeFacts) -> Chosen:
    """The endpoints of a port, by its name and protocol."""
    found = _candidates(slices, port_name, protocol, v6)
    ready = {endpoint: candidate for endpoint, candidate in found.items() if candidate.ready}
    local = [endpoint for endpoint in ready if endpoint.node == node.name]
    if not local:
        local = [endpoint for endpoint in found if endpoint.node == node.name]
    return Chosen(tuple(sorted(_near(ready, node) or found)), tuple(sorted(local)))


def _near(ready: dict[Endpoint, _Candidate], node: NodeFacts) -> Iterable[Endpoint]:
    candidates = ready.values()
    if all(each.nodes for each in candidates) and any(node.name in each.nodes for each in candidates):
        return [endpoint for endpoint, each in ready.items() if node.name in each.nodes]
    if node.zone and all(each.zones for each in candidates) and any(node.zone in each.zones for each in candidates):
        return [endpoint for endpoint, each in ready.items() if node.zone in each.zones]
    return ready
