"""Cluster IPs and node ports, never given twice, whichever apiserver gives them.

An address is taken by creating its key, which only one writer can:

    /registry/ranges/serviceips/10.96.0.10      → {"service": "default/web", "at": 1700000000}
    /registry/ranges/servicenodeports/30080     → the same

The key is made before the Service is written and removed after the Service is gone or has given the address up. A crash
in between leaves a key without its Service: `repair` frees those that are old enough to be nobody's work in progress.
"""

import logging
import random
import time
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import orjson

from raykube.api import meta
from raykube.api.errors import ApiError, Cause
from raykube.api.resources import Resource
from raykube.apiserver.core import servicespec
from raykube.apiserver.core.planning import Current, Operation
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.store import Store
from raykube.pb import batch_pb2

log = logging.getLogger(__name__)

IPS = "/registry/ranges/serviceips/"
PORTS = "/registry/ranges/servicenodeports/"
ORPHAN_AGE_S = 60.0
_TRIES = 200


class ServiceAddresses:
    """Allocates cluster IPs of `cidr` and node ports of `ports`."""

    def __init__(self, store: Store, services: Resource, cidr: str, ports: range) -> None:
        self._store = store
        self._services = services
        self.network: IPv4Network | IPv6Network = ip_network(cidr)
        self.ports = ports
        self._held: dict[int, list[str]] = {}  # keys taken for an operation that is not settled

    @property
    def first(self) -> str:
        """The address of Service default/kubernetes."""
        return str(self.network[1])

    async def allocate(self, op: Operation, value: bytes, current: Current | None) -> bytes:
        """Completes a Service that is about to be written with addresses. Raises ApiError; takes nothing then."""
        obj: Object = orjson.loads(value)
        old = orjson.loads(current.data) if current is not None else None
        owner = f"{op.namespace}/{op.name}"
        servicespec.complete(obj, "IPv6" if self.network.version == 6 else "IPv4")
        if op.dry_run:
            return meta.encode(obj)
        await self.abandon(op)  # an attempt before this one lost its race
        had = servicespec.addresses(old) if old is not None else servicespec.Addresses()
        held = self._held.setdefault(id(op), [])
        try:
            spec = obj["spec"]
            if servicespec.wants_ip(spec):
                spec["clusterIP"] = await self._any_ip(owner, held)
            elif servicespec.has_ip(spec) and spec["clusterIP"] not in had.ips:
                await self._this_ip(op, spec["clusterIP"], owner, held)
            if servicespec.has_ip(spec) or spec.get("clusterIP") == "None":
                spec["clusterIPs"] = [spec["clusterIP"]]
            await self._node_ports(op, obj, had, owner, held)
        except ApiError:
            await self.abandon(op)
            raise
        return meta.encode(obj)

    async def _node_ports(
        self, op: Operation, obj: Object, had: servicespec.Addresses, owner: str, held: list[str]
    ) -> None:
        spec = obj["spec"]
        if not servicespec.wants_node_ports(spec):
            return
        mine: dict[int, set[str]] = {port: {"TCP", "UDP", "SCTP"} for port in had.ports}
        for index, entry in enumerate(spec.get("ports") or ()):
            port, protocol = entry.get("nodePort"), entry.get("protocol", "TCP")
            if not port:
                entry["nodePort"] = await self._any_port(owner, held)
                continue
            if port not in self.ports:
                valid = f"{self.ports[0]}-{self.ports[-1]}"
                text = f"provided port is not in the valid range. The range of valid ports is {valid}"
                message = f"Invalid value: {port}: {text}"
                raise ApiError.invalid(
                    op.resource, op.name, [Cause("FieldValueInvalid", message, f"spec.ports[{index}].nodePort")]
                )
            if protocol in mine.get(port, ()):
                continue
            if port not in mine and not await self._take(PORTS + str(port), owner, held):
                message = f"Invalid value: {port}: provided port is already allocated"
                raise ApiError.invalid(
                    op.resource, op.name, [Cause("FieldValueInvalid", message, f"spec.ports[{index}].nodePort")]
                )
            mine.setdefault(port, set()).add(protocol)

    async def _any_ip(self, owner: str, held: list[str]) -> str:
        used = self._used_ips()
        size = self.network.num_addresses
        for _ in range(_TRIES):
            index = random.randrange(2, size - 1) if size > 4 else random.randrange(1, size)
            address = str(self.network[index])
            if address not in used and await self._take(IPS + address, owner, held):
                return address
        for index in range(2, min(size - 1, 65_536)):  # nearly full: what is left, in order
            address = str(self.network[index])
            if address not in used and await self._take(IPS + address, owner, held):
                return address
        raise ApiError.internal("failed to allocate a serviceIP: range is full")

    async def _this_ip(self, op: Operation, address: str, owner: str, held: list[str]) -> None:
        field = "spec.clusterIPs"
        if ip_address(address) not in self.network:
            message = (
                f'Invalid value: ["{address}"]: failed to allocate IP {address}: the provided network does not match '
                "the current range"
            )
            raise ApiError.invalid(op.resource, op.name, [Cause("FieldValueInvalid", message, field)])
        if not await self._take(IPS + address, owner, held):
            message = f'Invalid value: ["{address}"]: failed to allocate IP {address}: provided IP is already allocated'
            raise ApiError.invalid(op.resource, op.name, [Cause("FieldValueInvalid", message, field)])

    async def _any_port(self, owner: str, held: list[str]) -> int:
        used = self._used_ports()
        for port in random.sample(self.ports, len(self.ports)):
            if port not in used and await self._take(PORTS + str(port), owner, held):
                return port
        raise ApiError.internal("failed to allocate a nodePort: range is full")

    async def _take(self, key: str, owner: str, held: list[str]) -> bool:
        value = orjson.dumps({"service": owner, "at": int(time.time())})
        result = (await self._store.write([batch_pb2.Write(key=key.encode(), value=value, expected_revision=0)]))[0]
        if result.applied:
            held.append(key)
        return bool(result.applied)

    def _used_ips(self) -> set[str]:
        cache = self._store.cache(self._services)
        return {ip for item in cache.items() for ip in servicespec.addresses(item.parsed()).ips}

    def _used_ports(self) -> set[int]:
        cache = self._store.cache(self._services)
        return {port for item in cache.items() for port in servicespec.addresses(item.parsed()).ports}

    async def abandon(self, op: Operation) -> None:
        """The write did not happen: what was taken for it is free again."""
        await self._free(self._held.pop(id(op), []))

    def forget(self, op: Operation) -> None:
        """Nobody knows whether the write happened: what was taken stays, until `repair` knows."""
        self._held.pop(id(op), None)

    async def settle(self, op: Operation, value: bytes | None, before: Current | None) -> None:
        """The write happened: what the Service had and has no more is free again."""
        self._held.pop(id(op), None)
        if before is None or op.dry_run:
            return
        had = servicespec.addresses(orjson.loads(before.data))
        has = servicespec.addresses(orjson.loads(value)) if value is not None else servicespec.Addresses()
        await self._free([IPS + ip for ip in had.ips - has.ips] + [PORTS + str(port) for port in had.ports - has.ports])

    async def _free(self, keys: list[str]) -> None:
        if not keys:
            return
        try:
            await self._store.write([batch_pb2.Write(key=key.encode(), expected_revision=-1) for key in keys])
        except ApiError as error:
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
            value = orjson.dumps({"service": "", "at": int(now)})
            writes.append(batch_pb2.Write(key=key.encode(), value=value, expected_revision=0))
        if writes:
            await self._store.write(writes)
