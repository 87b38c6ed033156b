"""What NetworkPolicies need to know of a pod. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]  # (namespace, name)

FINISHED = ("Succeeded", "Failed")
PROTOCOLS = ("tcp", "udp", "sctp")


def is_address(text: object) -> bool:
    """Whether it is an IP address and nothing more: it becomes a part of a rule's text."""
    if not isinstance(text, str) or "%" in text:
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_port(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 65536


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod with addresses of its own. Pods in their machine's network are not: policies do not apply to them."""

    namespace: str
    labels: Mapping[str, str]
    node: str
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, str, int], ...]  # (name, protocol in nft's words, number)


def endpoint_of(pod: Object) -> Endpoint | None:
    """None for a pod that has no address, has one of its machine, or has finished."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in FINISHED:
        return None
    found = [one.get("ip") for one in status.get("podIPs") or ()] or [status.get("podIP")]
    addresses = tuple(sorted({str(ip_address(text)) for text in found if is_address(text)}))
    if not addresses:
        return None
    metadata = pod["metadata"]
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    ports = {
        (port["name"], protocol, port["containerPort"])
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
        and (protocol := str(port.get("protocol") or "TCP").lower()) in PROTOCOLS
        and is_port(port.get("containerPort"))
    }
    return Endpoint(
        metadata.get("namespace", ""),
        metadata.get("labels") or {},
        spec.get("nodeName") or "",
        addresses,
        tuple(sorted(ports)),
    )
