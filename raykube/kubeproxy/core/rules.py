"""From a Service and its EndpointSlices to the rules of one node.

    Service 127.1.128.9:80 ─┐
    EndpointSlice a, b ─────┼─ compile ──►  {Frontend(127.1.128.9, 80, TCP): Rule(endpoints, affinity), …}
    node, its addresses ────┘

A *frontend* is an address that clients use: cluster IP, node port on each address of this node, external IP. A *rule*
says which endpoints serve it. Rules of upstream's that hold here:
- ready endpoints only; when there is none, those that still serve while they terminate;
- internalTrafficPolicy and externalTrafficPolicy Local leave this node's endpoints;
- a frontend without endpoints keeps its rule, so that no other Service takes its address, but nobody listens there: a
  connection to it is refused at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
ServiceKey = tuple[str, str]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
AFFINITY_S_DEFAULT = 10800
PROTOCOLS = ("TCP", "UDP")

CLUSTER_IP, NODE_PORT, EXTERNAL_IP = "cluster IP", "node port", "external IP"


@dataclass(frozen=True, slots=True, order=True)
class Frontend:
    """An address that clients connect to."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a connection may go: a port of a pod, and the node that the pod is on ("": unknown)."""

    address: str
    port: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who serves a frontend. `affinity_s`: how long a client stays with its endpoint; 0 means not at all."""

    service: ServiceKey
    port_name: str
    kind: str
    endpoints: tuple[Endpoint, ...]
    affinity_s: int = 0


def service_of_slice(endpoint_slice: Object) -> ServiceKey | None:
    """The Service that an EndpointSlice belongs to."""
    metadata = endpoint_slice.get("metadata") or {}
    name = (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
    return (metadata.get("namespace", ""), name) if name else None


def _is_v6(address: str) -> bool:
    return ":" in address


def _port_endpoints(slices: Iterable[Object], port_name: str, protocol: str, v6: bool) -> tuple[Endpoint, ...]:
    """The endpoints of one service port that get traffic, sorted."""
    ready: set[Endpoint] = set()
    leaving: set[Endpoint] = set()
    for endpoint_slice in slices:
        if (endpoint_slice.get("addressType") == "IPv6") != v6 or endpoint_slice.get("addressType") == "FQDN":
            continue
        for port in endpoint_slice.get("ports") or ():
            if (port.get("name") or "") != port_name or (port.get("protocol") or "TCP") != protocol:
                continue
            number = port.get("port")
            if not number:
                continue
            for endpoint in endpoint_slice.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                is_ready = conditions.get("ready") is not False
                serving = conditions.get("serving")
                found = ready if is_ready else leaving if serving and conditions.get("terminating") else None
                if found is not None:
                    # Upstream's consumers take the first address: the others name the same endpoint.
                    for address in (endpoint.get("addresses") or ())[:1]:
                        found.add(Endpoint(address, number, endpoint.get("nodeName") or ""))
    return tuple(sorted(ready or leaving))


def compile_service(
    service: Object, slices: Sequence[Object], node: str, node_addresses: Sequence[str]
) -> dict[Frontend, Rule]:
    """The rules of one Service on `node`; `node_addresses` are those that node ports are served on."""
    metadata, spec = service.get("metadata") or {}, service.get("spec") or {}
    key = (metadata.get("namespace", ""), metadata.get("name", ""))
    if spec.get("type") == "ExternalName":
        return {}
    cluster_ips = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    if not cluster_ips:
        return {}
    affinity_s = 0
    if spec.get("sessionAffinity") == "ClientIP":
        config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity_s = config.get("timeoutSeconds") or AFFINITY_S_DEFAULT
    families = {_is_v6(ip) for ip in cluster_ips}
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    external = [
        *(spec.get("externalIPs") or ()),
        *(item["ip"] for item in ingress if item.get("ip") and item.get("ipMode") != "Proxy"),
    ]
    local_inside = spec.get("internalTrafficPolicy") == "Local"
    local_outside = spec.get("externalTrafficPolicy") == "Local"

    rules: dict[Frontend, Rule] = {}

    def add(kind: str, address: str, number: int, port: Object, local: bool) -> None:
        protocol = port.get("protocol") or "TCP"
        endpoints = _port_endpoints(slices, port.get("name") or "", protocol, _is_v6(address))
        if local:
            endpoints = tuple(endpoint for endpoint in endpoints if endpoint.node == node)
        frontend = Frontend(address, number, protocol)
        rules.setdefault(frontend, Rule(key, port.get("name") or "", kind, endpoints, affinity_s))

    for port in spec.get("ports") or ():
        if (port.get("protocol") or "TCP") not in PROTOCOLS:
            continue
        for address in cluster_ips:
            add(CLUSTER_IP, address, port["port"], port, local_inside)
        for address in external:
            if _is_v6(address) in families:
                add(EXTERNAL_IP, address, port["port"], port, local_outside)
        if port.get("nodePort") and spec.get("type") in ("NodePort", "LoadBalancer"):
            for address in node_addresses:
                if _is_v6(address) in families:
                    add(NODE_PORT, address, port["nodePort"], port, local_outside)
    return rules


def slice_endpoints(endpoint_slice: Object, node: str) -> set[tuple[str, int]]:
    """The (address, TCP port) pairs of a slice that are on `node`, ready or not: what its relay may connect to."""
    ports = [
        port["port"]
        for port in endpoint_slice.get("ports") or ()
        if port.get("port") and (port.get("protocol") or "TCP") == "TCP"
    ]
    return {
        (address, port)
        for endpoint in endpoint_slice.get("endpoints") or ()
        if endpoint.get("nodeName") == node
        for address in endpoint.get("addresses") or ()
        for port in ports
    }
