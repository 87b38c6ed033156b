"""The steward's care for machines and actors: brings the record to what there is, and then the actors to the record."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from raykube.api.errors import ApiError
from raykube.client.api import ApiClient
from raykube.client.kv import KvClient
from raykube.cluster import addresses, machines, placement, record
from raykube.cluster.authority import certify
from raykube.cluster.plan import COMPONENTS, Placement, plan
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward import decide, fleet, nodes
from raykube.cluster.steward.config import Config
from raykube.rpc import Tls

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 90.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
RENEWAL_S = 3600.0  # between two looks at certificates' dates; machines that were away meanwhile get theirs then
REFUSAL_S = 60.0  # before a machine that could not be taken is asked again
NO_ANSWER = (503, 504)  # of an apiserver: there is none, or none in time
APISERVERS = "apiserver-"  # of their actors' names
TOLD_TO_END = 1  # Ray's reason of a node's death: it was asked to end


@dataclass(frozen=True, slots=True)
class Sight:
    """What the steward saw in this pass."""

    members: tuple[decide.Member, ...]
    ray_nodes: list[dict[str, Any]]
    actors: set[str]


class Tending:
    """One steward's. `on_ray(call, timeout_s)` runs a call that asks Ray in a thread."""

    def __init__(self, config: Config, on_ray: Callable[[Callable[[], Any], float], Awaitable[Any]]) -> None:
        self._config = config
        self._on_ray = on_ray
        self._api: ApiClient | None = None
        self._gone_since: dict[str, float] = {}
        self._draining_since: dict[str, float] = {}
        self._refused: dict[str, tuple[float, str]] = {}  # address → until when it is not asked again, and why
        self._certified = 0  # generation of the record for whose machines there are certificates
        self._renewed_at = -math.inf  # when all actors were given the certificates that there are
        self._told: tuple[Machine, ...] = ()  # the control plane that actors were told of
        self._serves = False  # an apiserver that stays was healthy in the last pass in which others were to go
        self._unshown: list[str] = []  # machines whose Nodes may not show their role yet; who was refused comes last
        self._details: list[str] = []

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()

    def rest(self) -> None:
        """Another steward has the work now: what comes and goes meanwhile, and what is told, this one does not see."""
        self._gone_since.clear()
        self._draining_since.clear()
        self._told = ()

    async def tend(self, client: KvClient, state: ClusterState, revision: int, sight: Sight) -> object:
        """Takes one step; returns it, None when all is well. Raises RpcError, OSError, Conflict."""
        if not revision:
            await record.write(client, state, 0)
            return "record"
        view = self._view(state, sight)
        self._details = [f"{address} {reason}" for address, (_, reason) in self._refused.items()]
        for change in fleet.changes(state, view, self._config.leave_after, self._config.forget_after):
            changed = state.model_copy(update={"machines": list(state.machines)})
            try:
                if await self._make(change, changed, sight):
                    log.info("the cluster: %s", change)
                    await record.write(client, changed, revision)
                    return change
            except (ApiError, OSError) as error:
                # Tried again, and until then no reason to leave the rest: perhaps apiservers are what is to be started.
                said = f"{type(change).__name__.lower()} {getattr(change, 'machine', '')}".strip()
                self._details.append(f"{said}: {error or type(error).__name__}")
                if not isinstance(error, ApiError) or error.code in NO_ANSWER:
                    break  # who would be asked next does not answer either
        return await self._fit_actors(state, sight)

    @property
    def detail(self) -> str:
        """What is under way, and what cannot be done now."""
        return "; ".join(self._details)

    # ---- looking

    def _view(self, state: ClusterState, sight: Sight) -> fleet.View:
        now = time.monotonic()
        live = [node for node in sight.ray_nodes if node["Alive"]]
        gone_s = {}
        for machine in state.machines:
            if placement.is_alive(machine, state, live):
                self._gone_since.pop(machine.name, None)
                gone_s[machine.name] = 0.0
            else:
                gone_s[machine.name] = max(1e-3, now - self._gone_since.setdefault(machine.name, now))
        # Of a machine's Ray nodes, one after another, the list does not say which was the last: all must have ended so.
        ended = [node for node in sight.ray_nodes if not node["Alive"]]
        crashed = {node["NodeManagerAddress"] for node in ended if node.get("DeathReason") != TOLD_TO_END}
        told = {node["NodeManagerAddress"] for node in ended} - crashed
        return fleet.View(
            voters=frozenset(member.machine for member in sight.members if member.machine and not member.learner),
            homes=frozenset(member.machine for member in sight.members if member.machine),
            gone_s={} if state.local else gone_s,  # a local cluster's machines are the operator's to name
            left=frozenset(machine.name for machine in state.machines if machine.address in told),
            newcomers=() if state.local else self._newcomers(state, live, now),
            actors=frozenset(sight.actors),
        )

    def _newcomers(self, state: ClusterState, live: list[dict[str, Any]], now: float) -> tuple[str, ...]:
        known = {machine.address for machine in state.machines}
        found = dict.fromkeys(node["NodeManagerAddress"] for node in live)
        self._refused = {address: item for address, item in self._refused.items() if address in found}
        return tuple(
            address for address in found if address not in known and self._refused.get(address, (0.0, ""))[0] <= now
        )

    # ---- changing the record

    async def _make(self, change: fleet.Change, state: ClusterState, sight: Sight) -> bool:
        """Does what `change` needs, and makes it in `state`; False when there is nothing to write yet."""
        match change:
            case fleet.Seat(names):
                return machines.set_control_plane(state, names)
            case fleet.Admit(newcomers):
                return await self._admit(newcomers, state, sight)
            case fleet.Drain(name):
                return await self._drain(name, state)
            case fleet.Forget(name):
                await nodes.delete(self._client(state), name)
                machines.forget(state, name)
                return True

    async def _admit(self, newcomers: tuple[str, ...], state: ClusterState, sight: Sight) -> bool:
        """Asks newcomers who they are, and takes those that fit."""
        rows = [node for node in sight.ray_nodes if node["Alive"] and node["NodeManagerAddress"] in newcomers]
        found, failed = await self._on_ray(lambda: placement.look(rows, self._config.data_dir), LOOK_TIMEOUT_S)
        reasons = dict(failed)
        for facts in found:
            if reason := machines.refusal(state, facts, version("raykube")):
                reasons[facts.address] = reason
        self._refuse(reasons)
        admitted = machines.admit(state, [facts for facts in found if facts.address not in reasons])
        outside = {facts.address for facts in found} - set(reasons) - {machine.address for machine in admitted}
        self._refuse(dict.fromkeys(outside, f"is one more than the {addresses.MACHINES_MAX} that a cluster may have"))
        return bool(admitted)

    def _refuse(self, reasons: dict[str, str]) -> None:
        for address, reason in reasons.items():
            log.warning("the machine at %s is not taken: %s", address, reason)
            self._refused[address] = (time.monotonic() + REFUSAL_S, reason)

    async def _drain(self, name: str, state: ClusterState) -> bool:
        """One try at moving the pods away; True when none is left, or their time is over."""
        since = self._draining_since.setdefault(name, time.monotonic())
        is_over = time.monotonic() - since >= self._config.drain_timeout
        try:
            left = await nodes.drain(self._client(state), name)
        except ApiError as error:
            if not is_over or error.code >= 500:
                raise
            left = 0  # who is refused now is so for ever
        if left and not is_over:
            self._details.append(f"drain {name}: {left} pods to go")
            return False
        self._draining_since.pop(name)
        machine = state.machine(name)
        state.machines[state.machines.index(machine)] = machine.model_copy(update={"phase": "drained"})
        return True

    def _client(self, state: ClusterState) -> ApiClient:
        if self._api is None:
            pki = self._config.data_dir / "pki"
            tls = Tls(pki / "admin.crt", pki / "admin.key", pki / "ca.crt")
            self._api = ApiClient(addresses.grpc_servers(state), tls)
        return self._api

    # ---- actors

    def certify(self, state: ClusterState) -> None:
        """Has certificates for all machines of the record. Blocks.

        Those of who serves name all machines: actors that run have them to be given anew when there is another one.
        """
        if self._certified != state.generation:
            if certify(state, self._config.data_dir / "pki"):
                self._renewed_at = -math.inf
            self._certified = state.generation

    async def _fit_actors(self, state: ClusterState, sight: Sight) -> object:
        """Starts the actors that are missing on live machines, and ends those that the record has no more."""
        live = [node for node in sight.ray_nodes if node["Alive"]]
        alive = {machine.name for machine in state.machines if placement.is_alive(machine, state, live)}
        placements = {item.name: item for item in plan(state, self._config.data_dir)}
        missing, surplus = fleet.amiss(placements, sight.actors, placement.STORE_PREFIX)
        missing = [name for name in missing if placements[name].machine.name in alive]
        if any(name.startswith(APISERVERS) for name in surplus):
            # Clients learn from apiservers who the apiservers are: from one that is to go, who comes.
            coming = [item for item in placements.values() if item.component == "apiserver"]
            found = await self._on_ray(lambda: placement.statuses(coming), START_TIMEOUT_S)
            before, self._serves = self._serves, any(status.get("healthy") for status in found.values())
            if not (before and self._serves):
                surplus = [name for name in surplus if not name.startswith(APISERVERS)]
                self._details.append("apiservers move")
        else:
            self._serves = False
        if surplus:
            log.info("ending %s", ", ".join(surplus))
            kept: set[str] = set()  # actors of machines on which pods may still run, and keep their network
            for names, clear in fleet.endings(surplus, [machine.name for machine in state.machines if machine.phase]):
                for some, clears in (([name for name in names if name not in kept], clear), (kept & set(names), False)):
                    end = partial(placement.end_softly, some, STOP_TIMEOUT_S, clear=clears)
                    for name, problem in (await self._on_ray(end, LOOK_TIMEOUT_S)).items() if some else ():
                        log.warning("%s: not all is taken away: %s", name, problem)
                        if name.startswith("kubelet-"):
                            kept |= {f"{component}-{name.removeprefix('kubelet-')}" for component in COMPONENTS}
        if missing:
            log.info("starting %s", ", ".join(missing))
            items = [placements[name] for name in missing]
            await self._on_ray(lambda: self._start(items, state), START_TIMEOUT_S)
        present = [item for item in placements.values() if item.machine.name in alive]
        await self._renew(present, state)
        await self.renew_certificates(present, state)
        if missing or surplus:
            self._details.append(f"starting {len(missing)}, ending {len(surplus)} actors")
        return (missing, surplus) if missing or surplus else None

    async def _renew(self, items: list[Placement], state: ClusterState) -> None:
        """Tells the actors where the control plane is, once after each change: they may be made again much later."""
        if self._told == (seats := tuple(state.control_plane)):
            await self._show_roles(state)
            return
        clients = [item for item in items if not item.name.startswith(placement.STORE_PREFIX)]

        def tell() -> None:
            self.certify(state)
            placement.renew(clients, state, self._config.data_dir)

        await self._on_ray(tell, START_TIMEOUT_S)
        self._unshown = [machine.name for machine in state.machines]
        await self._show_roles(state)
        self._told = seats

    async def _show_roles(self, state: ClusterState) -> None:
        """Labels the Nodes. A kubelet that is just starting may register later, as what it was made for.

        It is for the eye, and keeps nothing from being done: a refusal may take its time, so there is one in a pass.
        """
        there = {machine.name: machine for machine in state.machines}
        self._unshown = [name for name in self._unshown if name in there]
        for name in list(self._unshown):
            try:
                if await nodes.show_role(self._client(state), name, there[name].control_plane):
                    self._unshown.remove(name)
            except ApiError as error:
                self._details.append(f"label {name}: {error}")
                self._unshown.remove(name)
                self._unshown.append(name)
                return

    async def renew_certificates(self, items: list[Placement], state: ClusterState) -> None:
        """Renews certificates long before they end, and gives all actors those that there are, now and then."""
        if time.monotonic() - self._renewed_at < RENEWAL_S:
            return

        def renew() -> None:
            if written := certify(state, self._config.data_dir / "pki"):
                log.info("certificates renewed: %s", ", ".join(written))
            placement.renew_files(items, state, self._config.data_dir)

        await self._on_ray(renew, START_TIMEOUT_S)
        self._renewed_at = time.monotonic()

    def _start(self, items: list[Placement], state: ClusterState) -> None:
        self.certify(state)
        for item in items:
            placement.start(item, state, self._config.data_dir)
