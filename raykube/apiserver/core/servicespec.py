"""What a Service's spec says about addresses, and what the server fills in before they are allocated."""

from dataclasses import dataclass, field

from raykube.apiserver.core.strategy import Object


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a Service occupies."""

    ips: frozenset[str] = field(default=frozenset())
    ports: frozenset[int] = field(default=frozenset())


def addresses(service: Object) -> Addresses:
    """The cluster IPs and node ports of a stored Service."""
    spec = service.get("spec") or {}
    ips = {ip for ip in (*(spec.get("clusterIPs") or ()), spec.get("clusterIP")) if ip and ip != "None"}
    ports = {entry["nodePort"] for entry in spec.get("ports") or () if entry.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        ports.add(spec["healthCheckNodePort"])
    return Addresses(frozenset(ips), frozenset(ports))


def wants_ip(spec: Object) -> bool:
    return spec.get("type") != "ExternalName" and not spec.get("clusterIP")


def has_ip(spec: Object) -> bool:
    return spec.get("type") != "ExternalName" and spec.get("clusterIP") not in (None, "", "None")


def wants_node_ports(spec: Object) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def complete(obj: Object, old: Object | None, family: str) -> None:
    """Fills in what does not depend on a choice: families, policies, and what an update leaves out."""
    spec = obj["spec"]
    kind = spec.setdefault("type", "ClusterIP")
    before = (old or {}).get("spec") or {}
    if kind == "ExternalName":
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            spec.pop(key, None)
        return
    if before.get("type") != "ExternalName":
        # An update that leaves the address out keeps it; `kubectl replace` does.
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(key) and before.get(key):
                spec[key] = before[key]
        _keep_node_ports(spec, before)
    if not spec.get("clusterIP") and spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    if not wants_node_ports(spec):
        _drop_node_ports(spec, before)
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    spec.setdefault("ipFamilies", [family])
    spec.setdefault("ipFamilyPolicy", "SingleStack")


def _keep_node_ports(spec: Object, before: Object) -> None:
    if not wants_node_ports(spec):
        return
    had = {
        (e.get("port"), e.get("protocol", "TCP")): e["nodePort"] for e in before.get("ports") or () if e.get("nodePort")
    }
    taken = {entry.get("nodePort") for entry in spec.get("ports") or ()}
    for entry in spec.get("ports") or ():
        port = had.get((entry.get("port"), entry.get("protocol", "TCP")))
        if not entry.get("nodePort") and port and port not in taken:
            entry["nodePort"] = port
            taken.add(port)


def _drop_node_ports(spec: Object, before: Object) -> None:
    """A Service that becomes ClusterIP gives up the node ports it had."""
    had = {entry.get("nodePort") for entry in before.get("ports") or ()}
    for entry in spec.get("ports") or ():
        if entry.get("nodePort") in had:
            entry.pop("nodePort", None)
    spec.pop("externalTrafficPolicy", None)
