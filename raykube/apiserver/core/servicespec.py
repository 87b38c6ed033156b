"""What a Service's spec says about addresses and ports: which it occupies, which it wants, which an update keeps."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from raykube.api.validation.service import is_exposed, needs_health_check

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a Service occupies."""

    ips: frozenset[str] = field(default=frozenset())
    ports: frozenset[int] = field(default=frozenset())


def canonical(ip: str) -> str:
    """One text for each address: IPv6 has many."""
    return str(ip_address(ip)) if ":" in ip else ip


def addresses(service: Object) -> Addresses:
    """The cluster IPs and node ports of a stored Service."""
    spec = service.get("spec") or {}
    ips = {canonical(ip) for ip in (*(spec.get("clusterIPs") or ()), spec.get("clusterIP")) if ip and ip != "None"}
    ports = _node_ports(spec)
    if spec.get("healthCheckNodePort"):
        ports.add(spec["healthCheckNodePort"])
    return Addresses(frozenset(ips), frozenset(ports))


def _node_ports(spec: Object) -> set[int]:
    return {entry["nodePort"] for entry in spec.get("ports") or () if entry.get("nodePort")}


def needs_ip(spec: Object) -> bool:
    """Whether it has cluster IPs, or "None" in their place."""
    return spec.get("type") != "ExternalName"


def needs_node_ports(spec: Object) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def draws_node_ports(spec: Object) -> bool:
    """Whether it gets node ports that it does not ask for by number."""
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def prepare(obj: Object) -> None:
    """A new Service: who only knows clusterIP means clusterIPs, too."""
    spec = obj["spec"]
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def keep(obj: Object, old: Object) -> None:
    """A changed Service: what it leaves out that was allocated it means to keep (`kubectl replace` does), and what its
    new type has no use for goes, unless the client changed that as well.
    """
    spec, before = obj.setdefault("spec", {}), old.get("spec") or {}
    _keep_allocated(spec, before)
    _match_cluster_ips(spec, before)
    _drop_unused(spec, before)
    if spec.get("type") != "LoadBalancer" and (obj.get("status") or {}).get("loadBalancer"):
        obj["status"] = obj["status"] | {"loadBalancer": {}}


def _keep_allocated(spec: Object, before: Object) -> None:
    if needs_ip(spec) and needs_ip(before):
        if not spec.get("clusterIP") and before.get("clusterIP"):
            spec["clusterIP"] = before["clusterIP"]
        if not spec.get("clusterIPs") and spec.get("clusterIP") == before.get("clusterIP") and before.get("clusterIPs"):
            spec["clusterIPs"] = list(before["clusterIPs"])
    if needs_node_ports(spec) and needs_node_ports(before):
        taken = _node_ports(spec) & _node_ports(before)
        had = {entry.get("name") or "": entry.get("nodePort") for entry in before.get("ports") or ()}
        for entry in spec.get("ports") or ():
            port = had.get(entry.get("name") or "")
            if not entry.get("nodePort") and port and port not in taken:
                entry["nodePort"] = port
    if needs_health_check(spec) and needs_health_check(before) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = before["healthCheckNodePort"]


def _match_cluster_ips(spec: Object, before: Object) -> None:
    """Who changed clusterIP and left clusterIPs as it was does not know of the other."""
    ip, ips = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    if ip == (before.get("clusterIP") or "") or ips != (before.get("clusterIPs") or []):
        return
    if ip:
        spec["clusterIPs"] = [ip]
    else:
        spec.pop("clusterIPs", None)


def _drop_unused(spec: Object, before: Object) -> None:
    if needs_ip(before) and not needs_ip(spec):
        if _same(spec, before, "clusterIP") and _same(spec, before, "clusterIPs"):
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
        _drop(spec, before, "ipFamilies")
        _drop(spec, before, "ipFamilyPolicy")
    if needs_node_ports(before) and not needs_node_ports(spec) and _node_ports(spec) <= _node_ports(before):
        for entry in spec.get("ports") or ():
            entry.pop("nodePort", None)
    if needs_health_check(before) and not needs_health_check(spec):
        _drop(spec, before, "healthCheckNodePort")
    if before.get("type") == "LoadBalancer" != spec.get("type"):
        _drop(spec, before, "allocateLoadBalancerNodePorts")
        _drop(spec, before, "loadBalancerClass")
    if is_exposed(before) and not is_exposed(spec):
        _drop(spec, before, "externalTrafficPolicy")


def _same(spec: Object, before: Object, name: str) -> bool:
    return (spec.get(name) or None) == (before.get(name) or None)


def _drop(spec: Object, before: Object, name: str) -> None:
    if spec.get(name) == before.get(name):
        spec.pop(name, None)
