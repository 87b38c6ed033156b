"""Asks the scheduler what it would do: a copy of the cluster, read through the apiservers, and the real core on it.

Nothing is written. The pods of a manifest are sent to the API as a dry run, so that its defaults, priority classes,
RuntimeClasses and limits hold for them as they would for real ones.
"""

from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.api.volumes import default_class
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.failures import error_of_body
from raykube.rpc.clock import SystemClock
from raykube.scheduler.core import plan, workloads
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.configuration import Settings
from raykube.scheduler.core.explanation import Explanation
from raykube.scheduler.core.gangs import group_of
from raykube.scheduler.core.intake import CLAIMS, DEVICES, LIVING, STORAGE
from raykube.scheduler.core.plan import Moved, Planned
from raykube.scheduler.core.profile import DEFAULT_NAME
from raykube.scheduler.core.workloads import Workload

Object = dict[str, Any]

NODES, NAMESPACES, PODS = builtin("v1", "Node"), builtin("v1", "Namespace"), builtin("v1", "Pod")
BUDGETS = builtin("policy/v1", "PodDisruptionBudget")
GROUPS = builtin("scheduling.k8s.io/v1alpha2", "PodGroup")
CLASSES = builtin("storage.k8s.io/v1", "StorageClass")
TEMPLATES = builtin("resource.k8s.io/v1", "ResourceClaimTemplate")
REFUSALS = frozenset({400, 403, 404, 409, 422})  # of one object: the next one may be good


