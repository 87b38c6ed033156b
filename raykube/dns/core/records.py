"""One Service → the names below it, and their records (Kubernetes DNS specification 1.1.0). Pure.

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
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from raykube.dns.core.endpoints import Object, Port, Slice, ports_of
from raykube.dns.core.reply import pointer, record
from raykube.dns.core.wire import AAAA, HEADER_BYTES, QUESTION_POINTER, SRV, A, wire_name


class Answer(NamedTuple):
    """Records for one name and type, encoded behind a question of that name."""

    records: tuple[bytes, ...]
    additional: tuple[bytes, ...] = ()


_ADDRESS = {4: A.to_bytes(2, "big"), 16: AAAA.to_bytes(2, "big")}
_IN = b"\0\1"


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
    """Labels on the wire, without the end of the name; "" is none. Raises ValueError."""
    return wire_name(".".join(labels))[:-1]


class Point(NamedTuple):
    """An address that a name has, with its ports; SRV records name it by its label within the Service, "" for all."""

    label: str
    packed: bytes
    ports: tuple[Port, ...]


class Node:
    """One name of a Service; its records are made when somebody asks."""

    __slots__ = ("_answers", "_base", "_before", "_points", "_ttl_s")

    def __init__(self, before: bytes, base: bytes, points: list[Point], ttl_s: int) -> None:
        """`before` stands before the Service's own name, `base`. Without points the name exists, and has nothing."""
        self._before = before
        self._base = base
        self._points = points
        self._ttl_s = ttl_s
        self._answers: dict[int, Answer] = {}

    def answer(self, kind: int) -> Answer | None:
        found = self._answers.get(kind)
        if found is None and kind in (A, AAAA, SRV):
            found = self._answers[kind] = self._srv() if kind == SRV else self._addresses(4 if kind == A else 16)
        return found

    def _addresses(self, size: int) -> Answer:
        distinct = dict.fromkeys(point.packed for point in self._points if len(point.packed) == size)
        head = QUESTION_POINTER + _ADDRESS[size] + _IN + self._ttl_s.to_bytes(4, "big") + size.to_bytes(2, "big")
        return Answer(tuple(head + packed for packed in distinct))

    def _srv(self) -> Answer:
        # RFC 2782: the target is not compressed. Additional names end with the Service's, which the question has
        # behind what comes before it.
        base_pointer = pointer(HEADER_BYTES + len(self._before))
        distinct = dict.fromkeys((point.label, port.number) for point in self._points for port in point.ports)
        weight = max(1, 100 // len(distinct)) if distinct else 0
        records = []
        additional: dict[bytes, None] = {}
        labels = {point.label: label_bytes(point.label) for point in self._points}
        for label, number in distinct:
            data = struct.pack(">HHH", 0, weight, number) + labels[label] + self._base
            records.append(record(QUESTION_POINTER, SRV, self._ttl_s, data))
        for point in self._points:
            if point.ports:
                kind = A if len(point.packed) == 4 else AAAA
                additional[record(labels[point.label] + base_pointer, kind, self._ttl_s, point.packed)] = None
        return Answer(tuple(records), tuple(additional))


class ServiceNames:
    """The names of one Service that is no ExternalName, made when asked for."""

    def __init__(self, view: ServiceView, slices: Iterable[Slice], base: bytes, ttl_s: int) -> None:
        """`base` is the key of the Service's own name."""
        self._base = base
        self._ttl_s = ttl_s
        self._nodes: dict[bytes, Node] = {}
        self._points: dict[bytes, list[Point]] = {}  # by what stands before the Service's name
        reachable = [
            Point(endpoint.label, endpoint.packed, each.ports) for each in slices for endpoint in each.endpoints
        ]
        self._unnamed = reachable  # until somebody asks for an endpoint
        own = [Point("", ip_address(ip).packed, view.ports) for ip in view.cluster_ips]
        main = reachable if view.headless else own
        if main:
            self._points[b""] = main
            self._add_ports(main)

    def _add_ports(self, points: list[Point]) -> None:
        """`_http._tcp`, and `_tcp`, which is there and has nothing."""
        by_port: dict[Port, list[Point]] = {}
        for point in points:
            for port in point.ports:
                if port.name:
                    by_port.setdefault(port, []).append(point._replace(ports=(port,)))
        for port, found in by_port.items():
            with suppress(ValueError):
                self._points.setdefault(label_bytes(f"_{port.name}", f"_{port.protocol}"), []).extend(found)
                self._points.setdefault(label_bytes(f"_{port.protocol}"), [])

    def _add_endpoints(self) -> None:
        """Endpoints by their own names: those of a Service with a cluster IP too, as CoreDNS has them."""
        for point in self._unnamed:
            with suppress(ValueError):  # anybody may write slices: what is no label gets no name
                self._points.setdefault(label_bytes(point.label), []).append(point)
        self._unnamed = []

    def get(self, key: bytes) -> Node | None:
        """The name, if there is one."""
        node = self._nodes.get(key)
        if node is None:
            before = key[: len(key) - len(self._base)]
            points = self._points.get(before)
            if points is None and self._unnamed:
                self._add_endpoints()
                points = self._points.get(before)
            if points is not None:
                node = self._nodes[key] = Node(before, self._base, points, self._ttl_s)
        return node
