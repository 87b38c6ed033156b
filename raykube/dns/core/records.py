"""One Service → the names below it, each with ready records (Kubernetes DNS specification 1.1.0). Pure.

    web.default.svc.ZONE                    A, AAAA: the cluster IPs; headless: every ready endpoint
                                            SRV: all ports
    _http._tcp.web.default.svc.ZONE         SRV: the named port; A and AAAA as above
    web-0.web.default.svc.ZONE              A, AAAA, SRV: the ready endpoint with that host name
    10-1-2-3.web.default.svc.ZONE           one without a host name

A headless Service without a ready endpoint has no names. SRV records have priority 0 and share a weight of 100, as
CoreDNS' do; their targets' addresses are in the additional section.
"""

import struct
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from raykube.dns.core.endpoints import Endpoint, Object, Port, Slice, ports_of
from raykube.dns.core.reply import pointer, record
from raykube.dns.core.wire import AAAA, HEADER_BYTES, QUESTION_POINTER, SRV, A, wire_name


class Answer(NamedTuple):
    """Records for one name and type, encoded behind a question of that name."""

    records: tuple[bytes, ...]
    additional: tuple[bytes, ...] = ()


Node = dict[int, Answer]  # a name's answers by type; empty: the name exists, and has nothing itself
Names = dict[bytes, Node]  # by key


class ServiceView(NamedTuple):
    """What DNS needs of a Service."""

    namespace: str
    name: str
    cluster_ips: tuple[str, ...]
    ports: tuple[Port, ...]
    headless: bool
    external_name: str

    @classmethod
    def of(cls, obj: Object) -> "ServiceView":
        spec, metadata = obj.get("spec") or {}, obj["metadata"]
        ips = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
        external = spec.get("type") == "ExternalName"
        headless = not external and ips[0] == "None"
        return cls(
            metadata.get("namespace", ""),
            metadata["name"],
            () if headless or external else tuple(str(ip_address(ip)) for ip in ips if ip),
            ports_of(spec.get("ports")),
            headless,
            _external_name(spec.get("externalName") or "") if external else "",
        )


def _external_name(text: str) -> str:
    """Without the last dot; "" for an address, which no CNAME may name, and for what is no name at all."""
    name = text.lower().removesuffix(".")
    try:
        ip_address(name)
    except ValueError:
        try:
            wire_name(name)
        except ValueError:
            return ""
        return name
    return ""


def address_record(owner: bytes, ttl_s: int, address: str) -> tuple[int, bytes]:
    """(type, record) of an address."""
    ip = ip_address(address)
    kind = A if ip.version == 4 else AAAA
    return kind, record(owner, kind, ttl_s, ip.packed)


def label_bytes(*labels: str) -> bytes:
    """Labels on the wire, without the end of the name. Raises ValueError."""
    return wire_name(".".join(labels))[:-1]


class _Target(NamedTuple):
    """What SRV records name: the Service itself (label ""), or one of its endpoints."""

    label: str
    address: str
    port: Port


def compile_names(view: ServiceView, slices: Iterable[Slice], base: bytes, ttl_s: int) -> Names:
    """All names of a Service that is no ExternalName; `base` is the key of its own name."""
    return _Compiler(base, ttl_s).compile(view, list(slices))


class _Compiler:
    """The names of one Service while they are made."""

    def __init__(self, base: bytes, ttl_s: int) -> None:
        self._base = base
        self._ttl_s = ttl_s
        self._names: Names = {}

    def compile(self, view: ServiceView, slices: list[Slice]) -> Names:
        reachable = [(endpoint, each.ports) for each in slices for endpoint in each.endpoints]
        if view.headless:
            targets = [_Target(e.label, e.address, port) for e, ports in reachable for port in ports]
            addresses = dict.fromkeys(endpoint.address for endpoint, _ in reachable)
        else:
            targets = [_Target("", ip, port) for port in view.ports for ip in view.cluster_ips]
            addresses = dict.fromkeys(view.cluster_ips)
        if not addresses:
            return self._with_endpoints(reachable)
        self._add((), addresses, targets)
        by_port: dict[tuple[str, str], list[_Target]] = {}
        for target in targets:
            if target.port.name:
                by_port.setdefault((target.port.name, target.port.protocol), []).append(target)
        for (name, protocol), found in by_port.items():
            self._names.setdefault(label_bytes(f"_{protocol}") + self._base, {})
            self._add((f"_{name}", f"_{protocol}"), dict.fromkeys(t.address for t in found), found)
        return self._with_endpoints(reachable)

    def _with_endpoints(self, reachable: list[tuple[Endpoint, tuple[Port, ...]]]) -> Names:
        """The endpoints by their own names: of a Service with a cluster IP too, as CoreDNS has them."""
        by_label: dict[str, list[tuple[Endpoint, tuple[Port, ...]]]] = {}
        for endpoint, ports in reachable:
            by_label.setdefault(endpoint.label, []).append((endpoint, ports))
        for label, found in by_label.items():
            targets = [_Target(label, e.address, port) for e, ports in found for port in ports]
            self._add((label,), dict.fromkeys(e.address for e, _ in found), targets)
        return self._names

    def _add(self, prefix: tuple[str, ...], addresses: Iterable[str], targets: list[_Target]) -> None:
        try:
            before = label_bytes(*prefix)
        except ValueError:
            return  # anybody may write slices: what is no label gets no name
        found: dict[int, list[bytes]] = {}
        for address in addresses:
            kind, encoded = address_record(QUESTION_POINTER, self._ttl_s, address)
            found.setdefault(kind, []).append(encoded)
        node = {kind: Answer(tuple(records)) for kind, records in found.items()}
        if targets:
            # Names of targets end with the Service's name, which the question has behind the prefix.
            node[SRV] = self._srv(targets, pointer(HEADER_BYTES + len(before)))
        self._names[before + self._base] = node

    def _srv(self, targets: list[_Target], base_pointer: bytes) -> Answer:
        distinct = dict.fromkeys((target.label, target.port.number) for target in targets)
        weight = max(1, 100 // len(distinct))
        records = []
        for label, number in distinct:
            data = struct.pack(">HHH", 0, weight, number)
            # RFC 2782: the target is not compressed.
            records.append(record(QUESTION_POINTER, SRV, self._ttl_s, data + label_bytes(label) + self._base))
        additional = dict.fromkeys(
            address_record(label_bytes(target.label) + base_pointer, self._ttl_s, target.address)[1]
            for target in targets
        )
        return Answer(tuple(records), tuple(additional))
