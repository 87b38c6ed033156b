"""Keeps this machine's Node: registers it, reports its state, renews its Lease."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.clock import rfc3339_micro
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.kubelet.core import criconfig, nodestatus
from raykube.kubelet.core.nodestatus import Health, MachineFacts, NodeConfig
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.statuspatch import status_patch
from raykube.kubelet.cri import Cri
from raykube.pb import api_pb2
from raykube.rpc import RpcError
from raykube.rpc.clock import SystemClock

log = logging.getLogger(__name__)

NODES = builtin("v1", "Node")
LEASES = builtin("coordination.k8s.io/v1", "Lease")
LEASE_NAMESPACE = "kube-node-lease"
RETRY_S = 0.5


def reference(name: str) -> Object:
    """What events about a node are about: they name it by its name where other objects have a uid, as upstream's."""
    return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "uid": name}}


def _revision(node: Object) -> int:
    return int(node["metadata"].get("resourceVersion") or 0)


class NodeAgent:
    def __init__(
        self,
        client: ApiClient,
        cri: Cri,
        events: EventRecorder,
        config: NodeConfig,
        machine: MachineFacts,
        update_s: float,
        report_s: float,
        lease_s: int,
        register: bool,
        pressures: Callable[[], frozenset[str]],
        images: Callable[[], tuple[Object, ...]],
        problems: Callable[[], list[str]],
        lease_notes: Callable[[], dict[str, str]],
    ) -> None:
        """`lease_notes`: annotations of the Lease, asked at each renewal."""
        self._client = client
        self._cri = cri
        self._events = events
        self._config = config
        self._machine = machine
        self._update_s = update_s
        self._report_s = report_s
        self._lease_s = lease_s
        self._register = register
        self._pressures = pressures
        self._images = images
        self._problems = problems
        self._lease_notes = lease_notes
        self._look = asyncio.Event()
        self._clock = SystemClock()
        self._runtime = ""
        self._lease: Object | None = None
        self._reported_at = 0.0
        self._pod_cidr = config.pod_cidr
        self._has_reported = False
        self._was_unschedulable = False
        self.registered = asyncio.Event()
        # Before the first answer of the apiserver: what we would register.
        self.node: Object = nodestatus.new_node(config, machine, Health("", "starting"), self._clock.now())
        self.healthy = False

    def serves_on(self, port: int) -> None:
        """The kubelet's server got a port; to be told before `run`."""
        self._config = replace(self._config, port=port)
        self.node = nodestatus.new_node(self._config, self._machine, Health("", "starting"), self._clock.now())

    def allocatable(self) -> dict[str, str]:
        return nodestatus.allocatable(self._config, self._machine)

    async def run(self) -> None:
        """Registers, then reports until cancelled."""
        while True:
            try:
                await self._ensure_node()
                break
            except ApiError as error:
                log.warning("cannot register the node %s: %s", self._config.name, error)
                await asyncio.sleep(RETRY_S)
        self.registered.set()
        self._events.record(self._reference(), "Normal", "Starting", "Starting kubelet.")
        await asyncio.gather(self._report_forever(), self._renew_forever())

    def wake(self) -> None:
        """Looks at the node's state now, for something about it changed."""
        self._look.set()

    def _reference(self) -> Object:
        return reference(self._config.name)

    async def _health(self) -> Health:
        try:
            if not self._runtime:
                version = await self._cri.version()
                self._runtime = f"{version.runtime_name}://{version.runtime_version}"
            status = await self._cri.status()
        except RpcError as error:
            log.warning("the container runtime does not answer: %s", error.message)
            problems = ["container runtime is down", *self._problems()]
            return Health(self._runtime, nodestatus.joined(problems), self._pressures(), self._images())
        conditions = {condition.type: condition for condition in status.status.conditions}
        problems = []
        for name, words in (
            ("RuntimeReady", "container runtime not ready"),
            ("NetworkReady", "container runtime network not ready"),
        ):
            condition = conditions.get(name)
            if condition is None or not condition.status:
                reason = f"{condition.reason} message:{condition.message}" if condition else "unknown"
                problems.append(f"{words}: {name}=false reason:{reason}")
        problems += self._problems()
        handlers, features = criconfig.runtime_handlers(status)
        problem = nodestatus.joined(problems)
        return Health(self._runtime, problem, self._pressures(), self._images(), handlers, features)

    async def _ensure_node(self) -> None:
        health = await self._health()
        wanted = nodestatus.new_node(self._config, self._machine, health, self._clock.now())
        try:
            found = await self._client.get(NODES, "", self._config.name)
        except ApiError as error:
            if error.code != 404 or not self._register:
                raise
            try:
                self.node = await self._client.create(wanted)
                self._reported_at = self._clock.now()
                return
            except ApiError as refusal:
                if refusal.code != 409:
                    raise
                found = await self._client.get(NODES, "", self._config.name)
        # An earlier kubelet registered it: labels that we are told to set are set, all else is kept.
        labels = found["metadata"].get("labels") or {}
        # Roles are stated once: afterwards they are the administrator's, and the apiserver keeps kubelets off them.
        missing = {
            key: value
            for key, value in wanted["metadata"]["labels"].items()
            if labels.get(key) != value and not key.startswith("node-role.kubernetes.io/")
        }
        if missing:
            found = await self._client.patch(NODES, "", self._config.name, {"metadata": {"labels": missing}})
        self.node = found

    async def refresh(self) -> Object:
        """The node as it is now: what was remembered may be older than what the scheduler saw."""
        self.node = await self._client.get(NODES, "", self._config.name)
        return self.node

    async def _report_forever(self) -> None:
        while True:
            try:
                await self._report()
            except ApiError as error:
                log.warning("cannot report the node's status: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._update_s * random.uniform(0.95, 1.05)):
                    await self._look.wait()
            self._look.clear()

    async def _report(self) -> None:
        health = await self._health()
        self.healthy = not health.problem
        now = self._clock.now()
        try:
            # Old state is good enough to compare with, and costs the store nothing.
            found = await self._client.get(NODES, "", self._config.name, resource_version=-1)
            if _revision(found) > _revision(self.node):
                self.node = found  # else an apiserver has not seen yet what was written here
        except ApiError as error:
            if error.code != 404:
                raise
            await self._ensure_node()
        await self._follow_pod_cidr()
        old = self.node.get("status") or {}
        status = nodestatus.node_status(self._config, self._machine, health, old, now)
        changed = nodestatus.significant(status) != nodestatus.significant(old)
        if changed or now - self._reported_at >= self._report_s:
            self.node = await self._client.patch(
                NODES, "", self._config.name, {"status": status_patch(old, status)}, api_pb2.STRATEGIC, "status"
            )
            self._reported_at = now
        self._tell(old, status)

    def _tell(self, old: Object, status: Object) -> None:
        """Records what changed since the stored status, whoever wrote that; the first time, pressures in any case."""
        name = self._config.name
        if nodestatus.rebooted(old, status):
            message = f"Node {name} has been rebooted, boot id: {self._machine.boot_id}"
            self._events.record(self._reference(), "Warning", "Rebooted", message)
        before = old if self._has_reported else nodestatus.without_pressures(old)
        for state in nodestatus.transitions(before, status):
            self._events.record(self._reference(), "Normal", state, f"Node {name} status is now: {state}")
        unschedulable = bool((self.node.get("spec") or {}).get("unschedulable"))
        if unschedulable != self._was_unschedulable:
            state = "NodeNotSchedulable" if unschedulable else "NodeSchedulable"
            self._events.record(self._reference(), "Normal", state, f"Node {name} status is now: {state}")
        self._has_reported, self._was_unschedulable = True, unschedulable

    async def _follow_pod_cidr(self) -> None:
        """Tells the runtime which addresses pods get, when the cluster (not a flag) decides that."""
        cidr = self._config.pod_cidr or (self.node.get("spec") or {}).get("podCIDR") or ""
        if cidr and cidr != self._pod_cidr:
            try:
                await self._cri.set_pod_cidr(cidr)
                self._pod_cidr = cidr
            except RpcError as error:
                log.warning("the runtime does not take the pod CIDR %s: %s", cidr, error.message)

    async def _renew_forever(self) -> None:
        while True:
            delay_s = self._lease_s * 0.25
            try:
                await self._renew()
            except ApiError as error:
                log.warning("cannot renew the node's lease: %s", error)
                self._lease = None
                delay_s = min(delay_s, 2.0)
            await asyncio.sleep(delay_s * random.uniform(0.96, 1.0))

    async def _renew(self) -> None:
        spec = {
            "holderIdentity": self._config.name,
            "leaseDurationSeconds": self._lease_s,
            "renewTime": rfc3339_micro(self._clock.now()),
        }
        if self._lease is None:
            try:
                self._lease = await self._client.get(LEASES, LEASE_NAMESPACE, self._config.name)
            except ApiError as error:
                if error.code != 404:
                    raise
                self._lease = await self._client.create(self._new_lease(spec))
                return
        # No precondition: nobody else writes this Lease, and a lost race must not cost a heartbeat.
        metadata = {key: value for key, value in self._lease["metadata"].items() if key != "resourceVersion"}
        metadata["annotations"] = self._lease_notes()
        update = operations.update({**self._lease, "metadata": metadata, "spec": spec})
        (result,) = await self._client.write([update])
        if result.code >= 400:
            self._lease = None
            raise ApiError.from_status({"code": result.code, "message": f"the apiserver answered {result.code}"})

    def _new_lease(self, spec: Object) -> Object:
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": self._config.name,
            "uid": (self.node.get("metadata") or {}).get("uid", ""),
        }
        metadata: Object = {"name": self._config.name, "namespace": LEASE_NAMESPACE}
        if owner["uid"]:
            metadata["ownerReferences"] = [owner]
        return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "spec": spec}
