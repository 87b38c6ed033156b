"""How to reach an endpoint: directly, or through the relay of its node.

The process runtime gives pods loopback addresses. On one computer every machine reaches them; on another host the same
address is another thing. So an endpoint with a loopback address on a node whose own address is not a loopback one is
reached through that node's kube-proxy, which listens for the others (the *relay*) and says where in an annotation.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raykube.kubeproxy.core.addresses import canonical
from raykube.kubeproxy.core.rules import Endpoint

RELAY_ANNOTATION = "raykube.io/kube-proxy-relay"
ZONE_LABEL = "topology.kubernetes.io/zone"
RelayMode = Literal["auto", "always", "never"]


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_network(text: object) -> bool:
    if not isinstance(text, str) or "%" in text:
        return False
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_loopback_network(text: str) -> bool:
    try:
        return ipaddress.ip_network(text, strict=False).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """What a Node says about reaching it."""

    internal_ips: tuple[str, ...]
    relay: str  # host:port, or ""
    zone: str = ""
    pod_networks: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: dict[str, Any]) -> "NodeAddresses":
        listed = (node.get("status") or {}).get("addresses") or ()
        named = (canonical(item.get("address")) for item in listed if item.get("type") == "InternalIP")
        ips = tuple(address for address in named if address is not None)  # nobody else checks them, and rules have them
        metadata, spec = node.get("metadata") or {}, node.get("spec") or {}
        annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
        networks = tuple(text for text in spec.get("podCIDRs") or [spec.get("podCIDR")] if is_network(text))
        return cls(ips, annotations.get(RELAY_ANNOTATION, ""), labels.get(ZONE_LABEL, ""), networks)

    @property
    def loopback(self) -> bool:
        return bool(self.internal_ips) and all(is_loopback(ip) for ip in self.internal_ips)


def relay_for(endpoint: Endpoint, own_node: str, nodes: Mapping[str, NodeAddresses], mode: RelayMode) -> str | None:
    """The relay (host:port) to go through; "" to connect directly; None when the endpoint cannot be reached now."""
    if mode == "never" or not endpoint.node or endpoint.node == own_node:
        return ""
    node = nodes.get(endpoint.node)
    if mode == "auto" and (not is_loopback(endpoint.address) or (node is not None and node.loopback)):
        return ""
    return (node.relay if node is not None else "") or None
