"""Health and numbers of a member over plain HTTP: what etcd shows at `--listen-metrics-urls`, under etcd's names.

`/health` is etcd's JSON; a member is healthy while it knows a leader. That writes are refused for want of room is no
illness: nothing gets better by a restart.
"""

import json
import os
import time

from aiohttp import web

from raykube.base.metrics import Registry
from raykube.kv.core.identity import address_of, takes_ipv4
from raykube.kv.limits import Admission
from raykube.kv.maintenance_service import ETCD_VERSION
from raykube.kv.member import Member
from raykube.kv.memory import resident_bytes
from raykube.rpc import Tls
from raykube.rpc.health import HEALTH_PATHS, HealthServer, Page, health_page, metrics_response
from raykube.rpc.listen import join_address, split_address

GAUGES = {
    "etcd_server_has_leader": "1: this member knows a leader.",
    "etcd_server_is_leader": "1: this member leads.",
    "etcd_server_is_learner": "1: this member has no vote.",
    "etcd_server_proposals_committed_total": "The last entry of the log that is committed.",
    "etcd_server_proposals_applied_total": "The last entry of the log that is applied.",
    "etcd_server_proposals_pending": "Requests that have no outcome yet.",
    "etcd_server_quota_backend_bytes": "What the store may hold.",
    "etcd_mvcc_db_total_size_in_bytes": "What the store holds.",
    "etcd_mvcc_db_total_size_in_use_in_bytes": "What the store holds.",
    "etcd_debugging_mvcc_current_revision": "The revision of the last write.",
    "etcd_debugging_mvcc_compact_revision": "The revision of the last compaction.",
    "etcd_debugging_mvcc_keys_total": "Keys that exist.",
    "process_resident_memory_bytes": "Memory of this process.",
    "process_open_fds": "Open file descriptors.",
}


class Monitor:
    """The pages of one member."""

    def __init__(self, member: Member, admission: Admission, tls: Tls | None) -> None:
        self._member = member
        self._admission = admission
        self._tls = tls
        self._servers: list[HealthServer] = []
        self._leader = 0
        self._registry = registry = Registry()
        registry.before_render(self._collect)
        self._gauges = {name: registry.gauge(name, text) for name, text in GAUGES.items()}
        registry.gauge("etcd_server_id", "Which member this is.", ("server_id",)).set((f"{member.id:x}",), 1)
        registry.gauge("etcd_server_version", "The version of etcd whose API this is.", ("server_version",)).set(
            (ETCD_VERSION,), 1
        )
        self._changes = registry.counter("etcd_server_leader_changes_seen_total", "New leaders that were heard of.")
        self._failed = registry.counter("etcd_server_proposals_failed_total", "Requests that timed out.")
        self._cpu = registry.counter("process_cpu_seconds_total", "CPU time, user and system.")
        registry.include(member.syncs)
        member.on_worked.append(self._on_worked)

    async def start(self, urls: list[str]) -> list[str]:
        """Listens on all `urls`; returns the addresses. Raises OSError, ValueError."""
        addresses = []
        for url in urls:
            scheme, address = address_of(url)
            pages = {"/health": self._health, "/version": version}
            server = HealthServer(self._problem, self.metrics, self._tls if scheme == "https" else None, pages)
            host, port = split_address(address)
            port = await server.start("127.0.0.1" if host == "localhost" else host, port, dual=takes_ipv4(url, urls))
            addresses.append(join_address(host, port))
            self._servers.append(server)
        return addresses

    @property
    def pages(self) -> dict[str, Page]:
        """The same pages for another server, by path."""
        health = health_page(self._problem)
        return {
            **dict.fromkeys(HEALTH_PATHS, health),
            "/health": self._health,
            "/metrics": lambda: metrics_response(self.metrics()),
            "/version": version,
        }

    async def stop(self) -> None:
        """Closes the ports; idempotent."""
        for server in self._servers:
            await server.stop()

    def _problem(self) -> str | None:
        if self._member.failed.done():
            return "STOPPED"
        return None if self._member.replica.node.leader else "RAFT NO LEADER"

    def _health(self) -> web.Response:
        problem = self._problem()
        body = {"health": "true" if problem is None else "false", "reason": problem or ""}
        return web.Response(
            text=json.dumps(body, separators=(",", ":")),
            status=200 if problem is None else 503,
            content_type="application/json",
        )

    def _on_worked(self) -> None:
        leader = self._member.replica.node.leader
        if leader and leader != self._leader:
            self._leader = leader
            self._changes.add()

    def metrics(self) -> str:
        """The numbers in Prometheus' text format."""
        return self._registry.render()

    def _collect(self) -> None:
        member = self._member
        node, store = member.replica.node, member.store
        own = node.membership.get(member.id)
        for name, value in {
            "etcd_server_has_leader": int(bool(node.leader)),
            "etcd_server_is_leader": int(node.is_leader),
            "etcd_server_is_learner": int(own is not None and own.learner),
            "etcd_server_proposals_committed_total": node.log.committed,
            "etcd_server_proposals_applied_total": member.replica.applied,
            "etcd_server_proposals_pending": member.waiters.pending,
            "etcd_server_quota_backend_bytes": self._admission.quota_bytes,
            "etcd_mvcc_db_total_size_in_bytes": store.bytes_stored,
            "etcd_mvcc_db_total_size_in_use_in_bytes": store.bytes_stored,
            "etcd_debugging_mvcc_current_revision": store.revision,
            "etcd_debugging_mvcc_compact_revision": store.compact_revision,
            "etcd_debugging_mvcc_keys_total": store.index.count_live(b"", None),
            "process_resident_memory_bytes": resident_bytes(),
            "process_open_fds": len(os.listdir("/proc/self/fd")),
        }.items():
            self._gauges[name].set((), value)
        self._failed.set((), member.waiters.timed_out)
        self._cpu.set((), time.process_time())


def version() -> web.Response:
    """What versions of etcd's API are served: by this member, and by all of them."""
    shape = {"etcdserver": ETCD_VERSION, "etcdcluster": f"{ETCD_VERSION.rpartition('.')[0]}.0"}
    return web.json_response(shape, dumps=lambda found: json.dumps(found, separators=(",", ":")))
