"""Where a measurement runs: a control plane made for it, or a cluster that is there, in a namespace of its own."""

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson

from raykube.api.errors import ApiError
from raykube.api.patch import merge_patch
from raykube.api.resources import builtin
from raykube.bench.core import workload
from raykube.bench.core.scenario import Object, Scenario
from raykube.bench.core.workload import RUN_LABEL
from raykube.bench.plane import ACCOUNTS, NAMESPACES, NODES, PODS, ControlPlane, create, ready
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.informer import Informer
from raykube.client.kubeconfig import Connection
from raykube.hollow.core.machine import SET_LABEL, TYPE_LABEL
from raykube.rpc import Tls

DEPLOYMENTS = builtin("apps/v1", "Deployment")
REPLICASETS = builtin("apps/v1", "ReplicaSet")
CONFIGMAPS = builtin("v1", "ConfigMap")
LEASES = builtin("coordination.k8s.io/v1", "Lease")
DEFAULT_NAMESPACE = "default"
NODES_TIMEOUT_S = 600.0
NAMESPACE_TIMEOUT_S = 120.0
POLL_S = 0.2
LOST = "lost"  # the set of hollow machines that fall silent


class Progress(Protocol):
    """Shows how far a measurement is."""

    def begin(self, title: str, total: int) -> None: ...

    def at(self, done: int, words: str = "") -> None: ...

    def end(self, words: str) -> None: ...


class BenchError(RuntimeError):
    """The measurement failed; the message says where."""


@dataclass(frozen=True)
class Site:
    """Where a measurement runs."""

    client: ApiClient
    tls: Tls | None  # the client's
    scenario: Scenario  # on the scale that there is
    namespace: str = DEFAULT_NAMESPACE
    plane: ControlPlane | None = None  # the control plane made for it
    lost: frozenset[str] = frozenset()  # Nodes that will fall silent
    run: str = ""  # in a label of all that is made on a cluster that stays
    place: Object = field(default_factory=dict)  # merged into pods: where they may run, and the label

    def own(self, obj: Object) -> Object:
        """An object as it is made here: labelled, and in the measurement's namespace if it is of one."""
        metadata: Object = {"labels": {RUN_LABEL: self.run}} if self.run else {}
        if operations.resource_of(obj).namespaced:
            metadata["namespace"] = self.namespace
        return merge_patch(obj, {"metadata": metadata})


# -- a control plane of its own


@asynccontextmanager
async def made(
    scenario: Scenario, progress: Progress, *, apiservers: int = 1, pod_events: bool = False
) -> AsyncIterator[Site]:
    """A control plane of processes of this computer with the scenario's machines. All is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="raykube-bench-") as folder:
        plane = ControlPlane(Path(folder))
        try:
            progress.begin("Control plane", 1)
            plane.start(scheduler=False)
            for _ in range(1, apiservers):
                plane.start_apiserver()
            controllers = "controller-manager" in scenario.parts
            if controllers:
                plane.start_controllers(**_flags(scenario, "controller-manager"))
            if "scheduler" in scenario.parts:
                plane.start_scheduler(**_flags(scenario, "scheduler"))
            tls = plane.tls("admin")
            async with ApiClient(plane.api_addresses, tls) as client:
                await ready(plane, client, own_account=not controllers)
                progress.end("")
                lost = await _machines(scenario, plane, client, progress, pod_events)
                yield Site(client, tls, scenario, plane=plane, lost=lost)
        finally:
            plane.stop()


def _flags(scenario: Scenario, component: str) -> dict[str, object]:
    return {name.replace("-", "_"): value for name, value in scenario.flags.get(component, {}).items()}


async def _machines(
    scenario: Scenario, plane: ControlPlane, client: ApiClient, progress: Progress, pod_events: bool
) -> frozenset[str]:
    """Makes the scenario's machines; the names of those that will fall silent."""
    progress.begin("Machines", scenario.nodes)
    if "hollow" not in scenario.parts:
        given = scenario.flags.get("hollow", {})
        await create(client, [workload.node(number, given) for number in range(scenario.nodes)])
        progress.end("")
        return frozenset()
    flags: dict[str, object] = {"pod_events": str(pod_events).lower()} | _flags(scenario, "hollow")
    stay = scenario.nodes - scenario.failing
    lost: frozenset[str] = frozenset()
    if stay:
        plane.start_hollow("hollow", nodes=stay, pod_cidr="100.64.0.0/11", **flags)
    if scenario.failing:
        plane.start_hollow(LOST, nodes=scenario.failing, first_node=stay, pod_cidr="100.96.0.0/11", **flags)
        lost = frozenset(f"{LOST}-{number:05d}" for number in range(stay, scenario.nodes))
    # Followed, not listed: 5,000 Leases a few times a second would slow their making.
    leases = Informer(client, LEASES, "kube-node-lease", decode=_name_alone)
    following = asyncio.create_task(leases.run())
    try:
        deadline = time.monotonic() + NODES_TIMEOUT_S
        while (count := len(leases)) < scenario.nodes:
            plane.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{count} of {scenario.nodes} machines are there after {NODES_TIMEOUT_S:.0f} s")
            progress.at(count)
            await asyncio.sleep(POLL_S)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    progress.end("")
    return lost


