"""Endpoints and EndpointSlices. `loopback`: whether pods have addresses in 127.0.0.0/8, where upstream has none."""

from typing import Any

from raykube.api import addresses
from raykube.api.errors import Cause, duplicate, invalid_value, not_supported, required, too_many
from raykube.api.labels import key_errors, value_errors
from raykube.api.validation.metadata import check_labels
from raykube.api.validation.names import IMMUTABLE, Check, dns_label, dns_subdomain, is_ip, port_number
from raykube.api.validation.values import PROTOCOLS, check_choice, check_ip, check_text

Object = dict[str, Any]

_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_ENDPOINTS_MAX = 1000
_ADDRESSES_MAX = 100
_PORTS_MAX = 20000
_HINTS_MAX = 8
_TOPOLOGY_LABELS_MAX = 16


def check_endpoint_ip(text: str, field: str, *, loopback: bool) -> list[Cause]:
    """An address that a Service may lead to."""
    causes = check_ip(text, field)
    if not causes and (problem := addresses.endpoint_problem(addresses.parse(text), loopback=loopback)):
        causes.append(invalid_value(field, text, problem))
    return causes


def check_endpoints(obj: Object, *, loopback: bool) -> list[Cause]:
    causes: list[Cause] = []
    for index, subset in enumerate(obj.get("subsets") or []):
        place = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            causes.append(required(place, "must specify `addresses` or `notReadyAddresses`"))
        for group in ("addresses", "notReadyAddresses"):
            for at, address in enumerate(subset.get(group) or []):
                where = f"{place}.{group}[{at}]"
                causes += check_endpoint_ip(address.get("ip") or "", f"{where}.ip", loopback=loopback)
                causes += check_text(address.get("hostname"), f"{where}.hostname", dns_label)
                causes += check_text(address.get("nodeName"), f"{where}.nodeName", dns_subdomain)
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
            causes += check_text(port.get("appProtocol"), f"{where}.appProtocol", key_errors)
    return causes


def check_endpoint_slice(obj: Object, *, loopback: bool) -> list[Cause]:
    family = obj.get("addressType") or ""
    causes: list[Cause] = []
    if not family:
        causes.append(required("addressType"))
    elif family not in _ADDRESS_TYPES:
        causes.append(not_supported("addressType", family, _ADDRESS_TYPES))
    endpoints = obj.get("endpoints") or []
    if len(endpoints) > _ENDPOINTS_MAX:
        causes.append(too_many("endpoints", len(endpoints), _ENDPOINTS_MAX))
    else:
        for index, endpoint in enumerate(endpoints):
            causes += _check_endpoint(endpoint, f"endpoints[{index}]", family, loopback=loopback)
    ports = obj.get("ports") or []
    if len(ports) > _PORTS_MAX:
        return [*causes, too_many("ports", len(ports), _PORTS_MAX)]
    names: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name") or ""
        causes += check_text(name, f"ports[{index}].name", dns_label)
        if name in names:
            causes.append(duplicate(f"ports[{index}].name", name))
        names.add(name)
        causes += check_choice(port.get("protocol"), f"ports[{index}].protocol", PROTOCOLS)
        causes += check_text(port.get("appProtocol"), f"ports[{index}].appProtocol", key_errors)
    return causes


def _check_endpoint(endpoint: Object, place: str, family: str, *, loopback: bool) -> list[Cause]:
    causes: list[Cause] = []
    given = endpoint.get("addresses") or []
    if not given:
        causes.append(required(f"{place}.addresses", "must contain at least 1 address"))
    elif len(given) > _ADDRESSES_MAX:
        causes.append(too_many(f"{place}.addresses", len(given), _ADDRESSES_MAX))
    for at, address in enumerate(given):
        where = f"{place}.addresses[{at}]"
        if family == "FQDN":
            causes += check_text(address, where, dns_subdomain)
        elif family in _ADDRESS_TYPES and not (is_ip(address) and (":" in address) == (family == "IPv6")):
            causes.append(invalid_value(where, address, f"must be an {family} address"))
        elif family in _ADDRESS_TYPES:
            causes += check_endpoint_ip(address, where, loopback=loopback)
    causes += check_text(endpoint.get("nodeName"), f"{place}.nodeName", dns_subdomain)
    topology = endpoint.get("deprecatedTopology") or {}
    if len(topology) > _TOPOLOGY_LABELS_MAX:
        causes.append(too_many(f"{place}.deprecatedTopology", len(topology), _TOPOLOGY_LABELS_MAX))
    causes += check_labels(topology, f"{place}.deprecatedTopology")
    causes += check_text(endpoint.get("hostname"), f"{place}.hostname", dns_label)
    hints = endpoint.get("hints") or {}
    causes += _check_hints(hints.get("forZones") or [], f"{place}.hints.forZones", value_errors)
    return causes + _check_hints(hints.get("forNodes") or [], f"{place}.hints.forNodes", dns_subdomain)


def _check_hints(hints: list[Object], place: str, check: Check) -> list[Cause]:
    if len(hints) > _HINTS_MAX:
        return [too_many(place, len(hints), _HINTS_MAX)]
    causes: list[Cause] = []
    names: set[str] = set()
    for index, hint in enumerate(hints):
        name = hint.get("name") or ""
        where = f"{place}[{index}].name"
        if name in names:
            causes.append(duplicate(where, name))
        names.add(name)
        causes += [invalid_value(where, name, error) for error in check(name)]
    return causes


def check_endpoint_slice_update(new: Object, old: Object) -> list[Cause]:
    if new.get("addressType") == old.get("addressType"):
        return []
    return [invalid_value("addressType", new.get("addressType"), IMMUTABLE)]
