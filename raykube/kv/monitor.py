"""Health and numbers of a member over plain HTTP: what etcd shows at `--listen-metrics-urls`, under etcd's names.

`/health` is etcd's JSON; a member is healthy while it knows a leader. That writes are refused for want of room is no
illness: nothing gets better by a restart.
"""

import json

from aiohttp import web

from raykube.kv.core.identity import address_of, takes_ipv4
from raykube.kv.limits import Admission
from raykube.kv.member import Member
from raykube.rpc import Tls
from raykube.rpc.health import HealthServer
from raykube.rpc.listen import join_address, split_address


class Monitor:
    """The pages of one member."""

    def __init__(self, member: Member, admission: Admission, tls: Tls | None) -> None:
        self._member = member
        self._admission = admission
        self._tls = tls
        self._servers: list[HealthServer] = []

    async def start(self, urls: list[str]) -> list[str]:
        """Listens on all `urls`; returns the addresses. Raises OSError, ValueError."""
        addresses = []
        for url in urls:
            scheme, address = address_of(url)
            server = HealthServer(
                self._problem, self.metrics, self._tls if scheme == "https" else None, {"/health": self._health}
            )
            host, port = split_address(address)
            port = await server.start("127.0.0.1" if host == "localhost" else host, port, dual=takes_ipv4(url, urls))
            addresses.append(join_address(host, port))
            self._servers.append(server)
        return addresses

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

    def metrics(self) -> str:
        """The numbers in Prometheus' text format."""
        node, store = self._member.replica.node, self._member.store
        own = node.membership.get(self._member.id)
        values = {
            "etcd_server_has_leader": int(bool(node.leader)),
            "etcd_server_is_leader": int(node.is_leader),
            "etcd_server_is_learner": int(own is not None and own.learner),
            "etcd_server_proposals_committed_total": node.log.committed,
            "etcd_server_proposals_applied_total": self._member.replica.applied,
            "etcd_server_quota_backend_bytes": self._admission.quota_bytes,
            "etcd_mvcc_db_total_size_in_bytes": store.bytes_stored,
            "etcd_mvcc_db_total_size_in_use_in_bytes": store.bytes_stored,
            "etcd_debugging_mvcc_current_revision": store.revision,
            "etcd_debugging_mvcc_compact_revision": store.compact_revision,
            "etcd_debugging_mvcc_keys_total": store.index.count_live(b"", None),
        }
        lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in values.items()]
        lines.append(f'# TYPE etcd_server_id gauge\netcd_server_id{{server_id="{self._member.id:x}"}} 1\n')
        return "".join(lines)