def _name_alone(text: bytes) -> Object:
    metadata = orjson.loads(text)["metadata"]
    return {"metadata": {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion")}}


# -- a cluster that stays


@asynccontextmanager
async def joined(
    scenario: Scenario, progress: Progress, connection: Connection, namespace: str = ""
) -> AsyncIterator[Site]:
    """That cluster and its hollow machines. What the measurement made is taken away afterwards, and nothing else.

    `namespace` is made where there is none, and stays; without one, a generated one is made, which goes.
    """
    async with ApiClient(connection.endpoints, connection.tls) as client:
        nodes, _ = await client.list(NODES, label_selector=SET_LABEL)
        if not nodes:
            raise BenchError("the cluster has no hollow machines: 'raykube up --hollow N' makes them")
        if scenario.failing:
            raise BenchError("only a cluster of its own may lose machines for a measurement")
        scenario = scenario.scaled(len(nodes), scenario.pods)
        run = uuid.uuid4().hex
        label: Object = {"metadata": {"labels": {RUN_LABEL: run}}}
        place = label | {"spec": {"nodeSelector": {TYPE_LABEL: "hollow"}}}  # there are real machines too
        site = Site(client, connection.tls, scenario, namespace or f"raykube-bench-{run[:12]}", run=run, place=place)
        try:
            await _make_namespace(site, or_take=bool(namespace))
            yield site
        finally:
            progress.begin(f"Clearing {site.namespace}", 1)
            progress.end(await _clear(site, with_namespace=not namespace))


async def _make_namespace(site: Site, *, or_take: bool) -> None:
    """The namespace is there, and has the ServiceAccount that pods need."""
    body = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": site.namespace}}
    (result,) = await site.client.write([operations.create(body if or_take else site.own(body))])
    if result.code >= 400 and not (or_take and result.code == 409):
        raise BenchError(f"namespace {site.namespace}: {result.body.decode(errors='replace')[:500]}")
    deadline = time.monotonic() + NAMESPACE_TIMEOUT_S
    while True:
        try:
            await site.client.get(ACCOUNTS, site.namespace, "default")
            return
        except ApiError as error:
            if error.code != 404:
                raise
        if time.monotonic() > deadline:
            raise BenchError(
                f"namespace {site.namespace} has no ServiceAccount after {NAMESPACE_TIMEOUT_S:.0f} s: "
                "does the controller-manager run?"
            )
        await asyncio.sleep(POLL_S)


async def _delete_all(site: Site, mine: str) -> bool:
    """Deletes what has this label, owners first; returns whether there was something that was not going already."""
    made = [DEPLOYMENTS, REPLICASETS, PODS, CONFIGMAPS, *map(operations.resource_of, site.scenario.objects)]
    was_there = False
    for resource in dict.fromkeys(made):
        found, _ = await site.client.list(resource, site.namespace if resource.namespaced else "", label_selector=mine)
        metas = [each["metadata"] for each in found if "deletionTimestamp" not in each["metadata"]]
        was_there |= bool(metas)
        await site.client.write(
            [operations.delete(resource, meta.get("namespace", ""), meta["name"], uid=meta["uid"]) for meta in metas]
        )
    return was_there


async def _clear(site: Site, *, with_namespace: bool) -> str:
    """Takes away what this run made, whatever its name. Returns what is left, for people."""
    mine = f"{RUN_LABEL}={site.run}"
    client = site.client
    deadline = time.monotonic() + NAMESPACE_TIMEOUT_S
    # Again, as a controller that has not heard yet makes others in place of pods that go.
    is_left = await _delete_all(site, mine)
    while is_left and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        is_left = await _delete_all(site, mine)
    if not with_namespace:
        return f"{site.namespace} still has what this run made: label {mine}" if is_left else ""
    others, _ = await client.list(PODS, site.namespace, label_selector=f"!{RUN_LABEL}")
    if others:
        return f"namespace {site.namespace} stays: it has pods of others"
    spaces, _ = await client.list(NAMESPACES, label_selector=mine)
    await client.write([operations.delete(NAMESPACES, "", each["metadata"]["name"]) for each in spaces])
    while (await client.list(NAMESPACES, label_selector=mine))[0]:
        if time.monotonic() > deadline:
            return f"namespace {site.namespace} still ends"
        await asyncio.sleep(POLL_S)
    return ""
