"""The API, the scheduler and the nodes, in this process: what the controller-manager is measured against."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from raykube.api import meta
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.base.clock import FakeClock, rfc3339
from raykube.client import api
from raykube.client.core.listwatch import WatchEvent
from raykube.controllers.core import kinds
from raykube.pb import api_pb2

Obj = dict[str, Any]
Key = tuple[str, str]

# What the apiserver's defaults and its admission of ServiceAccounts add to a pod: more than half of its text.
TOKEN_VOLUME = "kube-api-access-h2ft2"  # the last five letters are drawn for each pod
MOUNT = {
    "name": TOKEN_VOLUME,
    "readOnly": True,
    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
}
TOKEN_SOURCES = [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
]
ADDED_TO_CONTAINERS = {
    "imagePullPolicy": "IfNotPresent",
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "volumeMounts": [MOUNT],
}
ADDED_TO_PODS = {
    "securityContext": {},
    "enableServiceLinks": True,
    "priority": 0,
    "preemptionPolicy": "PreemptLowerPriority",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "volumes": [{"name": TOKEN_VOLUME, "projected": {"sources": TOKEN_SOURCES, "defaultMode": 420}}],
    "tolerations": [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for state in ("not-ready", "unreachable")
    ],
}


class World:
    """The API: objects as JSON, watches, bulk writes. And the nodes on which the pods live."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.revision = 1
        self.objects: dict[str, dict[Key, Obj]] = defaultdict(dict)
        self.queues: dict[str, asyncio.Queue[api_pb2.WatchResponse]] = defaultdict(asyncio.Queue)
        self.pending: dict[str, list[api_pb2.Event]] = defaultdict(list)
        self.unbound: deque[Key] = deque()
        self.bound: deque[Key] = deque()
        self.running: deque[Key] = deque()
        self.writes: dict[str, int] = defaultdict(int)
        self.nodes: list[str] = []

    # -- what an ApiClient does

    async def watch(
        self, resource: Resource, *_: Any, decode: api.Decode = orjson.loads, **__: Any
    ) -> AsyncIterator[list[WatchEvent]]:
        queue = self.queues[resource.qualified] = asyncio.Queue()
        end = api_pb2.WatchResponse()
        for obj in self.objects[resource.qualified].values():
            end.events.add(type=api_pb2.ADDED, object=orjson.dumps(obj))
        end.events.add(type=api_pb2.BOOKMARK, resource_version=self.revision, initial_events_end=True)
        yield api.decode_events(end, decode)
        while True:
            response = await queue.get()
            yield api.decode_events(response, decode)

    async def write(self, operations: Sequence[api_pb2.Operation]) -> list[api_pb2.Result]:
        results = self.carry_out(operations)
        await asyncio.sleep(0)
        return results

    async def list(self, resource: Resource, namespace: str) -> tuple[list[Obj], int]:
        found = self.objects[resource.qualified].items()
        return [obj for (place, _), obj in found if place == namespace], self.revision

    async def get(self, resource: Resource, namespace: str, name: str) -> Obj:
        found = self.objects[resource.qualified].get((namespace, name))
        if found is None:
            raise ApiError(404, "NotFound", f"{name} is not there")
        return found

    # -- writes

    def carry_out(self, operations: Sequence[api_pb2.Operation]) -> list[api_pb2.Result]:
        results = [self._one(each) for each in operations]
        self.flush()
        return results

    def _one(self, operation: api_pb2.Operation) -> api_pb2.Result:
        group = operation.resource.group
        resource = f"{operation.resource.plural}.{group}" if group else operation.resource.plural
        self.writes[f"{resource} {api_pb2.Verb.Name(operation.verb).lower()}"] += 1
        key = (operation.namespace, operation.name)
        if operation.verb == api_pb2.CREATE:
            if resource == kinds.EVENTS:
                return api_pb2.Result(code=201, resource_version=self.revision)
            return self.create(resource, orjson.loads(operation.body))
        found = self.objects[resource].get(key)
        if found is None:
            return api_pb2.Result(code=404)
        if operation.resource_version and int(found["metadata"]["resourceVersion"]) != operation.resource_version:
            return api_pb2.Result(code=409, body=b'{"kind":"Status","code":409,"message":"conflict"}')
        if operation.verb == api_pb2.DELETE:
            return self.remove(resource, key)
        patch = orjson.loads(operation.body)
        new = merged(found, patch)
        if new.get("spec") != found.get("spec"):
            new["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
        return self.put(resource, new, api_pb2.MODIFIED)

    def create(self, resource: str, obj: Obj) -> api_pb2.Result:
        own = obj["metadata"]
        own |= {"uid": f"5c0bd6c5-0000-4000-8000-{self.revision:012x}", "creationTimestamp": rfc3339(self.clock.now())}
        own["generation"] = 1
        if resource == kinds.PODS:
            containers = [{**each, **ADDED_TO_CONTAINERS} for each in obj["spec"]["containers"]]
            obj["spec"] = {**obj["spec"], "containers": containers, **ADDED_TO_PODS}
            obj["status"] = {"phase": "Pending", "qosClass": "Burstable"}
            self.unbound.append((own["namespace"], own["name"]))
        return self.put(resource, obj, api_pb2.ADDED)

    def put(self, resource: str, obj: Obj, kind: api_pb2.EventType) -> api_pb2.Result:
        self.revision += 1
        obj["metadata"] = own = {**obj["metadata"], "resourceVersion": str(self.revision)}
        self.objects[resource][own.get("namespace", ""), own["name"]] = obj
        self._tell(resource, obj, kind)
        return api_pb2.Result(code=200, resource_version=self.revision)

    def remove(self, resource: str, key: Key) -> api_pb2.Result:
        found = self.objects[resource].pop(key, None)
        if found is None:
            return api_pb2.Result(code=404)
        self.revision += 1
        self._tell(resource, found, api_pb2.DELETED)
        return api_pb2.Result(code=200, resource_version=self.revision)

    def _tell(self, resource: str, obj: Obj, kind: api_pb2.EventType) -> None:
        text = meta.with_resource_version(meta.encode(obj), self.revision)
        if resource == kinds.PODS:
            drawn = f"{TOKEN_VOLUME[:-5]}{int(obj['metadata']['uid'][-12:], 16) % 100_000:05}"
            text = text.replace(TOKEN_VOLUME.encode(), drawn.encode())
        event = api_pb2.Event(type=kind, object=text, resource_version=self.revision)
        self.pending[resource].append(event)

    def flush(self) -> None:
        for resource, told in self.pending.items():
            if told:
                self.queues[resource].put_nowait(api_pb2.WatchResponse(events=told))
        self.pending.clear()

    # -- the scheduler and the kubelets

    def bind(self, count: int) -> int:
        done = 0
        while self.unbound and done < count:
            key = self.unbound.popleft()
            pod = self.objects[kinds.PODS].get(key)
            if pod is None:
                continue
            node = wanted_node(pod) or self.nodes[self.revision % len(self.nodes)]
            condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc3339(self.clock.now())}
            status = {**pod["status"], "conditions": [condition]}
            self.put(kinds.PODS, {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}, api_pb2.MODIFIED)
            self.bound.append(key)
            done += 1
        return done

    def start(self, count: int) -> int:
        """Pods that are bound run and are ready."""
        done = 0
        while self.bound and done < count:
            key = self.bound.popleft()
            pod = self.objects[kinds.PODS].get(key)
            if pod is not None:
                self.put(
                    kinds.PODS,
                    {**pod, "status": running_status(pod, self.clock.now(), self.revision)},
                    api_pb2.MODIFIED,
                )
                self.running.append(key)
                done += 1
        return done

    def end(self, count: int) -> int:
        """Pods that run succeed."""
        done = 0
        while self.running and done < count:
            pod = self.objects[kinds.PODS].get(self.running.popleft())
            if pod is not None:
                self.put(kinds.PODS, {**pod, "status": ended_status(pod, self.clock.now())}, api_pb2.MODIFIED)
                done += 1
        return done


def merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def wanted_node(pod: Obj) -> str:
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or [{}]
    return str(terms[0]["matchFields"][0]["values"][0]) if terms[0] else ""


def running_status(pod: Obj, now: float, number: int) -> Obj:
    moment, ip = rfc3339(now), f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    kinds_of = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        **pod["status"],
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": moment} for kind in kinds_of],
        "hostIP": "10.0.0.1",
        "hostIPs": [{"ip": "10.0.0.1"}],
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": moment,
        "containerStatuses": [
            {
                "name": "c",
                "image": "web:1",
                "imageID": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "containerID": f"hollow://{number:064x}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": moment}},
            }
        ],
    }


def ended_status(pod: Obj, now: float) -> Obj:
    moment = rfc3339(now)
    status = {**pod["status"], "phase": "Succeeded"}
    status["conditions"] = [
        {**each, "status": "False" if "Ready" in each["type"] else each["status"]} for each in status["conditions"]
    ]
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": moment, "finishedAt": moment}
    container = {**status["containerStatuses"][0], "ready": False, "started": False, "state": {"terminated": ended}}
    status["containerStatuses"] = [container]
    return status