class Planner:
    """One question to one copy: `read` first, then one of the others."""

    def __init__(self, client: ApiClient, settings: Settings) -> None:
        self._client = client
        self._cluster = Cluster(settings.profiles)
        self._names = {profile.name for profile in settings.profiles}
        self._pods: list[Object] = []
        self._budgets: list[Object] = []
        self._namespaces: set[str] = set()
        self._default_class = ""
        self._templates: dict[tuple[str, str], Object] = {}

    async def read(self) -> None:
        """Copies what the scheduler sees. Raises ApiError."""
        self._cluster.deadlines.now = SystemClock().now()
        for node in await self._list(NODES):
            self._cluster.on_node(node)
        for namespace in await self._list(NAMESPACES):
            metadata = namespace["metadata"]
            self._namespaces.add(metadata["name"])
            self._cluster.on_namespace(metadata["name"], metadata.get("labels") or {})
        for resource, take in STORAGE.items():
            objects = await self._list(resource)
            for obj in objects:
                take(self._cluster.volumes, obj["metadata"], obj)
            if resource == CLASSES:
                chosen = default_class(objects)
                self._default_class = chosen["metadata"]["name"] if chosen else ""
        for resource in (TEMPLATES, *DEVICES):
            for obj in await self._list(resource):
                self._take_in_device(resource, obj)
        for group in await self._list(GROUPS):
            self._on_group(group)
        self._budgets = await self._list(BUDGETS)
        for budget in self._budgets:
            metadata = budget["metadata"]
            self._cluster.preemption.budgets.on_budget(metadata["namespace"], metadata["name"], budget)
        self._pods = await self._list(PODS, LIVING)
        for pod in self._pods:
            if pod["spec"].get("nodeName"):
                self._cluster.on_pod(self._cluster.read_pod(pod))

    def _on_group(self, obj: Object) -> None:
        metadata = obj["metadata"]
        key = metadata.get("namespace") or "default", metadata["name"]
        self._cluster.gangs.on_group(key, group_of({**obj, "metadata": {"uid": "", **metadata}}))

    async def _list(self, resource: Resource, field_selector: str = "") -> list[Object]:
        found, _ = await self._client.list(resource, field_selector=field_selector)
        return found

    # What would happen

    async def plan(self, objects: list[Object]) -> list[Planned]:
        """Where the pods of a manifest would run. Pods that a workload has now leave first: this is the state after.

        Pods that wait already have their turn as well. Objects that make no sense, or that the API would refuse, come
        last, with what is wrong. Raises ApiError when the API does not answer.
        """
        expanded, refused = await self._expanded(objects)
        wanted = [(workload.title, pod) for workload, pods in expanded for pod in pods]
        waiting = self._waiting([workload for workload, _ in expanded])
        return plan.place(self._cluster, [*waiting, *wanted])[len(waiting) :] + refused

    async def drain(self, node: str) -> list[Moved]:
        """Where the pods of a node would go. Raises ValueError when there is no such node."""
        row = self._cluster.nodes.rows.get(node)
        if row is None or not self._cluster.nodes.live[row]:
            raise ValueError(f'nodes "{node}" not found')
        here = [pod for pod in self._pods if pod["spec"].get("nodeName") == node]
        return plan.drain(self._cluster, node, here, self._budgets, self._waiting([]))

    def _waiting(self, leaving: list[Workload]) -> list[tuple[str, Object]]:
        """The pods that wait for a node as (workload, pod), first come first; without those of workloads that leave."""
        pods = [
            pod
            for pod in self._pods
            if not pod["spec"].get("nodeName")
            and not pod["spec"].get("schedulingGates")
            and pod["spec"].get("schedulerName", DEFAULT_NAME) in self._names
            and "deletionTimestamp" not in pod["metadata"]
            and not any(workloads.belongs(workload, pod) for workload in leaving)
        ]
        pods.sort(key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
        return [("waiting", pod) for pod in pods]

    async def explain(self, name: str, namespace: str, objects: list[Object]) -> tuple[Object, Explanation]:
        """A pod of the cluster, or of the manifest (the first of its workload), on every node.

        One that runs is judged as if it did not. Raises ValueError when there is no such pod.
        """
        expanded, refused = await self._expanded(objects)
        for workload, pods in expanded:
            named = [pod for pod in pods if pod["metadata"]["name"] == name]
            if pods and (named or name in (workload.name, workload.title)):
                pod = named[0] if named else pods[0]
                return pod, self._cluster.explain(self._cluster.read_pod(pod))
        for pod in self._pods:
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name):
                self._cluster.on_pod_gone(pod["metadata"]["uid"])
                return pod, self._cluster.explain(self._cluster.read_pod(pod))
        for one in refused:
            if name in (one.name, one.workload):
                raise ValueError(one.why)
        raise ValueError(f'pods "{name}" not found in namespace {namespace}')

    # What a manifest means

    async def _expanded(self, objects: list[Object]) -> tuple[list[tuple[Workload, list[Object]]], list[Planned]]:
        """The workloads with their pods, and those of which nothing can become.

        Other objects of the manifest that matter become part of the copy.
        """
        self._take_in(objects)
        priorities = {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == "PriorityClass"}
        accounts = {
            (obj["metadata"].get("namespace"), obj["metadata"]["name"])
            for obj in objects
            if obj["kind"] == "ServiceAccount"
        }
        found, refused = [], []
        for obj in objects:
            try:
                workload = workloads.workload_of(obj)
                if workload is None:
                    continue
                admitted = await self._admitted(workload, priorities, accounts)
            except (ApiError, ValueError) as error:
                if isinstance(error, ApiError) and error.code not in REFUSALS:
                    raise
                metadata = obj.get("metadata") or {}
                name = metadata.get("name") or metadata.get("generateName", "")
                title = f"{obj['kind'].lower()}/{name}"
                refused.append(Planned(metadata.get("namespace", ""), name, title, why=str(error), refused=True))
                continue
            for pod in self._pods:
                if workloads.belongs(workload, pod):
                    self._cluster.on_pod_gone(pod["metadata"]["uid"])
            pods = self._pods_of(workload, admitted)
            found.append((workload, pods))
            for pod in pods:
                for claim in workloads.give_claims(pod, self._templates):
                    self._take_in_device(CLAIMS, claim)
            for claim in workloads.claims_of(workload, self._default_class):
                key = claim["metadata"]["namespace"], claim["metadata"]["name"]
                if not self._cluster.volumes.has_claim(key):
                    self._cluster.volumes.set_claim(key, claim)
        return found, refused

    def _pods_of(self, workload: Workload, admitted: Object) -> list[Object]:
        if workload.kind != "DaemonSet":
            return workloads.pods_of(workload, admitted)
        # Its controller makes none for nodes whose labels or taints keep it out.
        pod = workloads.tolerant(workload, admitted)
        found = self._cluster.explain(self._cluster.read_pod(pod)).verdicts
        nodes = sorted(one.node for one in found if not one.rejected_by.keys() & {"NodeAffinity", "TaintToleration"})
        return [workloads.daemon(pod, node, number) for number, node in enumerate(nodes)]

    def _take_in(self, objects: list[Object]) -> None:
        for obj in objects:
            metadata = obj.get("metadata") or {}
            if obj["kind"] == "Namespace":
                self._cluster.on_namespace(metadata["name"], metadata.get("labels") or {})
            if (obj["kind"], obj["apiVersion"]) == (GROUPS.kind, GROUPS.api_version):
                self._on_group(obj)
            for resource, take in STORAGE.items():
                if (resource.kind, resource.api_version) == (obj["kind"], obj["apiVersion"]):
                    take(self._cluster.volumes, metadata, {"spec": {}, "status": {}} | obj)
            for resource in (TEMPLATES, *DEVICES):
                if (resource.kind, resource.api_version) == (obj["kind"], obj["apiVersion"]):
                    self._take_in_device(resource, obj)

    def _take_in_device(self, resource: Resource, obj: Object) -> None:
        """Something about devices, of the cluster or of the manifest."""
        metadata = {"uid": f"plan/{resource.kind}"} | obj["metadata"]
        if resource.namespaced:
            metadata.setdefault("namespace", "default")
        if resource == TEMPLATES:
            self._templates[metadata["namespace"], metadata["name"]] = obj
        else:
            whole = {"spec": {}, "status": {}} | obj | {"metadata": metadata}
            DEVICES[resource](self._cluster.devices, metadata, whole)

    async def _admitted(
        self, workload: Workload, priorities: dict[str, Object], accounts: set[tuple[str, str]]
    ) -> Object:
        """A pod of the workload with all that the API would add to it. `accounts`: ServiceAccounts of the manifest."""
        pod = workloads.prototype(workload)
        spec = pod["spec"]
        namespace = workload.namespace
        chosen = priorities.get(spec.get("priorityClassName", ""))
        if chosen is not None:
            del spec["priorityClassName"]  # the class is only made by the manifest
        if namespace not in self._namespaces:
            pod["metadata"]["namespace"] = "default"  # so is its namespace
        account = spec.get("serviceAccountName", "")
        if namespace not in self._namespaces or (namespace, account) in accounts:
            for name in ("serviceAccountName", "serviceAccount"):  # so is its account
                spec.pop(name, None)
        (result,) = await self._client.write([operations.create(pod, dry_run=True)], return_objects=True)
        if result.code >= 400:
            error = error_of_body(result.body, result.code)
            raise ApiError(error.code, error.reason, f"{workload.title}: {error.message}", error.details)
        admitted: Object = orjson.loads(result.body)
        admitted["metadata"]["namespace"] = namespace
        if chosen is not None:
            admitted["spec"]["priority"] = chosen.get("value", 0)
            admitted["spec"]["preemptionPolicy"] = chosen.get("preemptionPolicy", "PreemptLowerPriority")
        return admitted
