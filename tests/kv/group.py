"""Members of a store in this process, with files in a temporary folder and ports that were free a moment ago."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from raykube.client.kv import KvClient
from raykube.kv.config import Config
from raykube.kv.service import Service
from raykube.pb import etcd_pb2
from tests.kit.ports import free_ports
from tests.kit.waiting import until


class Group:
    """Members m1, m2, … and a client of all of them."""

    def __init__(self, folder: Path, count: int, **flags: Any) -> None:
        ports = free_ports(2 * count)
        self.folder = folder
        self.names = [f"m{number}" for number in range(1, count + 1)]
        self.flags = flags
        self.scheme = "https" if "peer_cert_file" in flags else "http"  # between members
        self.peers = peers = dict(zip(self.names, ports[:count], strict=True))
        self.ports = dict(zip(self.names, ports[count:], strict=True))
        self.configs = {
            name: Config(
                name=name,
                data_dir=folder / name,
                listen_client_urls=[f"http://127.0.0.1:{self.ports[name]}"],
                listen_peer_urls=[f"{self.scheme}://127.0.0.1:{peers[name]}"],
                initial_cluster=[f"{peer}={self.scheme}://127.0.0.1:{port}" for peer, port in peers.items()],
                **{"heartbeat_interval": 50, "election_timeout": 500, **flags},
            )
            for name in self.names
        }
        self.services: dict[str, Service] = {}
        self.client = KvClient(self.endpoints)

    @property
    def endpoints(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports.values()]

    async def start(self, *names: str) -> None:
        for name in names or self.names:
            self.services[name] = Service(self.configs[name])
            await self.services[name].start()

    # ---- changes of the membership

    def prepare(self, name: str) -> None:
        """Makes the flags of a member that is to join, with new ports and the addresses of all others."""
        self.peers[name], self.ports[name] = free_ports(2)
        self._configure(name)

    def _configure(self, name: str) -> None:
        self.configs[name] = Config(
            name=name,
            data_dir=self.folder / name,
            listen_client_urls=[f"http://127.0.0.1:{self.ports[name]}"],
            listen_peer_urls=[f"{self.scheme}://127.0.0.1:{self.peers[name]}"],
            initial_cluster=[f"{peer}={self.scheme}://127.0.0.1:{port}" for peer, port in self.peers.items()],
            initial_cluster_state="existing",
            **{"heartbeat_interval": 50, "election_timeout": 500, **self.flags},
        )

    async def call(self, name: str, service: str, method: str, request: Any) -> Any:
        """A call of etcd's API at one member. Raises RpcError."""
        alone = KvClient([f"127.0.0.1:{self.ports[name]}"])
        try:
            return await alone.call(service, method, request, 10.0, retry=False)
        finally:
            await alone.close()

    async def call_any(self, service: str, method: str, request: Any) -> Any:
        """A call at some member that runs and is no learner."""
        name = next(
            name
            for name, each in self.services.items()
            if each.member is not None and each.member.id in each.member.replica.node.membership.voters
        )
        return await self.call(name, service, method, request)

    async def add(self, name: str, learner: bool = False) -> Any:
        """Adds a member, and makes its flags; returns what the cluster knows of it."""
        self.prepare(name)
        url = f"{self.scheme}://127.0.0.1:{self.peers[name]}"
        request = etcd_pb2.MemberAddRequest(peerURLs=[url], isLearner=learner)
        added = (await self.call_any("Cluster", "MemberAdd", request)).member
        await self.client.close()
        self.client = KvClient(self.endpoints)
        return added

    async def promote(self, member: int) -> None:
        await self.call_any("Cluster", "MemberPromote", etcd_pb2.MemberPromoteRequest(ID=member))

    async def remove(self, name: str) -> None:
        """Removes the member; its process, if it runs, is to end by itself."""
        request = etcd_pb2.MemberRemoveRequest(ID=self.member_id(name))
        await self.call_any("Cluster", "MemberRemove", request)
        del self.peers[name]

    async def update(self, name: str) -> None:
        """Gives a member another peer address, for its next start."""
        (self.peers[name],) = free_ports(1)
        request = etcd_pb2.MemberUpdateRequest(
            ID=self.member_id(name), peerURLs=[f"{self.scheme}://127.0.0.1:{self.peers[name]}"]
        )
        await self.call_any("Cluster", "MemberUpdate", request)
        self._configure(name)

    async def members(self) -> list[Any]:
        """What a member that runs says of all."""
        return list((await self.call_any("Cluster", "MemberList", etcd_pb2.MemberListRequest())).members)

    def _attributes(self) -> dict[str, int]:
        """Names that are in the log → ids, as a member that runs has them."""
        member = next(each.member for each in self.services.values() if each.member is not None)
        return {found.name: number for number, found in member.replica.machine.attributes.items()}

    def member_id(self, name: str) -> int:
        return self._attributes()[name]

    async def started(self, name: str) -> None:
        """Returns when the member's name is in the log."""
        await until(lambda: name in self._attributes(), 15, f"{name} published")

    def all_started(self) -> bool:
        return set(self._attributes()) == set(self.peers)

    async def stop(self, name: str) -> None:
        await self.services.pop(name).stop()

    async def crash(self, name: str) -> None:
        """Ends a member that had no time to hand over: its group learns from closed sockets and silence."""
        service = self.services.pop(name)
        assert service.member is not None
        service.member.fail(RuntimeError("killed by the test"))
        await service.stop()

    async def leader(self) -> str:
        """The name of the leader, when all that run agree on it."""

        def agreed() -> str | None:
            nodes = [service.member.replica.node for service in self.services.values() if service.member is not None]
            leaders = [name for name, service in self.services.items() if service.status()["role"] == "leader"]
            if len(leaders) == 1 and len({(node.term, node.leader) for node in nodes}) == 1:
                return leaders[0]
            return None

        await until(agreed, 15, "one leader that all agree on")
        found = agreed()
        assert found is not None
        return found

    async def agree(self) -> int:
        """Waits until all that run have applied the same; returns the hash of their stores."""

        def same() -> bool:
            members = [service.member for service in self.services.values() if service.member is not None]
            return len({(member.replica.applied, member.store.revision) for member in members}) == 1

        await until(same, 15, "all members at one index")
        hashes = {service.member.store.hash() for service in self.services.values() if service.member is not None}
        assert len(hashes) == 1
        return hashes.pop()


@asynccontextmanager
async def running_group(folder: Path, count: int, **flags: Any) -> AsyncIterator[Group]:
    """A started group with a leader; all that still runs is stopped at the end."""
    group = Group(folder, count, **flags)
    try:
        await group.start()
        await group.leader()
        yield group
    finally:
        await group.client.close()
        for name in list(group.services):
            await group.stop(name)
