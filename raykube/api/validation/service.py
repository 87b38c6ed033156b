"""Services, by upstream's ValidateService. `loopback`: whether addresses in 127.0.0.0/8 are ones like all others.

`check_cluster_ips` is for whoever fills in families, too: what it refuses cannot be completed.
"""

from typing import Any

from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, not_supported, required
from raykube.api.labels import key_errors
from raykube.api.validation.endpoints import check_endpoint_ip
from raykube.api.validation.metadata import check_labels
from raykube.api.validation.names import IMMUTABLE, dns_label, dns_subdomain, is_ip, port_number
from raykube.api.validation.values import (
    PROTOCOLS,
    check_choice,
    check_choice_if_set,
    check_cidr,
    check_ip,
    check_port,
    check_text,
)

Object = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_FAMILIES = ("IPv4", "IPv6")
_FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_POLICIES = ("Cluster", "Local")
_AFFINITY_S_MAX = 86400
_KUBELET_PORT = 10250
_BALANCERS_ONLY = "may only be used when `type` is 'LoadBalancer'"
_NO_EXTERNAL_NAME = "may not be set for ExternalName services"
_ONCE = "may not change once set"
_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
HINTS_ANNOTATION, MODE_ANNOTATION = (
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
)


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIPs") == ["None"]


