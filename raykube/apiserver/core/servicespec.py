"""What a Service's spec says about addresses, and what the server fills in before they are allocated."""

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


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


def keep(obj: Object, old: Object) -> None:
    """An update that leaves an allocated address or port out means to keep it; `kubectl replace` does.

    What a new type has no use for goes.
    """
    spec, before = obj.get("spec") or {}, old.get("spec") or {}
    if not wants_node_ports(spec):
        _drop_node_ports(spec, before)
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return
    if not spec.get("clusterIP") and not spec.get("clusterIPs"):
        for key in ("clusterIP", "clusterIPs"):
            if before.get(key):
                spec[key] = before[key]
    for key in ("ipFamilies", "ipFamilyPolicy"):
        if not spec.get(key) and before.get(key):
            spec[key] = before[key]
    _keep_node_ports(spec, before)


def complete(obj: Object, family: str) -> None:
    """Fills in what does not depend on a choice: families and policies."""
    spec = obj["spec"]
    kind = spec.setdefault("type", "ClusterIP")
    if kind == "ExternalName":
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            spec.pop(key, None)
        return
    if not spec.get("clusterIP") and spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]
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
    """A Service that is no NodePort any more gives up the ports that it had; others are an error of the client."""
    had = {entry.get("nodePort") for entry in before.get("ports") or ()}
    for entry in spec.get("ports") or ():
        if entry.get("nodePort") in had:
            entry.pop("nodePort", None)
    if spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
        spec.pop("externalTrafficPolicy", None)
