"""The cluster's zone: Services, their endpoints and namespaces in; answers by name and type out. Pure.

    set_service, set_slice, set_namespace ──► dirty names forgotten ──► lookup ──► names made anew, and kept

A change costs what it changes: a Service's names are forgotten, and made again when somebody asks. Only reverse names
are kept for all, for an address does not tell whose it is.
"""

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from raykube.dns.core.endpoints import Endpoint, Object, Slice, service_key, slice_of
from raykube.dns.core.records import Answer, ServiceNames, ServiceView, address_record, label_bytes
from raykube.dns.core.reply import pointer, record
from raykube.dns.core.wire import AAAA, CNAME, HEADER_BYTES, NS, PTR, QUESTION_POINTER, SOA, TXT, A, Query, wire_name

SCHEMA_VERSION = "1.1.0"
SCHEMA_TTL_S = 28800
_REFRESH_S, _RETRY_S, _EXPIRE_S = 7200, 1800, 86400  # CoreDNS'

Key = tuple[str, str]  # namespace, name
Owner = tuple[Key, str]  # of a reverse name: a Service with one of its slices; "": with its cluster IPs


class Found(NamedTuple):
    """The name exists: what it has of the type asked for; nothing is NODATA."""

    answer: Answer


class Alias(NamedTuple):
    """The name is a CNAME: of an ExternalName Service."""

    record: bytes
    target: bytes  # a wire name


class Absent(NamedTuple):
    """There is no such name in the zone: NXDOMAIN."""


class Foreign(NamedTuple):
    """The name is not the zone's: others are to be asked."""


Lookup = Found | Alias | Absent | Foreign
NO_DATA = Found(Answer(()))
ABSENT, FOREIGN = Absent(), Foreign()


def reverse_name(address: str) -> bytes:
    """The key of an address: 4.3.2.1.in-addr.arpa."""
    return wire_name(ip_address(address).reverse_pointer)


def _kind(view: ServiceView | None) -> str:
    """What decides which endpoints have reverse names."""
    if view is None or view.external_name:
        return ""
    return "headless" if view.headless else "virtual"


class _Service:
    """A Service, or the endpoints of one that is not there (yet)."""

    __slots__ = ("names", "slices", "view")

    def __init__(self) -> None:
        self.view: ServiceView | None = None
        self.slices: dict[str, Slice] = {}
        self.names: ServiceNames | None = None  # made when asked for


