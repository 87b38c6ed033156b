"""From a Service and its EndpointSlices to the rules of one node.

    Service 127.1.128.9:80 ─┐
    EndpointSlice a, b ─────┼─ compile ──►  {Frontend(127.1.128.9, 80, TCP): Rule(endpoints, affinity), …}
    node, its addresses ────┘

A *frontend* is an address that clients use: cluster IP, node port on each address of this node, external IP. A *rule*
says which endpoints serve it. Rules of upstream's that hold here:
- internalTrafficPolicy Local leaves this node's endpoints to the cluster IP, externalTrafficPolicy Local to the others;
  clients inside the cluster have all endpoints there nevertheless (`inside`), for they need no address preserved;
- loadBalancerSourceRanges are for the addresses of a load balancer alone;
- a frontend without endpoints keeps its rule, so that no other Service takes its address, but nobody serves it: a
  connection to it is refused at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from raykube.kubeproxy.core.addresses import canonical, is_port, is_v6
from raykube.kubeproxy.core.endpoints import Chosen, Endpoint, NodeFacts, Object, choose

__all__ = [
    "AFFINITY_S_DEFAULT", "CLUSTER_IP", "EXTERNAL_IP", "LOAD_BALANCER", "NODE_PORT", "PROTOCOLS",
    "Endpoint", "Frontend", "NodeFacts", "Object", "Rule", "ServiceKey",
    "compile_service", "service_of_slice", "slice_endpoints",
]  # fmt: skip

ServiceKey = tuple[str, str]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
AFFINITY_S_DEFAULT = 10800
PROTOCOLS = ("TCP", "UDP", "SCTP")

CLUSTER_IP, NODE_PORT, EXTERNAL_IP, LOAD_BALANCER = "cluster IP", "node port", "external IP", "load balancer's IP"


@dataclass(frozen=True, slots=True, order=True)
class Frontend:
    """An address that clients connect to."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who serves a frontend.

    `affinity_s`: how long a client stays with its endpoint; 0 means not at all. `inside`: the endpoints for clients of
    the cluster, where they are other ones. `source_ranges`: the networks that may connect; empty means all.
    """

    service: ServiceKey
    port_name: str
    kind: str
    endpoints: tuple[Endpoint, ...]
    affinity_s: int = 0
    inside: tuple[Endpoint, ...] | None = None
    source_ranges: tuple[str, ...] = ()

    @property
    def served(self) -> bool:
        """Whether somebody has an endpoint here."""
        return bool(self.endpoints or self.inside)


def service_of_slice(endpoint_slice: Object) -> ServiceKey | None:
    """The Service that an EndpointSlice belongs to."""
    metadata = endpoint_slice.get("metadata") or {}
    name = (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
    return (metadata.get("namespace", ""), name) if name else None


def _addresses(texts: Iterable[object]) -> list[str]:
    return [address for address in map(canonical, texts) if address is not None]


def cluster_ips_of(service: Object) -> list[str]:
    """The cluster IPs of a Service, of which it has none when it is headless or only a name."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return []
    return _addresses(spec.get("clusterIPs") or [spec.get("clusterIP")])


def _affinity_s(spec: Object) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(config.get("timeoutSeconds") or AFFINITY_S_DEFAULT)


def _source_ranges(spec: Object, v6: bool) -> tuple[str, ...]:
    """Those of a family. One that nobody can read becomes "": it lets nobody in, and is not no restriction."""
    found = []
    for text in spec.get("loadBalancerSourceRanges") or ():
        try:
            network = ip_network("" if "%" in text else text.strip(), strict=False)  # a scope may hold anything
        except ValueError:
            found.append("")
        else:
            if (network.version == 6) == v6:
                found.append(str(network))
    return tuple(dict.fromkeys(found))


def compile_service(service: Object, slices: Sequence[Object], node: NodeFacts) -> dict[Frontend, Rule]:
    """The rules of one Service on `node`."""
    metadata, spec = service.get("metadata") or {}, service.get("spec") or {}
    key = (metadata.get("namespace", ""), metadata.get("name", ""))
    cluster_ips = cluster_ips_of(service)
    if not cluster_ips:
        return {}
    affinity_s = _affinity_s(spec)
    families = {is_v6(ip) for ip in cluster_ips}
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    balanced = _addresses(item.get("ip") for item in ingress if item.get("ipMode") != "Proxy")
    external = _addresses(spec.get("externalIPs") or ())
    local_inside = spec.get("internalTrafficPolicy") == "Local"
    local_outside = spec.get("externalTrafficPolicy") == "Local"
    rules: dict[Frontend, Rule] = {}
    chosen: dict[tuple[str, str, bool], Chosen] = {}

    def add(kind: str, address: str, number: int, port: Object, ranges: tuple[str, ...] = ()) -> None:
        name, protocol, v6 = port.get("name") or "", port.get("protocol") or "TCP", is_v6(address)
        found = chosen.get((name, protocol, v6))
        if found is None:
            found = chosen[name, protocol, v6] = choose(slices, name, protocol, v6, node)
        frontend, inside = Frontend(address, number, protocol), None
        if kind == CLUSTER_IP:
            endpoints = found.local if local_inside else found.cluster
        else:
            endpoints, inside = (found.local, found.cluster) if local_outside else (found.cluster, None)
        rules.setdefault(frontend, Rule(key, name, kind, endpoints, affinity_s, inside, ranges))

    for port in spec.get("ports") or ():
        if (port.get("protocol") or "TCP") not in PROTOCOLS or not is_port(port.get("port")):
            continue
        for address in cluster_ips:
            add(CLUSTER_IP, address, port["port"], port)
        for address in balanced:
            if is_v6(address) in families:
                add(LOAD_BALANCER, address, port["port"], port, _source_ranges(spec, is_v6(address)))
        for address in external:
            if is_v6(address) in families:
                add(EXTERNAL_IP, address, port["port"], port)
        if is_port(port.get("nodePort")) and spec.get("type") in ("NodePort", "LoadBalancer"):
            for address in node.addresses:
                if is_v6(address) in families:
                    add(NODE_PORT, address, port["nodePort"], port)
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
