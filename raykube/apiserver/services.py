"""Cluster IPs and node ports, never given twice, whichever apiserver gives them.

An address is taken by creating its key, which only one writer can:

    /registry/ranges/serviceips/10.96.0.10      → {"service": "default/web", "uid": …, "at": 1700000000}
    /registry/ranges/servicenodeports/30080     → the same

The key is made before the Service is written and removed after the Service is gone or has given the address up. A crash
in between leaves a key without its Service: `repair` frees those that are old enough to be nobody's work in progress.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import orjson

from raykube.api import meta
from raykube.api.errors import ApiError, Cause
from raykube.api.resources import Resource
from raykube.api.validation.service import needs_health_check
from raykube.apiserver.core import servicespec
from raykube.apiserver.core.planning import Current, Operation
from raykube.apiserver.core.servicefamilies import family_of
from raykube.apiserver.core.servicespec import canonical
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.store import Store
from raykube.pb import batch_pb2
from raykube.rpc.errors import RpcError

log = logging.getLogger(__name__)

IPS = "/registry/ranges/serviceips/"
PORTS = "/registry/ranges/servicenodeports/"
ORPHAN_AGE_S = 60.0
_BLIND_TRIES = 8  # random addresses of a large range are rarely taken
_LISTED_MAX = 65_536

Network = IPv4Network | IPv6Network


class ServiceAddresses:
    """Allocates cluster IPs of `networks`, one for each family, and node ports of `ports`.

    The low end of each range is for who names an address: others get one there only when the rest is full.
    """

    def __init__(self, store: Store, services: Resource, networks: Sequence[str], ports: range) -> None:
        self._store = store
        self._services = services
        found = [ip_network(text) for text in networks]
        self._networks: dict[str, Network] = {family_of(str(each)): each for each in found}
        self._ports = ports
        self.first = str(found[0][1])  # the address of Service default/kubernetes

    async def allocate(self, op: Operation, value: bytes, current: Current | None, held: "Held") -> bytes:
        """Completes a Service that is about to be written with addresses. Raises ApiError; takes nothing then."""
        obj: Object = orjson.loads(value)
        old = orjson.loads(current.data) if current is not None else None
        await self.abandon(held)  # an attempt before this one lost its race
        held.owner = {"service": f"{op.namespace}/{op.name}", "uid": obj["metadata"].get("uid", "")}
        draft = _Draft(op, servicespec.addresses(old) if old is not None else None, held)
        try:
            await self._cluster_ips(draft, obj["spec"])
            await self._node_ports(draft, obj["spec"])
        except ApiError:
            await self.abandon(held)
            raise
        return meta.encode(obj)

    async def _cluster_ips(self, draft: "_Draft", spec: Object) -> None:
        ips: list[str] = list(spec.get("clusterIPs") or ())
        if not servicespec.needs_ip(spec) or "None" in ips:
            return
        for index, family in enumerate(spec.get("ipFamilies") or ()):
            if family not in self._networks:
                continue  # of a Service that is left as it was when the cluster had both
            if index == len(ips):
                ips.append(await self._any_ip(draft, family))
            elif canonical(ips[index]) not in draft.had.ips:
                await self._this_ip(draft, family, index, ips)
        spec["clusterIP"], spec["clusterIPs"] = ips[0], ips

    async def _any_ip(self, draft: "_Draft", family: str) -> str:
        network = self._networks[family]
        last = network.num_addresses - (1 if network.version == 6 else 2)  # IPv4's broadcast address is none

        def used() -> set[int]:
            found = map(ip_address, self._used_ips())
            first = int(network.network_address)
            return {int(each) - first for each in found if each.version == network.version and each in network}

        for index in _drawn(range(1, last + 1), _static_ips(network.num_addresses), used):
            address = str(network[index])
            if await self._take(IPS + address, draft.held):
                return address
        raise ApiError.internal("failed to allocate a serviceIP: range is full")

    async def _this_ip(self, draft: "_Draft", family: str, index: int, ips: list[str]) -> None:
        address = ips[index]
        problem = ""
        if ip_address(address) not in self._networks[family]:
            problem = "the provided network does not match the current range"
        elif not await self._take(IPS + canonical(address), draft.held):
            problem = "provided IP is already allocated"
        if problem:
            shown = orjson.dumps(ips).decode()
            raise draft.invalid("spec.clusterIPs", f"{shown}: failed to allocate IP {address}: {problem}")

    async def _node_ports(self, draft: "_Draft", spec: Object) -> None:
        if servicespec.needs_node_ports(spec):
            draws = servicespec.draws_node_ports(spec)
            by_port: dict[int, int] = {}  # of a new Service, TCP and UDP of one port share a node port
            for index, entry in enumerate(spec.get("ports") or ()):
                wanted = entry.get("nodePort") or (_wanted(spec, entry) if draft.is_new and draws else 0)
                if wanted and wanted not in by_port.values():
                    if problem := await self._this_port(draft, wanted):
                        raise draft.invalid(f"spec.ports[{index}].nodePort", f"{wanted}: {problem}")
                elif not wanted and draws:
                    wanted = by_port.get(entry["port"], 0) if draft.is_new else 0
                    wanted = wanted or await self._any_port(draft, "a nodePort")
                if wanted:
                    entry["nodePort"] = wanted
                    by_port.setdefault(entry["port"], wanted)
        if needs_health_check(spec):
            await self._health_check_port(draft, spec)

    async def _this_port(self, draft: "_Draft", port: int) -> str:
        """Takes the port that the client asks for, or returns why it cannot have it."""
        if port in draft.had.ports:
            return ""
        if port not in self._ports:
            valid = f"{self._ports[0]}-{self._ports[-1]}"
            return f"provided port is not in the valid range. The range of valid ports is {valid}"
        return "" if await self._take(PORTS + str(port), draft.held) else "provided port is already allocated"

    async def _any_port(self, draft: "_Draft", what: str) -> int:
        first = self._ports[0]

        def used() -> set[int]:
            return {port - first for port in self._used_ports()}

        for index in _drawn(range(len(self._ports)), _static_ports(len(self._ports)), used):
            if await self._take(PORTS + str(first + index), draft.held):
                return first + index
        raise ApiError.internal(f"failed to allocate {what}: range is full")

    async def _health_check_port(self, draft: "_Draft", spec: Object) -> None:
        """The port on which every node tells load balancers if it has endpoints."""
        port = spec.get("healthCheckNodePort") or 0
        if not port:
            spec["healthCheckNodePort"] = await self._any_port(draft, "a HealthCheck NodePort 0")
        elif problem := await self._this_port(draft, port):
            raise ApiError.internal(f"failed to allocate requested HealthCheck NodePort {port}: {problem}")

    async def _take(self, key: str, held: "Held") -> bool:
        now = time.time()
        value = orjson.dumps(held.owner | {"at": int(now)})
        result = (await self._store.write([batch_pb2.Write(key=key.encode(), value=value, expected_revision=0)]))[0]
        if result.applied:
            held.since = now if not held.keys else held.since
            held.keys.append(key)
        return bool(result.applied)

    def _used_ips(self) -> set[str]:
        cache = self._store.cache(self._services)
        return {ip for item in cache.items() for ip in servicespec.addresses(item.parsed()).ips}

    def _used_ports(self) -> set[int]:
        cache = self._store.cache(self._services)
        return {port for item in cache.items() for port in servicespec.addresses(item.parsed()).ports}

    async def abandon(self, held: "Held") -> None:
        """The write did not happen: what was taken for it is free again."""
        keys, held.keys = held.keys, []
        await self._free(keys, held.owner.get("uid", ""))

    async def settle(self, op: Operation, value: bytes | None, before: Current | None) -> None:
        """The write happened: what the Service had and has no more is free again."""
        if before is None:
            return
        old = orjson.loads(before.data)
        had = servicespec.addresses(old)
        has = servicespec.addresses(orjson.loads(value)) if value is not None else servicespec.Addresses()
        keys = [IPS + ip for ip in had.ips - has.ips] + [PORTS + str(port) for port in had.ports - has.ports]
        await self._free(keys, old["metadata"].get("uid", ""))

    async def _free(self, keys: list[str], uid: str) -> None:
        """Those that are still the Service's: once `repair` freed one, it may be somebody else's by now."""
        if not keys:
            return
        try:
            found = [kv for key in keys for kv in (await self._store.kv.range(key.encode())).kvs]
            writes = [
                batch_pb2.Write(key=kv.key, expected_revision=kv.mod_revision)
                for kv in found
                if orjson.loads(kv.value).get("uid", "") in (uid, "")
            ]
            if writes:
                await self._store.write(writes)
        except (ApiError, RpcError, OSError) as error:
            log.warning("addresses %s stay taken until the next repair: %s", keys, error)

    async def repair(self, now: float) -> None:
        """Frees addresses whose Service is gone, takes those that a Service has without a key."""
        await self._store.fresh()
        used = {IPS + ip for ip in self._used_ips()} | {PORTS + str(port) for port in self._used_ports()}
        taken: set[str] = set()
        writes = []
        for prefix in (IPS, PORTS):
            answer = await self._store.kv.range(prefix.encode(), prefix[:-1].encode() + b"0")
            for kv in answer.kvs:
                key = kv.key.decode()
                taken.add(key)
                if key not in used and now - orjson.loads(kv.value)["at"] > ORPHAN_AGE_S:
                    writes.append(batch_pb2.Write(key=kv.key, expected_revision=kv.mod_revision))
        for key in used - taken:
            value = orjson.dumps({"service": "", "uid": "", "at": int(now)})
            writes.append(batch_pb2.Write(key=key.encode(), value=value, expected_revision=0))
        if writes:
            await self._store.write(writes)


class Held:
    """What one operation has taken and not yet settled."""

    __slots__ = ("keys", "owner", "since")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.owner: dict[str, str] = {}
        self.since = 0.0  # when the first of `keys` was taken

    def is_old(self, now: float) -> bool:
        """Whether `repair` may soon take what was taken for an orphan's: too late to write the Service."""
        return bool(self.keys) and now - self.since > ORPHAN_AGE_S / 2