class Zone:
    """One cluster domain."""

    def __init__(self, domain: str, *, ttl_s: int = 30, pods: bool = True, servers: Iterable[str] = ()) -> None:
        """`servers`: the addresses of ns.dns.DOMAIN. `pods`: whether pod names are answered."""
        self.apex = wire_name(domain.lower())
        self.domain = domain.lower().removesuffix(".")
        self.serial = 1
        self._ttl_s = ttl_s
        self._pods = pods
        self._namespaces: set[str] = set()
        self._services: dict[Key, _Service] = {}
        self._reverse: dict[bytes, dict[Owner, tuple[Endpoint, ...]]] = {}
        self._reverse_of: dict[Owner, tuple[bytes, ...]] = {}  # which of them an owner is in
        self._service_of_slice: dict[Key, Key] = {}
        self._fixed = self._fixed_names(list(servers))

    def _fixed_names(self, servers: list[str]) -> dict[bytes, dict[int, Answer]]:
        server = label_bytes("ns", "dns")
        own: dict[int, list[bytes]] = {A: [], AAAA: []}
        glue = []
        for address in servers:
            kind, encoded = address_record(QUESTION_POINTER, self._ttl_s, address)
            own[kind].append(encoded)
            glue.append(address_record(server + QUESTION_POINTER, self._ttl_s, address)[1])
        version = SCHEMA_VERSION.encode()
        text = record(QUESTION_POINTER, TXT, SCHEMA_TTL_S, bytes((len(version),)) + version)
        nameserver = record(QUESTION_POINTER, NS, self._ttl_s, server + self.apex)
        return {
            self.apex: {NS: Answer((nameserver,), tuple(glue))},
            label_bytes("dns-version") + self.apex: {TXT: Answer((text,))},
            server + self.apex: {kind: Answer(tuple(records)) for kind, records in own.items() if records},
            **{label_bytes(name) + self.apex: {} for name in (("svc", "pod", "dns") if self._pods else ("svc", "dns"))},
        }

    # Objects

    def set_namespace(self, name: str, exists: bool) -> None:
        if exists:
            self._namespaces.add(name)
        else:
            self._namespaces.discard(name)

    def set_service(self, key: Key, obj: Object | None) -> None:
        entry = self._services.setdefault(key, _Service())
        former, entry.view = entry.view, None if obj is None else ServiceView.of(obj)
        entry.names = None
        self._set_reverse((key, ""), self._service_reverse(entry.view))
        if _kind(former) != _kind(entry.view):
            for name in entry.slices:
                self._set_slice_reverse(key, name)
        if obj is not None:
            self._on_revision(obj)
        self._drop_if_empty(key)

    def set_slice(self, slice_key: Key, obj: Object | None) -> None:
        service = service_key(obj) if obj is not None else None
        former = self._service_of_slice.get(slice_key)
        name = slice_key[1]
        if former is not None and former != service:
            del self._service_of_slice[slice_key]
            entry = self._services[former]
            del entry.slices[name]
            entry.names = None
            self._set_reverse((former, name), {})
            self._drop_if_empty(former)
        if obj is None or service is None:
            return
        self._on_revision(obj)
        entry = self._services.setdefault(service, _Service())
        self._service_of_slice[slice_key] = service
        found = slice_of(obj)
        if entry.slices.get(name) != found:
            entry.slices[name] = found
            entry.names = None
            self._set_slice_reverse(service, name)

    def _on_revision(self, obj: Object) -> None:
        """The serial is the newest revision seen: all servers of a cluster count alike."""
        version = (obj["metadata"].get("resourceVersion") or "").removeprefix("-")
        if version.isdigit():
            self.serial = max(self.serial, int(version) & 0xFFFFFFFF)

    def _drop_if_empty(self, key: Key) -> None:
        entry = self._services[key]
        if entry.view is None and not entry.slices:
            del self._services[key]

    def __len__(self) -> int:
        """How many Services it knows."""
        return sum(entry.view is not None for entry in self._services.values())

    # Reverse names

    @staticmethod
    def _service_reverse(view: ServiceView | None) -> dict[bytes, tuple[Endpoint, ...]]:
        ips = view.cluster_ips if view is not None else ()
        return {reverse_name(ip): (Endpoint("", ip, b""),) for ip in ips}

    def _set_slice_reverse(self, service: Key, name: str) -> None:
        """A headless Service's endpoints all have reverse names; others' have where a host name was given."""
        entry = self._services[service]
        found: dict[bytes, tuple[Endpoint, ...]] = {}
        if entry.view is not None and not entry.view.external_name:
            for endpoint in entry.slices[name].endpoints:
                if endpoint.hostname or entry.view.headless:
                    key = reverse_name(endpoint.address)
                    found[key] = (*found.get(key, ()), endpoint)
        self._set_reverse((service, name), found)

    def _set_reverse(self, owner: Owner, found: dict[bytes, tuple[Endpoint, ...]]) -> None:
        for key in self._reverse_of.pop(owner, ()):
            if key not in found:
                owners = self._reverse[key]
                del owners[owner]
                if not owners:
                    del self._reverse[key]
        for key, endpoints in found.items():
            self._reverse.setdefault(key, {})[owner] = endpoints
        if found:
            self._reverse_of[owner] = tuple(found)

    def _reverse_answer(self, owners: dict[Owner, tuple[Endpoint, ...]]) -> Answer:
        """A Service's own address names the Service; else its endpoints, those with given host names first."""
        services = sorted({key for key, slice_name in owners if not slice_name})
        parts: list[tuple[str, ...]] = [(name, namespace) for namespace, name in services]
        if not parts:
            targets = sorted({(not e.hostname, *key, e.label) for (key, _), found in owners.items() for e in found})
            parts = [(label, name, namespace) for _, namespace, name, label in targets]
        names = []
        for labels in parts:
            with suppress(ValueError):  # a host name that is no label
                names.append(label_bytes(*labels, "svc") + self.apex)
        return Answer(tuple(record(QUESTION_POINTER, PTR, self._ttl_s, name) for name in names))

    # Names

    def lookup(self, query: Query) -> Lookup:
        """What the zone says to a query."""
        key = query.key
        start = len(key) - len(self.apex)
        if start not in query.labels or not key.endswith(self.apex):
            if query.type != PTR:
                return FOREIGN
            owners = self._reverse.get(key)
            return Found(self._reverse_answer(owners)) if owners else FOREIGN
        fixed = self._fixed.get(key)
        if fixed is not None:
            if query.type == SOA and key == self.apex:
                return Found(Answer((self.soa(QUESTION_POINTER, HEADER_BYTES),)))
            return _found(fixed.get(query.type))
        inner = query.labels.index(start)  # how many labels stand before the zone's
        kind = key[query.labels[inner - 1] + 1 : start] if inner >= 2 else b""
        if kind == b"svc":
            return self._service_lookup(query, inner)
        if kind == b"pod" and self._pods:
            return self._pod_lookup(query, inner)
        return ABSENT

    def _label(self, query: Query, index: int) -> str:
        start, end = query.labels[index], query.labels[index + 1]
        return query.key[start + 1 : end].decode("latin-1")

    def _service_lookup(self, query: Query, inner: int) -> Lookup:
        namespace = self._label(query, inner - 2)
        if inner == 2:
            return NO_DATA if namespace in self._namespaces else ABSENT
        entry = self._services.get((namespace, self._label(query, inner - 3)))
        if entry is None or entry.view is None:
            return ABSENT
        if entry.view.external_name:
            if inner > 3:
                return ABSENT
            target = wire_name(entry.view.external_name)
            return Alias(record(QUESTION_POINTER, CNAME, self._ttl_s, target), target)
        names = entry.names
        if names is None:
            base = query.key[query.labels[inner - 3] :]
            names = entry.names = ServiceNames(entry.view, entry.slices.values(), base, self._ttl_s)
        node = names.get(query.key)
        return ABSENT if node is None else _found(node.answer(query.type))

    def _pod_lookup(self, query: Query, inner: int) -> Lookup:
        """`10-1-2-3.default.pod.ZONE` is 10.1.2.3, whether there is such a pod or not (CoreDNS' `pods insecure`)."""
        if self._label(query, inner - 2) not in self._namespaces:
            return ABSENT
        if inner == 2:
            return NO_DATA
        if inner > 3:
            return ABSENT
        label = self._label(query, 0)
        dotted = label.count("-") == 3 and "--" not in label
        try:
            ip = ip_address(label.replace("-", "." if dotted else ":"))
        except ValueError:
            return ABSENT
        if "%" in label or "." in label or ":" in label:
            return ABSENT
        kind, encoded = address_record(QUESTION_POINTER, self._ttl_s, str(ip))
        return Found(Answer((encoded,))) if kind == query.type else NO_DATA

    def soa(self, owner: bytes, apex_at: int) -> bytes:
        """The zone's SOA; the zone's name stands at `apex_at` of the message. Its minimum is how long absence holds."""
        apex = pointer(apex_at)
        numbers = (self.serial, _REFRESH_S, _RETRY_S, _EXPIRE_S, self._ttl_s)
        data = label_bytes("ns", "dns") + apex + label_bytes("hostmaster") + apex
        return record(owner, SOA, self._ttl_s, data + b"".join(number.to_bytes(4, "big") for number in numbers))

    def negative_soa(self, query: Query) -> bytes:
        """The SOA for the authority section of an answer without records."""
        at = HEADER_BYTES + len(query.key) - len(self.apex)
        return self.soa(pointer(at), at)


def _found(answer: Answer | None) -> Found:
    return Found(answer) if answer is not None else NO_DATA
