"""The steward at work: looks, takes one step, looks again."""

import asyncio
import contextlib
import logging
import time
from typing import Any

from raykube.client.kv import KvClient
from raykube.cluster import addresses, placement, ray_nodes
from raykube.cluster.plan import Folders, kv_placement
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward import decide
from raykube.cluster.steward.config import Config
from raykube.kv.wal import owner
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError, Tls

log = logging.getLogger(__name__)

PERIOD_S = 2.0
BUSY_PERIOD_S = 0.5  # while a replacement is under way
CALL_TIMEOUT_S = 5.0
RAY_TIMEOUT_S = 10.0


class Service:
    """Started before the member beside it, as it clears away what a former member of this machine left."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folders = Folders(config.data_dir, config.state, self._machine_of(config.machine))
        self._client: KvClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._missing_since: dict[str, float] = {}
        self._detail = ""

    def _machine_of(self, name: str) -> Machine:
        return next(machine for machine in self._config.state.machines if machine.name == name)

    async def start(self) -> None:
        """Begins to look after the store. Raises OSError."""
        if self._config.member:
            self._set_aside()
        pki = self._folders.pki
        tls = Tls(pki / "apiserver-etcd-client.crt", pki / "apiserver-etcd-client.key", pki / "ca.crt")
        self._client = KvClient([f"{self._folders.machine.address}:{addresses.KV_CLIENT_PORT}"], tls)
        self._task = asyncio.create_task(self._run())

    def _set_aside(self) -> None:
        """Moves away the data of another member that lived here before: a new member begins with nothing."""
        folder = self._folders.kv
        found = owner(folder / "wal")
        if found is not None and found.member_id != self._config.member:
            folder.rename(folder.with_name(f"{folder.name}.{found.member_id:x}"))
            log.info("the data of the former member %x is set aside", found.member_id)

    async def wait(self) -> None:
        """Never ends by itself."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """Ends the work; what is half done is continued by another steward."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None:
            await self._client.close()

    def status(self) -> dict[str, object]:
        """It is healthy as long as it runs; `detail` says what it does, if anything."""
        return {"role": "", "healthy": True, "detail": self._detail, "addresses": {}}

    async def _run(self) -> None:
        while True:
            step: decide.Step | None = None
            try:
                step = await self._pass()
            except (RpcError, OSError, TimeoutError) as error:
                log.info("the store's members cannot be looked after now: %s", error)
            except Exception:
                log.exception("looking after the store's members failed")
            await asyncio.sleep(PERIOD_S if step is None else BUSY_PERIOD_S)

    async def _pass(self) -> decide.Step | None:
        assert self._client is not None
        status = await self._client.call("Maintenance", "Status", etcd_pb2.StatusRequest(), CALL_TIMEOUT_S, retry=False)
        if status.leader != status.header.member_id:
            self._missing_since.clear()  # this member cannot tell; a new leader is patient anew
            self._detail = ""
            return None
        request = etcd_pb2.MemberListRequest(linearizable=True)
        listed = (await self._client.call("Cluster", "MemberList", request, CALL_TIMEOUT_S, retry=False)).members
        async with asyncio.timeout(RAY_TIMEOUT_S):  # while Ray's head is dead, its calls do not return
            alive, hosted = await asyncio.to_thread(self._ask_ray)
        view = self._view(listed, alive, hosted)
        step = decide.next_step(view, self._config.replace_after)
        self._detail = "" if step is None else f"{type(step).__name__.lower()} {step.machine}"
        if step is not None:
            await self._take(step, listed)
        return step

    # ---- looking

    @property
    def _state(self) -> ClusterState:
        return self._config.state

    def _ask_ray(self) -> tuple[set[str], frozenset[str]]:
        """Names of the machines that live, and of those with an actor for a member. Blocks."""
        labels = {value for node in placement.live_nodes() for value in node["Labels"].values()}
        alive = {
            machine.name
            for machine in self._state.machines
            if labels.issuperset(placement.label_selector(machine).values())
        }
        return alive, frozenset(placement.store_hosts(self._state, self._config.data_dir))

    def _view(self, listed: Any, alive: set[str], hosted: frozenset[str]) -> decide.View:
        now = time.monotonic()
        lost_s = {}
        for machine in sorted(self._state.machines, key=lambda machine: not machine.control_plane):
            # Ray may be wrong about a machine: as long as its member answers, nothing is lost.
            port = f"{machine.address}:{addresses.KV_CLIENT_PORT}"
            if machine.name in alive or ray_nodes.answers(port, 0.5):
                self._missing_since.pop(machine.name, None)
                lost_s[machine.name] = 0.0
            else:
                lost_s[machine.name] = max(1e-3, now - self._missing_since.setdefault(machine.name, now))
        return decide.View(
            tuple(
                decide.Member(member.ID, self._home_of(member), member.isLearner, bool(member.name))
                for member in listed
            ),
            lost_s,
            hosted,
            len(self._state.control_plane),
        )

    def _home_of(self, member: Any) -> str:
        """The machine whose address is the member's."""
        urls = set(member.peerURLs)
        return next((machine.name for machine in self._state.machines if addresses.kv_peer_url(machine) in urls), "")

    # ---- acting

    async def _take(self, step: decide.Step, listed: Any) -> None:
        log.info("the store: %s", step)
        match step:
            case decide.Add(name):
                urls = [addresses.kv_peer_url(self._machine_of(name))]
                await self._change("MemberAdd", etcd_pb2.MemberAddRequest(peerURLs=urls, isLearner=True))
            case decide.Host(member, name):
                await asyncio.to_thread(self._host, member, self._machine_of(name), listed)
            case decide.Promote(member, _):
                await self._change("MemberPromote", etcd_pb2.MemberPromoteRequest(ID=member))
            case decide.Remove(member, _):
                await self._change("MemberRemove", etcd_pb2.MemberRemoveRequest(ID=member))
            case decide.Dismiss(name):
                item = kv_placement(self._state, self._machine_of(name), self._config.data_dir)
                await asyncio.to_thread(placement.end, item.name)

    async def _change(self, method: str, request: Any) -> None:
        assert self._client is not None
        await self._client.call("Cluster", method, request, CALL_TIMEOUT_S, retry=False)

    def _host(self, member: int, machine: Machine, listed: Any) -> None:
        """Starts the actor of an announced member. Blocks."""
        names = {url: self._home_of(each) or each.name or f"{each.ID:x}" for each in listed for url in each.peerURLs}
        cluster = [f"{name}={url}" for url, name in names.items()]
        item = kv_placement(self._state, machine, self._config.data_dir, member=member, joins=cluster)
        placement.start(item, self._state, self._config.data_dir, self._folders.pki)
