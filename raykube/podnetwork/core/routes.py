"""How this machine reaches other machines' pods. Nodes in, kernel routes and tunnel entries out. Pure.

A direct peer costs one route for each of its pod CIDRs:

    10.244.2.0/24 via 192.0.2.12

A tunnelled peer has one VXLAN end point. Its addresses and MAC follow from its pod CIDRs: nobody announces them.

    10.244.2.0/24 via 10.244.2.0 dev raykube.vx onlink
    10.244.2.0 lladdr 02:…       (neighbour)      02:… dst 192.0.2.12       (forwarding entry)
"""

import hashlib
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Literal

TUNNEL_DEVICE = "raykube.vx"
VXLAN_OVERHEAD_BYTES = 50

Backend = Literal["auto", "direct", "vxlan"]
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """What matters of a Node here; both tuples as the Node lists them."""

    name: str
    addresses: tuple[str, ...]  # InternalIPs
    pod_cidrs: tuple[str, ...]


def peer_of(node: Object) -> Peer:
    """A Node's part in the network; a CIDR or an address that cannot be read is left out."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    cidrs = spec.get("podCIDRs") or [spec.get("podCIDR")]
    addresses = [one.get("address") for one in status.get("addresses") or () if one.get("type") == "InternalIP"]
    return Peer(node["metadata"]["name"], _readable(ip_address, addresses), _readable(ip_network, cidrs))


def _readable(read: Callable[[str], object], texts: Iterable[Any]) -> tuple[str, ...]:
    """Those that `read` takes, in its words. A scope ("%eth0") may hold anything, and has no place in a rule."""
    found = []
    for text in texts:
        if isinstance(text, str) and "%" not in text:
            with suppress(ValueError):
                found.append(str(read(text)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Route:
    """A route of ours; `tunnelled` ones lead into the tunnel's device."""

    destination: str
    via: str
    tunnelled: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the kernel should hold for the pod network. Keys: destination, neighbour's address, MAC."""

    routes: Mapping[str, Route]
    neighbours: Mapping[str, str]  # address of a tunnel's end → its MAC
    forwarding: Mapping[str, str]  # MAC → the machine's address

    @property
    def has_tunnel(self) -> bool:
        return bool(self.forwarding)


def tunnel_mac(pod_cidr: str) -> str:
    """The MAC of the tunnel's end on the machine that owns `pod_cidr`: locally administered, from a hash of it."""
    digest = hashlib.sha256(str(ip_network(pod_cidr)).encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def tunnel_address(pod_cidr: str) -> str:
    """The address of the tunnel's end: the first of the CIDR, which no pod gets."""
    return str(ip_network(pod_cidr).network_address)


def same_family(addresses: Iterable[str], version: int) -> str:
    """The first of `addresses` with that IP version, or an empty string."""
    return next((text for text in addresses if ip_address(text).version == version), "")


def wanted(
    own: Peer, nodes: Iterable[Peer], segments: Sequence[str], backend: Backend, cluster_cidrs: Sequence[str]
) -> Wanted:
    """What reaches the pods of every node but `own`.

    `segments`: the addresses of this machine's interfaces with their prefix, "192.0.2.11/24". A peer is on a segment
    of ours if its address lies in one of these networks. Of two nodes that claim one CIDR the first by name has it, and
    what is not within `cluster_cidrs` nobody has: a kubelet says itself which CIDR is its own.
    """
    networks = [ip_interface(text).network for text in segments]
    routes: dict[str, Route] = {}
    neighbours: dict[str, str] = {}
    forwarding: dict[str, str] = {}
    taken = _Taken()
    for cidr in own.pod_cidrs:
        taken.take(cidr)
    for peer in sorted(nodes, key=lambda one: one.name):
        if peer.name == own.name or not peer.addresses:
            continue
        cidrs = [cidr for cidr in peer.pod_cidrs if _within(cidr, cluster_cidrs) and taken.take(cidr)]
        for cidr in cidrs:
            version = ip_network(cidr).version
            gateway = same_family(peer.addresses, version)
            near = bool(gateway) and any(ip_address(gateway) in network for network in networks)
            if backend == "direct" or (backend == "auto" and near):
                if gateway:
                    routes[cidr] = Route(cidr, gateway, tunnelled=False)
                continue
            outer = same_family(peer.addresses, 4) or peer.addresses[0]
            mac, address = tunnel_mac(cidrs[0]), tunnel_address(cidr)
            routes[cidr] = Route(cidr, address, tunnelled=True)
            neighbours[address] = mac
            forwarding[mac] = outer
    return Wanted(routes, neighbours, forwarding)


def _within(cidr: str, ranges: Iterable[str]) -> bool:
    network = ip_network(cidr)
    return any(
        network.version == (other := ip_network(text)).version and network.subnet_of(other)  # type: ignore[arg-type]
        for text in ranges
    )


class _Taken:
    """Ranges that have an owner; none of them overlaps another one."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}  # first and last address, sorted

    def take(self, cidr: str) -> bool:
        """Whether all of `cidr` was free; it no longer is."""
        network = ip_network(cidr)
        first, last = int(network.network_address), int(network.broadcast_address)
        ranges = self._ranges[network.version]
        at = bisect(ranges, (first, last))
        if (at and ranges[at - 1][1] >= first) or (at < len(ranges) and ranges[at][0] <= last):
            return False
        ranges.insert(at, (first, last))
        return True


def differing(wanted: Mapping[str, Any], installed: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Keys to set and keys to remove so that `installed` becomes `wanted`, sorted."""
    to_set = [key for key, value in wanted.items() if installed.get(key) != value]
    return sorted(to_set), sorted(key for key in installed if key not in wanted)
