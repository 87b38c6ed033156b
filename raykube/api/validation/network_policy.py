"""NetworkPolicies."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from raykube.api.errors import Cause, forbidden_field, invalid_value, required
from raykube.api.validation.metadata import check_selector
from raykube.api.validation.values import PROTOCOLS, check_choice_if_set, check_port

Object = dict[str, Any]

_CIDR_RULE = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_TYPES = ("Egress", "Ingress")


def check_network_policy(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = check_selector(spec.get("podSelector"), "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or []):
            place = f"spec.{direction}[{index}]"
            for at, port in enumerate(rule.get("ports") or []):
                causes += _check_port(port, f"{place}.ports[{at}]")
            for at, peer in enumerate(rule.get(peers) or []):
                causes += _check_peer(peer, f"{place}.{peers}[{at}]")
    types = spec.get("policyTypes") or []
    if len(types) > len(_TYPES):
        return [*causes, invalid_value("spec.policyTypes", types, "may not specify more than two policyTypes")]
    for index, one in enumerate(types):
        causes += check_choice_if_set(one, f"spec.policyTypes[{index}]", _TYPES)
    return causes


def _check_port(port: Object, place: str) -> list[Cause]:
    causes = check_choice_if_set(port.get("protocol"), f"{place}.protocol", PROTOCOLS)
    first, last = port.get("port"), port.get("endPort")
    if first is not None:
        causes += check_port(first, f"{place}.port")
    if last is None:
        return causes
    if first is None:
        return [*causes, required(f"{place}.port", "must be specified when `endPort` is specified")]
    if isinstance(first, str):
        text = "may not be specified when `port` is non-numeric"
        return [*causes, invalid_value(f"{place}.endPort", last, text)]
    causes += check_port(last, f"{place}.endPort")
    if last < first:
        causes.append(invalid_value(f"{place}.endPort", last, "must be greater than or equal to `port`"))
    return causes


def _check_peer(peer: Object, place: str) -> list[Cause]:
    causes: list[Cause] = []
    for name in ("podSelector", "namespaceSelector"):
        if name in peer:
            causes += check_selector(peer[name], f"{place}.{name}")
    if "ipBlock" not in peer:
        kinds = sum(name in peer for name in ("podSelector", "namespaceSelector"))
        return causes if kinds else [*causes, required(place, "must specify a peer")]
    if len(peer) > 1:
        return [*causes, forbidden_field(place, "may not specify both ipBlock and another peer")]
    return causes + _check_block(peer["ipBlock"] or {}, f"{place}.ipBlock")


def _check_block(block: Object, place: str) -> list[Cause]:
    text = block.get("cidr") or ""
    if not text:
        return [required(f"{place}.cidr")]
    whole = _network(text)
    if whole is None:
        return [invalid_value(f"{place}.cidr", text, _CIDR_RULE)]
    causes: list[Cause] = []
    for index, excepted in enumerate(block.get("except") or []):
        part = _network(excepted)
        field = f"{place}.except[{index}]"
        if part is None:
            causes.append(invalid_value(field, excepted, _CIDR_RULE))
        elif part == whole or not _lies_in(part, whole):
            causes.append(invalid_value(field, excepted, "must be a strict subset of `cidr`"))
    return causes


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """None for what is no network in CIDR notation; an address with a scope ("%eth0") is none."""
    if "/" not in text or "%" in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _lies_in(part: IPv4Network | IPv6Network, whole: IPv4Network | IPv6Network) -> bool:
    if isinstance(part, IPv4Network):
        return isinstance(whole, IPv4Network) and part.subnet_of(whole)
    return isinstance(whole, IPv6Network) and part.subnet_of(whole)