def is_exposed(spec: Object) -> bool:
    """Whether clients outside the cluster reach it."""
    kind = spec.get("type")
    return kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def needs_health_check(spec: Object) -> bool:
    """Whether load balancers ask each node if it has endpoints."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def check_service(obj: Object, *, loopback: bool) -> list[Cause]:
    spec = obj.get("spec") or {}
    annotations = obj["metadata"].get("annotations") or {}
    kind, ports = spec.get("type") or "", spec.get("ports") or []
    causes: list[Cause] = []
    mode, hints = annotations.get(MODE_ANNOTATION), annotations.get(HINTS_ANNOTATION)
    if mode is not None and hints is not None and mode != hints:
        text = f"must match annotations[{HINTS_ANNOTATION}] when both are specified"
        causes.append(invalid_value(f"metadata.annotations[{MODE_ANNOTATION}]", mode, text))
    if not ports and not is_headless(spec) and kind != "ExternalName":
        causes.append(required("spec.ports"))
    causes += _check_type(spec, kind, ports)
    causes += _check_ports(ports, kind)
    causes += check_labels(spec.get("selector"), "spec.selector")
    causes += _check_affinity(spec)
    causes += check_cluster_ips(spec)
    for index, address in enumerate(spec.get("externalIPs") or []):
        causes += check_endpoint_ip(address, f"spec.externalIPs[{index}]", loopback=loopback)
    causes += check_choice(kind, "spec.type", _TYPES)
    causes += _check_port_numbers(ports, kind)
    causes += _check_source_ranges(spec, kind, annotations)
    if spec.get("allocateLoadBalancerNodePorts") is not None and kind != "LoadBalancer":
        causes.append(forbidden_field("spec.allocateLoadBalancerNodePorts", _BALANCERS_ONLY))
    if kind == "LoadBalancer":
        causes += check_text(spec.get("loadBalancerClass"), "spec.loadBalancerClass", key_errors)
    elif spec.get("loadBalancerClass") is not None:
        causes.append(forbidden_field("spec.loadBalancerClass", _BALANCERS_ONLY))
    causes += _check_external_traffic(spec)
    causes += check_choice_if_set(spec.get("internalTrafficPolicy"), "spec.internalTrafficPolicy", _POLICIES)
    return causes + check_choice_if_set(spec.get("trafficDistribution"), "spec.trafficDistribution", _DISTRIBUTIONS)


def _check_type(spec: Object, kind: str, ports: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    if kind == "LoadBalancer":
        text = f"may not expose port {_KUBELET_PORT} externally since it is used by kubelet"
        causes += [
            invalid_value(f"spec.ports[{index}]", _KUBELET_PORT, text)
            for index, port in enumerate(ports)
            if port.get("port") == _KUBELET_PORT
        ]
    if kind in ("LoadBalancer", "NodePort") and is_headless(spec):
        causes.append(invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    elif kind == "ExternalName":
        causes += [
            forbidden_field(f"spec.{name}", _NO_EXTERNAL_NAME)
            for name in ("clusterIPs", "ipFamilies", "ipFamilyPolicy")
            if spec.get(name)
        ]
        name = (spec.get("externalName") or "").removesuffix(".")
        if not name:
            causes.append(required("spec.externalName"))
        causes += check_text(name, "spec.externalName", dns_subdomain)
    return causes


def _check_affinity(spec: Object) -> list[Cause]:
    causes = check_choice(spec.get("sessionAffinity"), "spec.sessionAffinity", ("ClientIP", "None"))
    timeout_s = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if spec.get("sessionAffinity") == "ClientIP" and timeout_s is not None and not 0 < timeout_s <= _AFFINITY_S_MAX:
        text = f"must be greater than 0 and less than {_AFFINITY_S_MAX}"
        causes.append(invalid_value("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout_s, text))
    return causes


def check_cluster_ips(spec: Object) -> list[Cause]:
    """clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy: each by itself, and to each other."""
    if spec.get("type") == "ExternalName":
        return []
    causes: list[Cause] = []
    ips, first, families = spec.get("clusterIPs") or [], spec.get("clusterIP") or "", spec.get("ipFamilies") or []
    if first and not ips:
        causes.append(required("spec.clusterIPs"))
    elif first and ips[0] != first:
        causes.append(invalid_value("spec.clusterIPs", ips, "first value must match `clusterIP`"))
    elif ips and not first:
        causes.append(invalid_value("spec.clusterIPs", ips, "must be empty when `clusterIP` is not specified"))
    for index, family in enumerate(families):
        causes += check_choice_if_set(family, f"spec.ipFamilies[{index}]", _FAMILIES)
        if family in families[:index]:
            causes.append(duplicate(f"spec.ipFamilies[{index}]", family))
    causes += check_choice_if_set(spec.get("ipFamilyPolicy"), "spec.ipFamilyPolicy", _FAMILY_POLICIES)
    bad: list[Cause] = []
    for index, address in enumerate(ips):
        if index or address != "None":
            bad += check_ip(address, f"spec.clusterIPs[{index}]")
        elif len(ips) > 1:
            bad.append(invalid_value("spec.clusterIPs", ips, "'None' must be the first and only value"))
    causes += bad
    if len(ips) > 2:
        causes.append(invalid_value("spec.clusterIPs", ips, "may only hold up to 2 values"))
    if bad or is_headless(spec):
        return causes
    if len(ips) > 1 and len({":" in address for address in ips}) == 1:
        causes.append(invalid_value("spec.clusterIPs", ips, "may specify no more than one IP for each IP family"))
    for index, (address, family) in enumerate(zip(ips, families, strict=False)):
        if family in _FAMILIES and (":" in address) != (family == "IPv6"):
            text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            causes.append(invalid_value(f"spec.clusterIPs[{index}]", address, text))
    return causes


def _check_ports(ports: list[Object], kind: str) -> list[Cause]:
    causes: list[Cause] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        place = f"spec.ports[{index}]"
        name = port.get("name") or ""
        if not name and len(ports) > 1:
            causes.append(required(f"{place}.name"))
        elif name:
            causes += check_text(name, f"{place}.name", dns_label)
            if name in names:
                causes.append(duplicate(f"{place}.name", name))
            names.add(name)
        number = port.get("port") or 0
        causes += [invalid_value(f"{place}.port", number, error) for error in port_number(number)]
        causes += check_choice(port.get("protocol"), f"{place}.protocol", PROTOCOLS)
        if kind != "ExternalName" or port.get("targetPort"):
            causes += check_port(port.get("targetPort"), f"{place}.targetPort")
        causes += check_text(port.get("appProtocol"), f"{place}.appProtocol", key_errors)
    return causes


def _check_port_numbers(ports: list[Object], kind: str) -> list[Cause]:
    causes: list[Cause] = []
    if kind == "ClusterIP":
        causes += [
            forbidden_field(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
            for index, port in enumerate(ports)
            if port.get("nodePort")
        ]
    used: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        own = (port.get("protocol") or "", port.get("nodePort") or 0)
        if own[1] and own in used:
            causes.append(duplicate(f"spec.ports[{index}].nodePort", own[1]))
        used.add(own)
    seen: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        own = (port.get("protocol") or "", port.get("port") or 0)
        if own in seen:
            causes.append(duplicate(f"spec.ports[{index}]", {"protocol": own[0], "port": own[1]}))
        seen.add(own)
    return causes


def _check_source_ranges(spec: Object, kind: str, annotations: Object) -> list[Cause]:
    """The field, or else the annotation that it had been. Either may have blanks around each range."""
    causes: list[Cause] = []
    ranges, listed = spec.get("loadBalancerSourceRanges") or [], annotations.get(_RANGES_ANNOTATION)
    place = "spec.LoadBalancerSourceRanges" if ranges else f"metadata.annotations[{_RANGES_ANNOTATION}]"
    if (ranges or listed is not None) and kind != "LoadBalancer":
        causes.append(forbidden_field(place, _BALANCERS_ONLY))
    for index, text in enumerate(ranges):
        causes += check_cidr(text.strip(), f"{place}[{index}]")
    if not ranges and listed and listed.strip():
        for text in listed.split(","):
            causes += check_cidr(text.strip(), place)
    return causes


def _check_external_traffic(spec: Object) -> list[Cause]:
    policy, health = spec.get("externalTrafficPolicy") or "", spec.get("healthCheckNodePort") or 0
    causes: list[Cause] = []
    if is_exposed(spec):
        causes += check_choice(policy, "spec.externalTrafficPolicy", _POLICIES)
    elif policy:
        text = "may only be set for externally-accessible services"
        causes.append(invalid_value("spec.externalTrafficPolicy", policy, text))
    if health and not needs_health_check(spec):
        text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        causes.append(invalid_value("spec.healthCheckNodePort", health, text))
    elif health:
        causes += [invalid_value("spec.healthCheckNodePort", health, error) for error in port_number(health)]
    return causes


def check_service_update(new: Object, old: Object) -> list[Cause]:
    """What a Service has, it keeps as long as it is one with addresses; only a second family may come and go."""
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    causes: list[Cause] = []
    if "ExternalName" not in (wanted.get("type"), stored.get("type")):
        if not (is_headless(wanted) and is_headless(stored)):
            causes += _check_kept(wanted, stored, "clusterIPs", "clusterIP", "cluster")
        if not is_headless(wanted) and not is_headless(stored):
            causes += _check_kept(wanted, stored, "ipFamilies", "ipFamily", "family")
    if wanted.get("type") == stored.get("type") == "LoadBalancer":
        given = wanted.get("loadBalancerClass")
        if given != stored.get("loadBalancerClass"):
            causes.append(invalid_value("spec.loadBalancerClass", given, _ONCE))
    if needs_health_check(wanted) and needs_health_check(stored):
        health = wanted.get("healthCheckNodePort") or 0
        if health != (stored.get("healthCheckNodePort") or 0):
            causes.append(forbidden_field("spec.healthCheckNodePort", IMMUTABLE))
    return causes


def _check_kept(wanted: Object, stored: Object, field: str, singular: str, what: str) -> list[Cause]:
    """The first of the list stays; the second goes with the policy SingleStack."""
    now, before = wanted.get(field) or [], stored.get(field) or []
    causes: list[Cause] = []
    if len(now) == len(before):
        return [
            invalid_value(f"spec.{field}[{index if what == 'cluster' else 0}]", now, _ONCE)
            for index, value in enumerate(before)
            if now[index] != value
        ]
    if before and not now:
        causes.append(invalid_value(f"spec.{field}[0]", now, f"primary {singular} can not be unset"))
    if before and now and now[0] != before[0]:
        causes.append(invalid_value(f"spec.{field}[0]", now, _ONCE))
    if len(before) > len(now) == 1 and wanted.get("ipFamilyPolicy") != "SingleStack":
        text = f"must be set to 'SingleStack' when releasing the secondary {singular}"
        causes.append(invalid_value("spec.ipFamilyPolicy", wanted.get("ipFamilyPolicy"), text))
    return causes


def check_service_status(obj: Object) -> list[Cause]:
    """The status that a load balancer's controller writes."""
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    place = "status.loadBalancer.ingress"
    if ingress and (obj.get("spec") or {}).get("type") != "LoadBalancer":
        return [forbidden_field(place, "may only be used when `spec.type` is 'LoadBalancer'")]
    causes: list[Cause] = []
    for index, each in enumerate(ingress):
        where, ip, name, mode = f"{place}[{index}]", each.get("ip"), each.get("hostname"), each.get("ipMode")
        if ip:
            causes += check_ip(ip, f"{where}.ip")
        if mode is not None and not ip:
            causes.append(forbidden_field(f"{where}.ipMode", "may not be specified when `ip` is not set"))
        elif mode is not None and mode not in ("Proxy", "VIP"):
            causes.append(not_supported(f"{where}.ipMode", mode, ("Proxy", "VIP")))
        causes += check_text(name, f"{where}.hostname", dns_subdomain)
        if name and is_ip(name):
            causes.append(invalid_value(f"{where}.hostname", name, "must be a DNS name, not an IP address"))
    return causes
