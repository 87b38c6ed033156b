"""Services, Endpoints and EndpointSlices."""

from typing import Any

from raykube.api import addresses
from raykube.api.errors import (
    Cause,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_many,
)
from raykube.api.validation.metadata import check_labels
from raykube.api.validation.names import dns_label, dns_subdomain, is_ip, port_number
from raykube.api.validation.values import PROTOCOLS, check_choice, check_choice_if_set, check_port, check_text

Object = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_IP_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_SLICE_ENDPOINTS_MAX = 1000
_SLICE_ADDRESSES_MAX = 100
_SLICE_PORTS_MAX = 20000


def check_service(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    kind, headless = spec.get("type") or "", spec.get("clusterIP") == "None"
    ports = spec.get("ports") or []
    if not ports and not headless and kind != "ExternalName":
        causes.append(required("spec.ports"))
    if kind in ("LoadBalancer", "NodePort") and headless:
        text = f"may not be set to 'None' for {kind} services"
        causes.append(invalid_value("spec.clusterIPs[0]", "None", text))
    elif kind == "ExternalName":
        if spec.get("clusterIP") or spec.get("clusterIPs"):
            causes.append(forbidden_field("spec.clusterIPs", "may not be set for ExternalName services"))
        name = (spec.get("externalName") or "").removesuffix(".")
        if not name:
            causes.append(required("spec.externalName"))
        causes += check_text(name, "spec.externalName", dns_subdomain)
    causes += _check_ports(ports, kind)
    causes += check_labels(spec.get("selector"), "spec.selector")
    causes += check_choice(spec.get("sessionAffinity"), "spec.sessionAffinity", ("ClientIP", "None"))
    timeout = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if timeout is not None and not 0 < timeout <= 86400:
        text = "must be greater than 0 and less than 86400"
        causes.append(invalid_value("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout, text))
    causes += _check_cluster_ips(spec)
    for index, address in enumerate(spec.get("externalIPs") or []):
        if not is_ip(address):
            causes.append(invalid_value(f"spec.externalIPs[{index}]", address, _IP_RULE))
    causes += check_choice(kind, "spec.type", _TYPES)
    policy = spec.get("externalTrafficPolicy")
    causes += check_choice_if_set(policy, "spec.externalTrafficPolicy", ("Cluster", "Local"))
    internal = spec.get("internalTrafficPolicy")
    causes += check_choice_if_set(internal, "spec.internalTrafficPolicy", ("Cluster", "Local"))
    return causes


def _check_cluster_ips(spec: Object) -> list[Cause]:
    ips = spec.get("clusterIPs") or []
    first = spec.get("clusterIP") or ""
    causes: list[Cause] = []
    if ips and first and ips[0] != first:
        causes.append(invalid_value("spec.clusterIPs", ips, "first value must match `clusterIP`"))
    for index, address in enumerate(ips or ([first] if first else [])):
        if address != "None" and not is_ip(address):
            causes.append(invalid_value(f"spec.clusterIPs[{index}]", address, _IP_RULE))
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
    used: set[tuple[str, int]] = set()
    seen: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        place = f"spec.ports[{index}]"
        protocol, node_port = port.get("protocol") or "", port.get("nodePort") or 0
        if node_port and kind == "ClusterIP":
            causes.append(forbidden_field(f"{place}.nodePort", "may not be used when `type` is 'ClusterIP'"))
        elif node_port:
            causes += [invalid_value(f"{place}.nodePort", node_port, error) for error in port_number(node_port)]
            if (protocol, node_port) in used:
                causes.append(duplicate(f"{place}.nodePort", node_port))
            used.add((protocol, node_port))
        own = (protocol, port.get("port") or 0)
        if own in seen:
            causes.append(duplicate(place, {"protocol": own[0], "port": own[1]}))
        seen.add(own)
    return causes


def check_service_update(new: Object, old: Object) -> list[Cause]:
    """A cluster IP, once there, stays as long as the Service has one at all."""
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (wanted.get("type"), stored.get("type")):
        return []
    before, now = stored.get("clusterIP") or "", wanted.get("clusterIP") or ""
    if before and now != before:
        ips = wanted.get("clusterIPs") or ([now] if now else [])
        return [invalid_value("spec.clusterIPs[0]", ips, "may not change once set")]
    return []


def check_endpoints(obj: Object) -> list[Cause]:
    causes: list[Cause] = []
    for index, subset in enumerate(obj.get("subsets") or []):
        place = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            causes.append(required(place, "must specify `addresses` or `notReadyAddresses`"))
        for group in ("addresses", "notReadyAddresses"):
            for at, address in enumerate(subset.get(group) or []):
                ip = address.get("ip") or ""
                if not is_ip(ip):
                    causes.append(invalid_value(f"{place}.{group}[{at}].ip", ip, _IP_RULE))
                elif problem := addresses.endpoint_problem(addresses.parse(ip)):
                    causes.append(invalid_value(f"{place}.{group}[{at}].ip", ip, problem))
        ports = subset.get("ports") or []
        for at, port in enumerate(ports):
            where = f"{place}.ports[{at}]"
            name = port.get("name") or ""
            if not name and len(ports) > 1:
                causes.append(required(f"{where}.name"))
            causes += check_text(name, f"{where}.name", dns_label)
            number = port.get("port") or 0
            causes += [invalid_value(f"{where}.port", number, error) for error in port_number(number)]
            causes += check_choice(port.get("protocol"), f"{where}.protocol", PROTOCOLS)
    return causes


def check_endpoint_slice(obj: Object) -> list[Cause]:
    family = obj.get("addressType") or ""
    causes: list[Cause] = []
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    if len(endpoints) > _SLICE_ENDPOINTS_MAX:
        causes.append(too_many("endpoints", len(endpoints), _SLICE_ENDPOINTS_MAX))
    for index, endpoint in enumerate(endpoints):
        place = f"endpoints[{index}]"
        given = endpoint.get("addresses") or []
        if not given:
            causes.append(required(f"{place}.addresses", "must contain at least 1 address"))
        elif len(given) > _SLICE_ADDRESSES_MAX:
            causes.append(too_many(f"{place}.addresses", len(given), _SLICE_ADDRESSES_MAX))
        for at, address in enumerate(given):
            where = f"{place}.addresses[{at}]"
            if family == "FQDN":
                causes += check_text(address, where, dns_subdomain)
            elif family in ("IPv4", "IPv6") and not (is_ip(address) and (":" in address) == (family == "IPv6")):
                causes.append(invalid_value(where, address, f"must be an {family} address"))
            elif family in ("IPv4", "IPv6") and (problem := addresses.endpoint_problem(addresses.parse(address))):
                causes.append(invalid_value(where, address, problem))
    if len(ports) > _SLICE_PORTS_MAX:
        causes.append(too_many("ports", len(ports), _SLICE_PORTS_MAX))
    names: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name") or ""
        causes += check_text(name, f"ports[{index}].name", dns_label)
        if name in names:
            causes.append(duplicate(f"ports[{index}].name", name))
        names.add(name)
        causes += check_choice(port.get("protocol"), f"ports[{index}].protocol", PROTOCOLS)
    if not family:
        causes.insert(0, required("addressType"))
    elif family not in _ADDRESS_TYPES:
        causes.insert(0, not_supported("addressType", family, _ADDRESS_TYPES))
    return causes


def check_endpoint_slice_update(new: Object, old: Object) -> list[Cause]:
    if new.get("addressType") == old.get("addressType"):
        return []
    return [invalid_value("addressType", new.get("addressType"), "field is immutable")]
