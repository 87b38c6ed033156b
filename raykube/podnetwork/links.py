"""The kernel's side of the routes: what is installed with our mark, and its change to what is wanted. Blocks: call it
in a thread.

Our mark is the routing protocol number 82 on routes, and the name of the tunnel's device.
"""

import asyncio
import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from raykube.podnetwork.core.routes import (
    TUNNEL_DEVICE,
    VXLAN_OVERHEAD_BYTES,
    Route,
    Wanted,
    differing,
    tunnel_address,
    tunnel_mac,
)

PROTOCOL = 82
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PERMANENT = 0x80  # neighbours that are never asked for
SETTINGS = {
    4: ("net/ipv4/ip_forward",),
    6: ("net/ipv6/conf/all/forwarding",),
}
BRIDGED = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The VXLAN device as it shall be. `mtu` in bytes."""

    local: str
    pod_cidrs: tuple[str, ...]
    vni: int
    port: int
    mtu: int


@contextmanager
def _kernel() -> Iterator[IPRoute]:
    """A connection to the kernel, on a loop of asyncio's own: in a process that prefers uvloop, as Ray's workers do,
    the default one knows no netlink."""
    loop = asyncio.SelectorEventLoop()
    try:
        with IPRoute(use_event_loop=loop) as kernel:
            yield kernel
    finally:
        loop.close()


def segments() -> list[str]:
    """The addresses of this machine's interfaces with their prefix, without loopback and the tunnel."""
    found = []
    with _kernel() as kernel:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in kernel.get_links()}
        for address in kernel.get_addr():
            text = address.get_attr("IFA_ADDRESS")
            if text and names.get(address["index"]) not in ("lo", TUNNEL_DEVICE):
                found.append(f"{text}/{address['prefixlen']}")
    return [text for text in found if not ip_interface(text).ip.is_link_local]


def mtu_of(address: str) -> int:
    """The MTU in bytes of the interface that has `address`; 1500 if none has."""
    with _kernel() as kernel:
        for known in kernel.get_addr():
            if known.get_attr("IFA_ADDRESS") == address or known.get_attr("IFA_LOCAL") == address:
                link = kernel.get_links(known["index"])[0]
                return int(link.get_attr("IFLA_MTU") or 1500)
    return 1500


def set_kernel(versions: set[int], *, bridged: bool, proc: Path = Path("/proc/sys")) -> None:
    """Lets the machine forward packets, and bridged ones meet the rules. Raises OSError that says which setting."""
    for name in [*(name for version in sorted(versions) for name in SETTINGS[version]), *(BRIDGED if bridged else ())]:
        path = proc / name
        if not path.exists() or path.read_text().strip() == "1":
            continue
        try:
            path.write_text("1")
        except OSError as error:
            dotted = name.replace("/", ".")
            raise OSError(f"cannot set {dotted}=1: {error.strerror}: run as root, or set it with sysctl") from None


def has_br_netfilter(proc: Path = Path("/proc/sys")) -> bool:
    """Whether the kernel can show bridged packets to the rules."""
    return (proc / BRIDGED[0]).exists()


