"""A member of the store as a service: disk, peers, clients' API, in the order in which they depend on each other."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterable
from dataclasses import replace

from raykube.kv import joins, log_place, recall
from raykube.kv.at_leader import AtLeader
from raykube.kv.auth_service import AuthService
from raykube.kv.batch_service import BATCH_BYTES_MAX, BatchService
from raykube.kv.cluster_service import ClusterService
from raykube.kv.config import Config
from raykube.kv.contenders import Contenders
from raykube.kv.core.compactor import Compactor
from raykube.kv.core.identity import (
    address_of,
    cluster_id,
    is_same_place,
    parse_initial_cluster,
    require_advertised,
    takes_ipv4,
    token_id,
)
from raykube.kv.core.mvcc.machine import LEVEL, Command
from raykube.kv.core.raft.membership import Member as Record
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.wal_codec import Meta
from raykube.kv.election_service import ElectionService
from raykube.kv.gate import Gate
from raykube.kv.gateway import Gateway
from raykube.kv.health_service import HealthService
from raykube.kv.kv_service import KvService
from raykube.kv.lease_service import LeaseService
from raykube.kv.limits import Admission
from raykube.kv.lock_service import LockService
from raykube.kv.maintenance_service import MaintenanceService
from raykube.kv.member import Member
from raykube.kv.memory import Memory
from raykube.kv.monitor import Monitor
from raykube.kv.peer_service import PeerService
from raykube.kv.scrubber import Scrubber
from raykube.kv.transport import Transport
from raykube.kv.wal import foreign, owner
from raykube.kv.watch_service import WatchService
from raykube.pb import batch_pb2, election_pb2, etcd_pb2, health_pb2, lock_pb2, raft_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.core.limits import WIDE
from raykube.rpc.folder_lock import FolderLock
from raykube.rpc.listen import allow_many_files
from raykube.rpc.server import Server

log = logging.getLogger(__name__)

HAND_OVER_S = 2.0
STOP_GRACE_S = 0.2
OVERHEAD_BYTES = 512 << 10  # of a message beside what its flag bounds, as etcd's
SWITCH_S = 0.0003  # how long the log's thread waits for the interpreter when the disk has answered; Python's is 5 ms
ETCD = etcd_pb2.DESCRIPTOR.services_by_name


def _tls(cert: object, key: object, authority: object) -> Tls | None:
    return None if cert is None else Tls(cert, key, authority)  # type: ignore[arg-type] # Config checked them


class Service:
    """One member. Starting it does not wait for a leader: the others may not be there yet."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.member: Member | None = None
        self._locks: list[FolderLock] = []
        self._transport: Transport | None = None
        self._watch: WatchService | None = None
        self._health: HealthService | None = None
        self._monitor: Monitor | None = None
        self._admission: Admission | None = None
        self._gateway: Gateway | None = None
        self._scrubber: Scrubber | None = None
        self._memory: Memory | None = None
        self._servers: list[Server] = []
        self._addresses: dict[str, str] = {}
        self._publisher: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def start(self) -> None:
        """Opens the data directory, listens, and begins to take part. Raises OSError, ValueError."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        sys.setswitchinterval(SWITCH_S)
        allow_many_files()
        for flag, is_on in (("strict-reconfig-check", config.strict_reconfig_check), ("pre-vote", config.pre_vote)):
            if not is_on:
                log.info("--%s=false changes nothing: it is always on", flag)
        members = parse_initial_cluster(config.members_given, config.initial_cluster_token)
        own = next(member for member in members.members if member.name == config.name)
        heartbeat_s = config.heartbeat_interval / 1000
        self._locks.append(FolderLock(config.data_dir, 0o700, "member", "--data-dir"))
        log_place.settle(config.data_dir, config.wal_dir)
        if (config.data_dir / "wal").is_symlink():
            self._locks.append(FolderLock(config.data_dir / "wal", 0o700, "member", "--wal-dir"))
        meta = Meta(cluster_id(members), own.id, token_id(config.initial_cluster_token))
        recall.refuse_lost_log(config.data_dir)
        found = owner(config.data_dir / "wal")
        if found is not None:
            if config.is_described and found.token != meta.token:
                raise ValueError(foreign(config.data_dir, found, meta))
            meta = found  # ids that a restore or an addition gave are not made of the flags
        else:
            require_advertised(config.name, own, config.peer_urls)
        peer_tls = _tls(config.peer_cert_file, config.peer_key_file, config.peer_trusted_ca_file)
        addresses = {record.id: record.peer_urls for record in members.members}
        founders: Membership | None = None
        if found is None and config.initial_cluster_state == "existing":
            joined = await self._join(members, own, peer_tls)
            meta, addresses = Meta(joined.cluster, joined.member, meta.token), joined.addresses
        elif config.initial_cluster_state == "new" and meta.member_id == own.id:
            founders = members
        if not recall.has_log(config.data_dir) and founders is not None:
            await recall.refuse_if_remembered(config.data_dir, own, members, meta.cluster_id, peer_tls)
            joins.begin(config.data_dir)
        self.member = member = Member(
            meta,
            config.data_dir,
            founders,
            heartbeat_s,
            config.election_timeout // config.heartbeat_interval,
            config.snapshot_count,
            Compactor(config.retained_s, config.retained_revisions),
        )
        if config.is_described:
            self._check_owner(own)
        self._transport = Transport(
            member, self._peer_urls(member), joins.incarnation(config.data_dir), addresses, peer_tls
        )
        member.carrier = self._transport
        leader = AtLeader(member, self._transport)
        peers = Server(config.peer_cert_allowed_cn, WIDE)
        peers.add(raft_pb2.DESCRIPTOR.services_by_name["Peer"], PeerService(member, self._transport, leader))
        self._listen(peers, "peer", config.listen_peer_urls, peer_tls)
        client_tls = _tls(config.cert_file, config.key_file, config.trusted_ca_file)
        self._admission = admission = Admission(member, config.quota_bytes)
        self._watch = WatchService(member, config.watch_progress_notify_interval)
        # Nothing larger is read at all: who may send a message is only asked once it is there.
        message_bytes_max = max(config.max_request_bytes, BATCH_BYTES_MAX) + OVERHEAD_BYTES
        limits = replace(
            WIDE,
            message_bytes_max=message_bytes_max,
            inflated_bytes_max=config.max_request_bytes + OVERHEAD_BYTES,
        )
        self._monitor = monitor = Monitor(member, admission, client_tls)
        self._gateway = gateway = Gateway(config.client_cert_allowed_cn, config.max_request_bytes, monitor.pages)
        clients = Server(config.client_cert_allowed_cn, limits, http=gateway.connection)
        leases = LeaseService(member, leader, admission, config.election_timeout / 1000)
        contenders = Contenders(member, self._watch, leases, leader, admission, config.max_request_bytes)
        for service, handler in (
            (ETCD["KV"], KvService(member, admission, config.max_request_bytes, config.max_txn_ops)),
            (ETCD["Watch"], self._watch),
            (ETCD["Lease"], leases),
            (ETCD["Cluster"], ClusterService(member, leader)),
            (ETCD["Maintenance"], MaintenanceService(member, admission)),
            (ETCD["Auth"], AuthService(member)),
            (lock_pb2.DESCRIPTOR.services_by_name["Lock"], LockService(contenders)),
            (election_pb2.DESCRIPTOR.services_by_name["Election"], ElectionService(contenders, self._watch)),
            (batch_pb2.DESCRIPTOR.services_by_name["Batch"], BatchService(member, admission)),
        ):
            gated = Gate(member, handler, config.election_timeout / 1000)
            clients.add(service, gated)
            gateway.add(service, gated)
        self._health = HealthService(member)
        clients.add(health_pb2.DESCRIPTOR.services_by_name["Health"], self._health)  # of learners, too
        await gateway.start()
        self._listen(clients, "client", config.listen_client_urls, client_tls)
        member.on_worked.append(clients.flush)
        for server in self._servers:
            await server.start()
        for number, address in enumerate(await monitor.start(config.listen_metrics_urls)):
            self._addresses["metrics" if number == 0 else f"metrics-{number}"] = address
        member.start()
        self._transport.connect()
        self._scrubber = Scrubber(member)
        self._scrubber.start()
        self._memory = Memory(member)
        self._memory.start()
        self._publisher = asyncio.create_task(self._publish(member))

    def _peer_urls(self, member: Member) -> Iterable[str]:
        """Where the others find this member: by its flags, else where its log has it."""
        known = member.replica.node.membership.get(member.id)
        if self.config.is_described or self.config.initial_advertise_peer_urls or known is None or not known.peer_urls:
            return self.config.peer_urls
        return known.peer_urls

    def _check_owner(self, wanted: Record) -> None:
        """Raises ValueError when the log says that this directory is of a member with another name or address."""
        member = self.member
        assert member is not None
        known = member.replica.node.membership.get(member.id)
        if known is None or member.id == wanted.id:
            return
        attributes = member.replica.machine.attributes.get(member.id)
        name = attributes.name if attributes is not None else known.name
        # Its own log may not know yet that it moves.
        has_moved = self.config.initial_cluster_state == "new" and not is_same_place(known.peer_urls, wanted.peer_urls)
        if name not in ("", wanted.name) or has_moved:
            raise ValueError(
                f"{self.config.data_dir} belongs to member {name} at {','.join(known.peer_urls)}: check --name, "
                "--data-dir and --initial-cluster, which names its peer URLs (after etcdctl member update: "
                "--initial-cluster-state=existing)"
            )

    async def _join(self, members: Membership, own: Record, tls: Tls | None) -> joins.Joined:
        """Asks the members that are there who this one is. Raises ValueError."""
        request = raft_pb2.JoinRequest(
            peer_urls=own.peer_urls,
            incarnation=joins.begin(self.config.data_dir),
            name=own.name,
            client_urls=self.config.client_urls,
        )
        others = [url for record in members.members if record.id != own.id for url in record.peer_urls]
        return await joins.join(request, others, tls)

    def _listen(self, server: Server, name: str, urls: list[str], tls: Tls | None) -> None:
        self._servers.append(server)
        for number, url in enumerate(urls):
            scheme, address = address_of(url)
            port = server.listen(address, tls if scheme == "https" else None, dual=takes_ipv4(url, urls))
            shown = f"{address.rpartition(':')[0]}:{port}"
            self._addresses[name if number == 0 else f"{name}-{number}"] = shown

    async def _publish(self, member: Member) -> None:
        """Tells the group this member's name and client addresses, until it is in the log."""
        urls = self.config.client_urls
        if not self.config.advertise_client_urls and len(urls) == 1:
            urls = [f"{address_of(urls[0])[0]}://{self._addresses['client']}"]
        attributes = raft_pb2.Attributes(
            member_id=member.id,
            name=self.config.name,
            client_urls=urls,
            incarnation=joins.incarnation(self.config.data_dir),
            level=LEVEL,
        )
        while (known := member.replica.machine.attributes.get(member.id)) != attributes:
            if known is not None and known.incarnation not in (0, attributes.incarnation):
                member.fail(recall.Replaced(member.id))
                return
            try:
                await member.propose(Command.ATTRIBUTES, attributes.SerializeToString())
            except RpcError as error:
                log.debug("not published yet: %s", error)
                await asyncio.sleep(0.5)

    async def wait(self) -> None:
        """Returns when the member ends by itself, raising why: a disk error, a broken invariant."""
        if self.member is not None:
            await asyncio.shield(self.member.failed)

    async def stop(self) -> None:
        """Hands leadership over, answers what is under way, closes the files. Idempotent."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._publisher is not None:
            self._publisher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._publisher
        if self._scrubber is not None:
            self._scrubber.close()
        if self._memory is not None:
            self._memory.close()
        if self.member is not None:
            await self.member.hand_over(HAND_OVER_S)
        if self._health is not None:
            self._health.close()
        if self._watch is not None:
            self._watch.close()
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in self._servers))
        if self._gateway is not None:
            await self._gateway.stop()
        if self._monitor is not None:
            await self._monitor.stop()
        if self._transport is not None:
            await self._transport.close()
        if self.member is not None:
            await self.member.close()
        for lock in self._locks:
            lock.close()

    def status(self) -> dict[str, object]:
        """Role, health and addresses. A member is healthy while it knows a leader."""
        member = self.member
        if member is None or self._is_stopped:
            return {"role": "", "healthy": False, "detail": "stopped", "addresses": dict(self._addresses)}
        node = member.replica.node
        if member.failed.done():
            detail = f"stopped: {member.failed.exception()}"
        else:
            detail = (
                f"term {node.term}, revision {member.store.revision}, "
                f"{len(node.membership.voters)} members, leader {node.leader:x}"
            )
            if self._admission is not None and (shortage := self._admission.shortage):
                detail += f", writes are refused: {shortage}"
        return {
            "role": "leader" if node.is_leader else "follower",
            "healthy": bool(node.leader) and not member.failed.done(),
            "detail": detail,
            "addresses": dict(self._addresses),
        }
