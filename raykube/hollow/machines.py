"""Keeps the Nodes of hollow machines: registers them, renews Leases, reports, and puts right what others changed."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change, Object
from raykube.client.informer import Informer
from raykube.client.operations import Operation
from raykube.hollow.core import machine
from raykube.hollow.core.beats import Beat, Beats
from raykube.hollow.core.machine import LEASE_NAMESPACE, SET_LABEL, Fleet
from raykube.pb.api_pb2 import STRATEGIC

log = logging.getLogger(__name__)

NODES = builtin("v1", "Node")
LEASES = builtin("coordination.k8s.io/v1", "Lease")
RETRY_S = 1.0
BATCH_MAX = 1000


class Machines:
    """All Nodes of one process. `run` until cancelled."""

    def __init__(
        self, client: ApiClient, fleet: Fleet, beats: Beats, now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._beats = beats
        self._now = now
        self._changed = changed  # called when timers were set
        self._numbers = {name: fleet.first + index for index, name in enumerate(fleet.names)}
        self._informer = Informer(client, NODES, label_selector=f"{SET_LABEL}={fleet.set_name}", decode=machine.slim)
        self._informer.add_batch_handler(self._on_nodes)
        self._missing: dict[str, None] = {}  # to be created
        self._untaken: dict[str, None] = {}  # of an earlier process, not yet as they should be
        self._unwell: dict[str, None] = {}  # another said that they do not answer
        self._new: dict[str, None] = {}  # Nodes whose Leases are to be renewed at once
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def registered(self) -> int:
        """How many have a Node."""
        return len(self._informer)

    @property
    def well(self) -> int:
        """How many have a Node that says that it is ready."""
        return sum(node["well"] for node in self._informer.list())

    async def run(self) -> None:
        """Registers, then keeps Nodes as they should be."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            await self._informer.synced()
            await self._take_over()
            self._beats.begin(self._now())
            self._changed()
            await self._keep()

    async def close(self) -> None:
        """Ends renewals under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_over(self) -> None:
        """Makes Nodes of an earlier process say what this one says."""
        known = {node["metadata"]["name"]: node["well"] for node in self._informer.list()}
        for well in (True, False):
            names = [name for name in self._numbers if known.get(name) is well]
            failed, _ = await self._write(self._repairs(names, well=well), "take over")
            self._untaken |= dict.fromkeys(failed)
        self._missing = {name: None for name in self._numbers if name not in known}
        self._wake.set()

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            now = self._now()
            unwell, self._unwell = self._unwell, {}
            body = machine.recovery(now)
            patches = [operations.patch(NODES, "", name, body, STRATEGIC, "status") for name in unwell]
            failed, _ = await self._write(patches, "recover")
            self._unwell |= dict.fromkeys(failed)
            untaken, _ = await self._write(self._repairs(self._untaken, well=False), "take over")
            self._untaken = dict.fromkeys(untaken)
            new, self._new = self._new, {}
            await self._renew(new)
            while self._missing:
                names = list(self._missing)[:BATCH_MAX]
                for name in names:
                    del self._missing[name]
                creates = [operations.create(self._fleet.node(self._numbers[name], self._now())) for name in names]
                failed, taken = await self._write(creates, "register", apart=409)
                # Another set had played them.
                more, _ = await self._write(self._repairs(taken, well=False), "take over")
                self._missing |= dict.fromkeys([*failed, *more])
                if failed or more:
                    break
            if self._missing or self._unwell or self._untaken:
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    def _repairs(self, names: Iterable[str], *, well: bool) -> list[Operation]:
        now = self._now()
        return [
            operations.patch(
                NODES, "", name, self._fleet.repair(self._numbers[name], well=well, now=now), STRATEGIC, "status"
            )
            for name in names
        ]

    async def _write(self, batch: list[Operation], what: str, apart: int = 404) -> tuple[list[str], list[str]]:
        """Writes; the names of those that failed and are worth another attempt, and of those answered `apart`."""
        try:
            results = await self._client.write(batch)
        except ApiError as error:
            log.warning("cannot %s %d nodes: %s", what, len(batch), error)
            return [operation.name for operation in batch], []
        failed, set_apart, words = [], [], ""
        for operation, result in zip(batch, results, strict=True):
            if result.code == apart:
                set_apart.append(operation.name)
            elif result.code >= 400:
                failed.append(operation.name)
                words = words or result.body.decode(errors="replace")[:300]
        if failed:
            log.warning("cannot %s %d nodes, such as %s: %s", what, len(failed), failed[0], words)
        return failed, set_apart

    def _on_nodes(self, changes: list[Change]) -> None:
        for change in changes:
            name = change.object["metadata"]["name"]
            number = self._numbers.get(name)
            if number is None:
                continue
            if change.new is None:
                self._beats.remove(name, number)
                self._missing[name] = None  # as a kubelet does whose Node was deleted
            else:
                if change.old is None:
                    self._beats.add(name, number)
                    self._new[name] = None
                if not change.new["well"]:
                    self._unwell[name] = None
        self._wake.set()

    def on_timer(self, beat: Beat, now: float) -> None:
        """A beat is due."""
        names, report = self._beats.on_timer(beat, now)
        if names:
            self._spawn(self._beat(beat, list(names), report))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat(self, beat: Beat, names: list[str], report: bool) -> None:
        beat.busy = True
        try:
            await self._renew(names)
            if report:
                body = machine.report(self._now())
                well = [name for name in names if (node := self._informer.get("", name)) and node["well"]]
                patches = [operations.patch(NODES, "", name, body, STRATEGIC, "status") for name in well]
                await self._write(patches, "report")
        finally:
            beat.busy = False

    async def _renew(self, names: Iterable[str]) -> None:
        """Renews Leases; makes those that there are not."""
        body = machine.renewal(self._now())
        batch = [operations.patch(LEASES, LEASE_NAMESPACE, name, body) for name in names]
        try:
            results = await self._client.write(batch)
            missing = [each.name for each, result in zip(batch, results, strict=True) if result.code == 404]
            creates = [
                operations.create(self._fleet.lease(name, node["metadata"]["uid"], self._now()))
                for name in missing
                if (node := self._node(name)) is not None
            ]
            await self._client.write(creates)
        except ApiError as error:
            log.warning("cannot renew %d leases: %s", len(batch), error)  # their next beat tries again

    def _node(self, name: str) -> Object | None:
        return self._informer.get("", name)
