"""The steward at work: looks, takes one step, looks again."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from raykube.api.errors import ApiError
from raykube.client.kv import KvClient, UnknownOutcome
from raykube.cluster import addresses, placement, record
from raykube.cluster import state as cluster_state
from raykube.cluster.plan import Folders, kv_placement
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward import decide
from raykube.cluster.steward.aside import set_aside
from raykube.cluster.steward.config import Config
from raykube.cluster.steward.tending import Sight, Tending
from raykube.cluster.steward.voices import Voices
from raykube.kv.core.member_changes import NO_ROOM
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError, Tls

log = logging.getLogger(__name__)
T = TypeVar("T")

PERIOD_S = 2.0
BUSY_PERIOD_S = 0.5  # while something is under way
CALL_TIMEOUT_S = 5.0
RAY_TIMEOUT_S = 10.0
START_TIMEOUT_S = 90.0


class Service:
    """Started before the member beside it, as it clears away what a former member of this machine left."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state = config.state  # the record, as it was read last
        self._copied = -1  # the generation of it that this machine's disk has
        self._folders = Folders(config.data_dir, config.state, config.state.machine(config.machine))
        self._client: KvClient | None = None
        self._voices: Voices | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._missing_since: dict[str, float] = {}
        self._given_up: dict[str, float] = {}  # machine → when a member of it was removed, until one is promoted there
        self._full_since: dict[int, float] = {}  # learner → since when the store does not promote it for want of room
        self._settled_from: float | None = None  # since when this steward leads, and no member was promoted
        self._held_until = 0.0
        self._detail = ""
        # One thread for Ray, as its calls do not return while its head is dead: then all others would wait in vain.
        self._ray = ThreadPoolExecutor(1, "steward-ray")
        self._asked: Future[Any] | None = None
        self._tending = Tending(config, self._on_ray)

    async def start(self) -> None:
        """Begins to look after the cluster. Raises OSError."""
        if self._config.member:
            set_aside(self._folders.kv, self._config.member)
        pki = self._folders.pki
        tls = Tls(pki / "apiserver-etcd-client.crt", pki / "apiserver-etcd-client.key", pki / "ca.crt")
        self._client = KvClient([f"{self._folders.machine.address}:{addresses.KV_CLIENT_PORT}"], tls)
        self._voices = Voices(tls, self._config.replace_after)
        self._task = asyncio.create_task(self._run())

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
        await self._tending.close()
        if self._voices is not None:
            await self._voices.forget()
        if self._client is not None:
            await self._client.close()
        self._ray.shutdown(wait=False, cancel_futures=True)

    def status(self) -> dict[str, object]:
        """It is healthy as long as it runs; `detail` says what it does, if anything."""
        return {"role": "", "healthy": True, "detail": self._detail, "addresses": {}}

    # ---- what the operator's commands ask, through the actor

    async def record(self, _: str) -> str:
        """The cluster's record, as JSON."""
        return self._state.model_dump_json()

    async def hold(self, seconds: str) -> str:
        """Leaves members and actors alone for so long: a command changes them. 0 ends it."""
        self._held_until = time.monotonic() + float(seconds)
        return "held"

    async def leave(self, name: str) -> str:
        """Has the machine `name` drained and given up; returns its phase. Raises RpcError, Conflict, KeyError."""
        assert self._client is not None
        found, revision = await record.read(self._client)
        state = found or self._state
        machine = state.machine(name)
        if not machine.phase:
            leaving = machine.model_copy(update={"phase": "draining"})
            state.machines[state.machines.index(machine)] = leaving
            self._state = await record.write(self._client, state, revision)
            machine = leaving
        return machine.phase

    # ---- the loop

    async def _run(self) -> None:
        while True:
            step: object = None
            try:
                step = await self._pass()
            except (RpcError, OSError, TimeoutError, UnknownOutcome, record.Conflict, ApiError) as error:
                log.info("the cluster cannot be looked after now: %s", error or type(error).__name__)
            except Exception:
                log.exception("looking after the cluster failed")
            await asyncio.sleep(PERIOD_S if step is None else BUSY_PERIOD_S)

    async def _pass(self) -> object:
        assert self._client is not None
        assert self._voices is not None
        status = await self._client.call("Maintenance", "Status", etcd_pb2.StatusRequest(), CALL_TIMEOUT_S, retry=False)
        is_leader = status.leader == status.header.member_id
        revision = await self._read_record(linearizable=is_leader)
        if not is_leader:
            self._missing_since.clear()  # this member cannot tell; a new leader is patient anew
            self._settled_from = None
            self._full_since.clear()
            self._tending.rest()
            await self._voices.forget()
            self._detail = ""
            return None
        if self._settled_from is None:
            self._settled_from = time.monotonic()
        if time.monotonic() < self._held_until:
            self._full_since.clear()  # nobody asks meanwhile whether there is room
            return None
        request = etcd_pb2.MemberListRequest(linearizable=True)
        listed = (await self._client.call("Cluster", "MemberList", request, CALL_TIMEOUT_S, retry=False)).members
        nodes, actors = await self._on_ray(_ask_ray, RAY_TIMEOUT_S)
        live = [node for node in nodes if node["Alive"]]
        here = {machine.name for machine in self._state.machines if placement.is_alive(machine, self._state, live)}
        answering = await self._voices.answering(listed)
        silent_s = self._voices.silent_s([each for each in listed if self._home_of(each) in here], answering)
        view = self._view(listed, nodes, actors, answering, silent_s)
        step = decide.next_step(view, self._config.replace_after)
        refusal = ""
        if step is not None:
            self._detail = f"{type(step).__name__.lower()} {step.machine}"
            refusal = await self._tried(step, listed)
            if not refusal:
                return step
            self._detail = refusal  # the rest goes on: a machine that is the way out may wait to be admitted
        if time.monotonic() < self._held_until:
            return None  # an operator's command came meanwhile
        change = await self._tending.tend(self._client, self._state, revision, Sight(view.members, nodes, actors))
        self._detail = "; ".join(filter(None, (refusal, self._tending.detail)))
        return change

    async def _read_record(self, linearizable: bool) -> int:
        """Learns the record, and copies it to this machine's disk; returns its revision."""
        assert self._client is not None
        found, revision = await record.read(self._client, serializable=not linearizable)
        if found is None:
            return 0
        self._state = found
        if self._copied != found.generation:
            try:
                self._copy(found)
            except OSError as error:  # tried again with the next pass, and no reason to look after nothing meanwhile
                log.info("the cluster's record is not copied to this machine's disk: %s", error)
        return revision

    def _copy(self, found: ClusterState) -> None:
        """Has this machine's copy be no older than `found`, one that cannot be read included. Raises OSError."""
        try:
            on_disk = cluster_state.load(self._config.data_dir)
        except ValueError:
            on_disk = None
        if on_disk is None or on_disk.id != found.id or on_disk.generation < found.generation:
            cluster_state.save(self._config.data_dir, found)
        self._copied = found.generation

    async def _on_ray(self, call: Callable[[], T], timeout_s: float) -> T:
        """Runs `call`, which asks Ray, in the one thread for that. Raises TimeoutError, at once while another hangs."""
        if self._asked is not None and not self._asked.done():
            raise TimeoutError("Ray's head does not answer")
        self._asked = self._ray.submit(call)
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(asyncio.wrap_future(self._asked))

    # ---- the store's members

    def _view(
        self,
        listed: Any,
        nodes: list[dict[str, Any]],
        actors: set[str],
        answering: set[int],
        silent_s: dict[int, float],
    ) -> decide.View:
        now = time.monotonic()
        lost_s: dict[str, float] = {}
        live = [node for node in nodes if node["Alive"]]
        # Ray may be wrong about a machine: as long as its member answers, nothing is lost.
        heard = {self._home_of(member) for member in listed if member.ID in answering}
        for machine in sorted(self._state.machines, key=self._preference):
            if machine.phase:
                lost_s[machine.name] = math.inf
            elif placement.is_alive(machine, self._state, live) or machine.name in heard:
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
            frozenset(placement.store_hosts(self._state, actors)),
            self._state.members_wanted,
            frozenset(machine.name for machine in self._state.machines if not machine.eligible),
            silent_s,
            {member: now - since for member, since in self._full_since.items()},
            frozenset(answering),
            now - (now if self._settled_from is None else self._settled_from),
        )

    def _preference(self, machine: Machine) -> tuple[float, bool]:
        """Sorts machines for a new member: where one was given up is tried last, or it would be tried for ever."""
        return self._given_up.get(machine.name, 0.0), not machine.control_plane

    def _home_of(self, member: Any) -> str:
        """The machine whose address is the member's."""
        urls = set(member.peerURLs)
        return next((machine.name for machine in self._state.machines if addresses.kv_peer_url(machine) in urls), "")

    async def _tried(self, step: decide.Step, listed: Any) -> str:
        """As `_take`; a step that fails is refused, too. It may fail in every pass, and the rest of the work waits for
        none of them."""
        try:
            return await self._take(step, listed)
        except (RpcError, OSError, ValueError, UnknownOutcome) as error:
            log.info("the store: %s failed: %s", step, error or type(error).__name__)
            reason = f"{error}" or type(error).__name__
        except Exception as error:  # Ray has many
            log.exception("the store: %s failed", step)
            reason = type(error).__name__
        return f"{type(step).__name__.lower()} {step.machine}: {reason}"

    async def _take(self, step: decide.Step, listed: Any) -> str:
        """Returns why the store does not promote a learner yet, "" when the step is done. Raises RpcError, OSError."""
        log.info("the store: %s", step)
        if not isinstance(step, decide.Promote):
            self._full_since.clear()
        state = self._state
        match step:
            case decide.Add(name):
                urls = [addresses.kv_peer_url(state.machine(name))]
                await self._change("MemberAdd", etcd_pb2.MemberAddRequest(peerURLs=urls, isLearner=True))
            case decide.Host(member, name):
                machine = state.machine(name)
                await self._on_ray(lambda: self._host(member, machine, listed), START_TIMEOUT_S)
            case decide.Promote(member, name):
                return await self._promote(member, name)
            case decide.Remove(member, name):
                await self._change("MemberRemove", etcd_pb2.MemberRemoveRequest(ID=member))
                self._given_up[name] = time.monotonic()
            case decide.Dismiss(name):
                item = kv_placement(state, state.machine(name), self._config.data_dir)
                await self._on_ray(lambda: placement.end(item.name), RAY_TIMEOUT_S)
        return ""

    async def _promote(self, member: int, name: str) -> str:
        """Returns why the store does not do it yet, "" when it has. Raises RpcError."""
        try:
            await self._change("MemberPromote", etcd_pb2.MemberPromoteRequest(ID=member))
        except RpcError as error:
            if error.code is not Code.FAILED_PRECONDITION:
                raise
            # Not what it says itself: over the quota everybody says it, and may be promoted all the same.
            now = time.monotonic()
            self._full_since = {member: self._full_since.get(member, now)} if error.message == NO_ROOM else {}
            log.info("the store: the member on %s is not promoted yet: %s", name, error.message)
            return f"promote {name}: {error.message}"
        self._given_up.pop(name, None)
        self._full_since.clear()
        self._settled_from = time.monotonic()
        return ""

    async def _change(self, method: str, request: Any) -> None:
        assert self._client is not None
        await self._client.call("Cluster", method, request, CALL_TIMEOUT_S, retry=False)

    def _host(self, member: int, machine: Machine, listed: Any) -> None:
        """Starts the actor of an announced member. Blocks."""
        # Who is at an address of no machine may have a machine's name all the same, even this one's.
        names = {url: self._home_of(each) or f"{each.ID:x}" for each in listed for url in each.peerURLs}
        cluster = [f"{name}={url}" for url, name in names.items()]
        item = kv_placement(self._state, machine, self._config.data_dir, member=member, joins=cluster)
        self._tending.certify(self._state)
        placement.start(item, self._state, self._config.data_dir)


def _ask_ray() -> tuple[list[dict[str, Any]], set[str]]:
    """Ray's nodes, and the names of the cluster's actors. Blocks."""
    return placement.nodes(), placement.names()
