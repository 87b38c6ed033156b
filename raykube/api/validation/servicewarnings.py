"""What a valid Service says in vain, or in a form that others may not take for the same: upstream's warnings."""

from ipaddress import ip_address, ip_network
from typing import Any

from raykube.api.validation.service import HINTS_ANNOTATION, MODE_ANNOTATION

Object = dict[str, Any]


def service_warnings(obj: Object) -> list[str]:
    """The warnings for a new or changed Service that is valid."""
    spec, annotations = obj.get("spec") or {}, obj["metadata"].get("annotations") or {}
    kind, headless = spec.get("type"), spec.get("clusterIP") == "None"
    found: list[str] = []
    if HINTS_ANNOTATION in annotations:
        found.append(f"annotation {HINTS_ANNOTATION} is deprecated, please use {MODE_ANNOTATION} instead")
    if not headless:
        found += _spelled(spec.get("clusterIPs") or (), "spec.clusterIPs")
    elif kind == "ClusterIP":
        found += [
            f"spec.{name} is ignored for headless services"
            for name in ("loadBalancerIP", "externalIPs")
            if spec.get(name)
        ]
        if spec.get("sessionAffinity") != "None":
            found.append("spec.SessionAffinity is ignored for headless services")
    found += _spelled(spec.get("externalIPs") or (), "spec.externalIPs")
    for index, text in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        text = text.strip()
        if ":" in text and text != (usual := str(ip_network(text))):
            place = f"spec.loadBalancerSourceRanges[{index}]"
            found.append(f'{place}: IPv6 CIDR value "{text}" should be in RFC 5952 canonical format ("{usual}")')
    if kind == "ExternalName" and spec.get("externalIPs"):
        found.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    if kind != "ExternalName" and spec.get("externalName"):
        found.append('spec.externalName is ignored when spec.type is not "ExternalName"')
    if spec.get("trafficDistribution") == "PreferClose":
        found.append('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"')
    return found


def _spelled(ips: list[str] | tuple[()], place: str) -> list[str]:
    return [
        f'{place}[{index}]: IPv6 address "{text}" should be in RFC 5952 canonical format ("{ip_address(text)}")'
        for index, text in enumerate(ips)
        if ":" in text and text != str(ip_address(text))
    ]