def late() -> ApiError:
    """The answer to a Service that is not written as what it holds `is_old`."""
    return ApiError.unavailable("the addresses of the Service took too long; try again", 1)


class _Draft:
    """A Service on its way to its addresses; `had` is None for a new one."""

    __slots__ = ("had", "held", "is_new", "op")

    def __init__(self, op: Operation, had: servicespec.Addresses | None, held: Held) -> None:
        self.op = op
        self.is_new = had is None
        self.had = had or servicespec.Addresses()
        self.held = held

    def invalid(self, field: str, detail: str) -> ApiError:
        cause = Cause("FieldValueInvalid", f"Invalid value: {detail}", field)
        return ApiError.invalid(self.op.resource, self.op.name, [cause])


def _wanted(spec: Object, entry: Object) -> int:
    """The node port that another entry with the same port asks for."""
    asked = (each["nodePort"] for each in spec["ports"] if each["port"] == entry["port"] and each.get("nodePort"))
    return next(asked, 0)


def _static_ips(size: int) -> int:
    """How many addresses at the low end are for who names one (upstream's rule)."""
    return 0 if size <= 16 else min(max(16, size // 16), 256)


def _static_ports(size: int) -> int:
    """How many ports at the low end are for who names one (upstream's rule)."""
    return 0 if size < 32 else min(max(16, size // 32), 128)


def _drawn(indexes: range, static: int, used: Callable[[], Iterable[int]]) -> Iterator[int]:
    """Places to try: at random above the static ones, then all that look free there, then the static ones."""
    split = min(indexes.start + static, indexes.stop)
    upper, lower = range(split, indexes.stop), range(indexes.start, split)
    for _ in range(_BLIND_TRIES if upper else 0):
        yield random.randrange(upper.start, upper.stop)
    taken = set(used())
    for part in (upper[:_LISTED_MAX], lower):
        free = [index for index in part if index not in taken]
        random.shuffle(free)
        yield from free