class Links:
    """Brings routes, neighbours and the tunnel of this machine's kernel to what is wanted."""

    def sync(self, wanted: Wanted, tunnel: Tunnel) -> tuple[int, list[str]]:
        """How many entries were set or removed, and why some routes were not. Raises OSError when nothing more goes."""
        with _kernel() as kernel:
            done = 0
            index = self._device(kernel)
            problems: list[str] = []
            try:
                if wanted.has_tunnel:
                    index, made = self._make_tunnel(kernel, index, tunnel)
                    done += made
                done += self._sync_routes(kernel, wanted.routes, index, problems)
                if index:
                    done += self._sync_ends(kernel, wanted, index, problems)
                    if not wanted.has_tunnel:
                        kernel.link("del", index=index)
                        done += 1
            except NetlinkError as error:
                raise OSError(f"the kernel refused a part of the pod network: {error}") from None
            return done, problems

    def remove(self) -> None:
        """Removes all that carries our mark."""
        self.sync(Wanted({}, {}, {}), Tunnel("", (), 0, 0, 0))

    def _device(self, kernel: IPRoute) -> int:
        found = kernel.link_lookup(ifname=TUNNEL_DEVICE)
        return int(found[0]) if found else 0

    def _make_tunnel(self, kernel: IPRoute, index: int, tunnel: Tunnel) -> tuple[int, int]:
        """Returns its index and 1 if it had to be made."""
        mac = tunnel_mac(tunnel.pod_cidrs[0])
        if index:
            link = kernel.get_links(index)[0]
            info = link.get_attr("IFLA_LINKINFO")
            data = info.get_attr("IFLA_INFO_DATA") if info is not None else None
            version = ip_interface(tunnel.local).version
            local = data.get_attr("IFLA_VXLAN_LOCAL" if version == 4 else "IFLA_VXLAN_LOCAL6") if data else None
            if (
                data is not None
                and data.get_attr("IFLA_VXLAN_ID") == tunnel.vni
                and data.get_attr("IFLA_VXLAN_PORT") == tunnel.port
                and local == tunnel.local
                and link.get_attr("IFLA_ADDRESS") == mac
                and link.get_attr("IFLA_MTU") == tunnel.mtu
            ):
                return index, 0
            kernel.link("del", index=index)
        local_key = "vxlan_local" if ip_interface(tunnel.local).version == 4 else "vxlan_local6"
        kernel.link(
            "add",
            ifname=TUNNEL_DEVICE,
            kind="vxlan",
            vxlan_id=tunnel.vni,
            vxlan_port=tunnel.port,
            vxlan_learning=0,
            address=mac,
            mtu=tunnel.mtu,
            **{local_key: tunnel.local},
        )
        index = self._device(kernel)
        for cidr in tunnel.pod_cidrs:
            version = ip_network(cidr).version
            kernel.addr("add", index=index, address=tunnel_address(cidr), prefixlen=32 if version == 4 else 128)
        kernel.link("set", index=index, state="up")
        return index, 1

    def _sync_routes(self, kernel: IPRoute, wanted: Mapping[str, Route], tunnel_index: int, problems: list[str]) -> int:
        """What the kernel refuses is among `problems`: one Node's odd address keeps no other Node's pods away."""
        installed: dict[str, Route] = {}
        raw: dict[str, Any] = {}
        for version, family in FAMILIES.items():
            for route in kernel.get_routes(family=family, proto=PROTOCOL):
                destination = f"{route.get_attr('RTA_DST') or ('0.0.0.0' if version == 4 else '::')}/{route['dst_len']}"
                tunnelled = tunnel_index != 0 and route.get_attr("RTA_OIF") == tunnel_index
                installed[destination] = Route(destination, route.get_attr("RTA_GATEWAY") or "", tunnelled)
                raw[destination] = family
        to_set, to_remove = differing(wanted, installed)
        for key in to_remove:
            kernel.route("del", dst=key, proto=PROTOCOL, family=raw[key])
        for key in to_set:
            route = wanted[key]
            more = {"oif": tunnel_index, "flags": 4} if route.tunnelled else {}  # 4: RTNH_F_ONLINK
            verb = "replace" if key in installed else "add"
            try:
                kernel.route(verb, dst=key, gateway=route.via, proto=PROTOCOL, **more)
            except NetlinkError as error:
                if verb == "add" and error.code == errno.EEXIST:
                    problems.append(f"there is a route to {key} already, and it is not ours: remove it")
                else:
                    problems.append(f"the kernel refused the route to {key} via {route.via}: {error}")
        return len(to_set) + len(to_remove) - len(problems)

    def _sync_ends(self, kernel: IPRoute, wanted: Wanted, index: int, problems: list[str]) -> int:
        neighbours: dict[str, str] = {}
        for family in FAMILIES.values():
            for entry in kernel.get_neighbours(family=family, ifindex=index):
                if entry["state"] & PERMANENT:
                    neighbours[entry.get_attr("NDA_DST")] = entry.get_attr("NDA_LLADDR")
        forwarding = {
            entry.get_attr("NDA_LLADDR"): entry.get_attr("NDA_DST")
            for entry in kernel.fdb("dump")
            if entry["ifindex"] == index and entry.get_attr("NDA_DST")
        }
        done = 0
        to_set, to_remove = differing(wanted.neighbours, neighbours)
        for address in to_remove:
            with suppress(NetlinkError):  # the device's own multicast entries are not ours to remove
                kernel.neigh("del", dst=address, ifindex=index)
        for address in to_set:
            mac = wanted.neighbours[address]
            try:
                kernel.neigh("replace", dst=address, lladdr=mac, ifindex=index, state=PERMANENT)
                done += 1
            except NetlinkError as error:  # IPv6 is switched off here, and a peer has a CIDR of it
                problems.append(f"the kernel refused the neighbour {address}: {error}")
        to_set, to_remove = differing(wanted.forwarding, forwarding)
        for mac in to_remove:
            kernel.fdb("del", ifindex=index, lladdr=mac, dst=forwarding[mac])
        for mac in to_set:
            if mac in forwarding:  # the kernel replaces no entry of a VXLAN device
                kernel.fdb("del", ifindex=index, lladdr=mac, dst=forwarding[mac])
            try:
                kernel.fdb("append", ifindex=index, lladdr=mac, dst=wanted.forwarding[mac])
            except NetlinkError as error:  # an address of the other family
                problems.append(f"the kernel refused the tunnel to {wanted.forwarding[mac]}: {error}")
                done -= 1
        return done + len(to_set) + len(to_remove)


def pod_mtu(own_mtu: int, *, tunnels: bool) -> int:
    """The MTU in bytes of pods' interfaces."""
    return own_mtu - VXLAN_OVERHEAD_BYTES if tunnels else own_mtu


def plugins(directories: Sequence[Path]) -> set[str]:
    """Names of the CNI plug-ins in the first of `directories` that exist."""
    found: set[str] = set()
    for directory in directories:
        with suppress(OSError):
            found |= {path.name for path in directory.iterdir() if path.is_file()}
    return found


def remove_idle_bridge(name: str) -> bool:
    """Removes a bridge that no interface is part of; none is no error. False: pods are on it, and it stays."""
    with IPRoute() as kernel:
        found = kernel.link_lookup(ifname=name)
        if found and any(link.get_attr("IFLA_MASTER") == found[0] for link in kernel.get_links()):
            return False
        if found:
            kernel.link("del", index=found[0])
    return True
