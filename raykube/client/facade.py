"""`raykube.Client`: the synchronous client for programs, notebooks and tests.

    with raykube.Client() as client:                       # the kubeconfig's current context
        client.apply("web.yaml")
        client.wait("deployment/web", "Available")
        for pod in client.list("pods", label_selector="app=web"):
            print(pod.name, pod.status.get("podIP"))

An event loop in a thread of its own does the work; any thread may call. Calls go to the live apiservers over gRPC and
survive the loss of one. Errors of the API are `ApiError`, with the server's words. Kinds are named as kubectl takes
them: `pods`, `deploy`, `deployments.apps`.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.client import manifests, operations
from raykube.client.api import ApiClient
from raykube.client.environment import kubeconfig_paths
from raykube.client.goals import Goal
from raykube.client.kinds import resource_named
from raykube.client.kubeconfig import Connection, connect
from raykube.client.loop import LoopThread
from raykube.client.manifests import Manifest
from raykube.client.objects import Change, Object
from raykube.client.operations import Operation
from raykube.client.outcomes import complete, outcome
from raykube.client.places import Place, place_of, placed, scope_of, summary, typed
from raykube.client.progress import Progress
from raykube.client.remotecommand import RemoteCommands
from raykube.client.streamcalls import StreamCalls
from raykube.client.waiting import wait_for
from raykube.client.watching import changes
from raykube.pb import api_pb2
from raykube.rpc import Tls

# Aliases: inside Client the name `list` is the method.
Objects = list[Object]
Places = list[Place]
Operations = list[Operation]
Outcomes = list[Object | ApiError]

FIELD_MANAGER = "raykube"
PATCH_TYPES = {"merge": api_pb2.MERGE, "strategic": api_pb2.STRATEGIC, "json": api_pb2.JSON, "apply": api_pb2.APPLY}
# Applied before everything else of a manifest, which may live in it or refer to it.
FIRST_KINDS = ("Namespace", "CustomResourceDefinition", "PriorityClass", "ServiceAccount")


class Client(StreamCalls):
    """A connection to one cluster. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        kubeconfig: str | Path | None = None,
        context: str | None = None,
        *,
        endpoints: Sequence[str] | None = None,
        tls: Tls | None = None,
        namespace: str | None = None,
    ) -> None:
        """From a kubeconfig (None: `$KUBECONFIG` or `~/.kube/config`), or to `endpoints`, host:port of gRPC APIs.

        `namespace` is meant where a call names none (None: the context's). Raises ValueError when the kubeconfig does
        not say how to connect.
        """
        if endpoints is not None:
            self._connection = Connection(list(endpoints), tls, "default")
        else:
            paths = kubeconfig_paths() if kubeconfig is None else [Path(kubeconfig).expanduser()]
            self._connection = connect(paths, context)
        self.namespace = namespace or self._connection.namespace
        self._loop = LoopThread("raykube-client")
        try:
            self._api: ApiClient = self._loop.call(self._make())
        except BaseException:
            self.close()
            raise

    async def _make(self) -> ApiClient:
        return ApiClient(self._connection.endpoints, self._connection.tls)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and its iterators, and removes the certificates written for it; idempotent."""
        if self._loop.running:
            api = getattr(self, "_api", None)
            if api is not None:
                self._loop.call(api.close())
            self._loop.stop()
        self._connection.close()

    # Writes

    def apply(self, manifest: Manifest, *, namespace: str | None = None, force: bool = False) -> Objects:
        """Server-side apply: creates what is missing and brings what exists to the manifest.

        A manifest is YAML or JSON text, a path, a dict, or a list of these. `force` takes over fields that others own;
        without it that is a 409 Conflict. Raises ApiError (one object) or BulkError.
        """
        objects = [placed(obj, self._in(namespace)) for obj in manifests.load(manifest)]
        results: Outcomes = [Object({})] * len(objects)
        for first in (True, False):
            indexes = [index for index, obj in enumerate(objects) if (obj["kind"] in FIRST_KINDS) == first]
            batch = [_apply(objects[index], force) for index in indexes]
            for index, found in zip(indexes, self._write(batch), strict=True):
                results[index] = found
        return complete(results)

    def create_many(self, objects: Iterable[Any], *, namespace: str | None = None) -> Objects:
        """Creates objects (dicts or `Object`s) in bulk. Raises ApiError (one object) or BulkError."""
        within = self._in(namespace)
        found = [placed(obj.raw if isinstance(obj, Object) else obj, within) for obj in objects]
        return self._bulk([operations.create(obj, field_manager=FIELD_MANAGER) for obj in found])

    def delete(
        self,
        kind: str | Object,
        name: str = "",
        *,
        namespace: str | None = None,
        label_selector: str = "",
        grace_period: int | None = None,
        propagation: str = "",
        missing_ok: bool = False,
    ) -> int:
        """Deletes one object (`delete("pod", "web")`, `delete("pod/web")`), or those that a selector selects.

        Returns how many. `propagation`: Background, Foreground or Orphan.
        """
        if isinstance(kind, str) and not name and "/" not in kind:
            if not label_selector:
                raise ValueError("name the object to delete, or give a label_selector")
            resource = resource_named(kind)
            found = self.list(kind, namespace=namespace, label_selector=label_selector)
            places = [(resource, obj.namespace, obj.name) for obj in found]
            missing_ok = True  # somebody else was faster
        else:
            places = [self._place(kind, name, namespace)]
        batch = [operations.delete(*place, grace_period_s=grace_period, propagation=propagation) for place in places]
        results = self._write(batch)
        missing = {index for index, found in enumerate(results) if isinstance(found, ApiError) and found.code == 404}
        if missing_ok:
            results = [Object({}) if index in missing else found for index, found in enumerate(results)]
        complete(results)
        return len(results) - len(missing)

    def patch(
        self,
        kind: str | Object,
        name: str = "",
        patch: Any = None,
        *,
        patch_type: str = "strategic",
        subresource: str = "",
        namespace: str | None = None,
        force: bool = False,
    ) -> Object:
        """Patches one object; `patch_type`: strategic, merge, json or apply."""
        if patch_type not in PATCH_TYPES:
            raise ValueError(f"{patch_type!r} is no patch type: choose from {', '.join(PATCH_TYPES)}")
        operation = operations.patch(
            *self._place(kind, name, namespace),
            patch,
            PATCH_TYPES[patch_type],
            subresource,
            field_manager=FIELD_MANAGER,
            force=force,
        )
        return self._bulk([operation])[0]

    def scale(self, kind: str | Object, name: str = "", replicas: int = 1, *, namespace: str | None = None) -> Object:
        """Sets the number of replicas; the resulting Scale."""
        body = {"spec": {"replicas": replicas}}
        return self.patch(kind, name, body, patch_type="merge", subresource="scale", namespace=namespace)

    # Reads

    def get(self, kind: str, name: str = "", *, namespace: str | None = None) -> Object:
        """One object: `get("deploy", "web")` or `get("deploy/web")`. Raises ApiError 404."""
        return Object(self._loop.call(self._api.get(*self._place(kind, name, namespace))))

    def list(
        self,
        kind: str,
        *,
        namespace: str | None = None,
        all_namespaces: bool = False,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Objects:
        """The objects of a kind in one namespace (or all), as selected."""
        resource = resource_named(kind)
        found, _ = self._loop.call(
            self._api.list(
                resource,
                scope_of(resource, self._in(namespace), all_namespaces),
                label_selector=label_selector,
                field_selector=field_selector,
            )
        )
        return [Object(typed(obj, resource)) for obj in found]

    def pods(self, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Objects:
        """Short for `list("pods")`."""
        return self.list("pods", namespace=namespace, label_selector=label_selector, field_selector=field_selector)

    def watch(
        self,
        kind: str,
        *,
        namespace: str | None = None,
        all_namespaces: bool = False,
        label_selector: str = "",
        field_selector: str = "",
        timeout: float | None = None,
    ) -> Iterator[Change]:
        """What is there as ADDED, then every change as it happens; ends after `timeout` seconds, if given.

        Survives the loss of an apiserver without losing or repeating a change. Raises ApiError when the apiserver
        refuses (403 …), and BufferError when the program reads more slowly than changes come, 100,000 behind.
        """
        resource = resource_named(kind)
        scope = scope_of(resource, self._in(namespace), all_namespaces)

        return self._loop.iterate(changes(self._api, resource, scope, label_selector, field_selector, timeout))

    def logs(
        self,
        target: str | Object,
        container: str = "",
        *,
        namespace: str | None = None,
        follow: bool = False,
        tail: int = -1,
        previous: bool = False,
        timestamps: bool = False,
        since: int = 0,
    ) -> Iterator[str]:
        """Lines (with their line ends) of a container's log.

        `target` is a pod (`web-1`, `pod/web-1`, an Object) or something with a pod selector (`job/sums`), which means
        its first pod.
        """
        scope, name = self._log_pod(target, namespace)

        async def lines() -> AsyncIterator[str]:
            rest = b""
            stream = self._api.logs(
                scope,
                name,
                container,
                follow=follow,
                tail_lines=tail,
                previous=previous,
                timestamps=timestamps,
                since_s=since,
            )
            async for data in stream:
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace") + "\n"
            if rest:
                yield rest.decode(errors="replace")

        return self._loop.iterate(lines())

    # Waiting

    def wait(
        self,
        target: str | Object | Iterable[str | Object],
        condition: Goal = None,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        timeout: float = 300.0,
        progress: bool = True,
    ) -> Objects:
        """Waits until the objects meet a condition (see `goals`); the objects as they then are.

        `target`: `deployment/web`, an Object, several of these, or a kind with `label_selector`: those that exist now.
        A progress bar shows on a terminal. Raises WaitTimeout, `goals.Unreachable` when it cannot happen any more, and
        ApiError when the apiserver refuses to tell, or (404) when there is no such object: to wait for one that is yet
        to come, say "exists" first.
        """
        places = self._targets(target, namespace, label_selector)
        if not places:
            raise ValueError(f"no {target} matches: there is nothing to wait for")
        text = condition if isinstance(condition, str) else "ready" if condition is None else "done"
        with Progress(f"Waiting for {summary(places)} to be {text}", len(places), progress) as bar:
            return self._loop.call(wait_for(self._api, places, condition, timeout, bar))

    def _targets(
        self, target: str | Object | Iterable[str | Object], namespace: str | None, label_selector: str
    ) -> Places:
        if isinstance(target, str) and "/" not in target:
            resource = resource_named(target)
            found = self.list(target, namespace=namespace, label_selector=label_selector)
            return [(resource, obj.namespace, obj.name) for obj in found]
        items: Iterable[str | Object] = (target,) if isinstance(target, str | Object) else target
        return [*dict.fromkeys(self._place(item, "", namespace) for item in items)]

    # Names and places

    def _in(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else namespace

    def _place(self, kind: str | Object, name: str, namespace: str | None) -> Place:
        return place_of(kind, name, self._in(namespace))

    def _commands(self) -> RemoteCommands:
        return RemoteCommands(self._api, self._connection.tls)

    def _log_pod(self, target: str | Object, namespace: str | None) -> tuple[str, str]:
        if isinstance(target, str) and "/" not in target:
            return self._in(namespace), target
        resource, scope, name = self._place(target, "", namespace)
        if resource.kind == "Pod":
            return scope, name
        owner = Object(self._loop.call(self._api.get(resource, scope, name)))
        selector = operations.selector_text(owner.spec.get("selector"))
        pods = sorted(
            self.list("pods", namespace=scope, label_selector=selector) if selector else [],
            key=lambda pod: (pod.phase == "Pending", pod.metadata.get("creationTimestamp", ""), pod.name),
        )
        if not pods:
            raise ValueError(f"{resource.kind.lower()}/{name} has no pods")
        return scope, pods[0].name

    # Bulk

    def _write(self, batch: Operations) -> Outcomes:
        return [outcome(result) for result in self._loop.call(self._api.write(batch, return_objects=True))]

    def _bulk(self, batch: Operations) -> Objects:
        return complete(self._write(batch))


def _apply(obj: dict[str, Any], force: bool) -> Operation:
    metadata = obj["metadata"]
    if not metadata.get("name"):
        raise ValueError(f"{obj['kind']} has no metadata.name: what is applied needs a name")
    return operations.patch(
        operations.resource_of(obj),
        metadata.get("namespace", ""),
        metadata["name"],
        orjson.dumps(obj),
        api_pb2.APPLY,
        field_manager=FIELD_MANAGER,
        force=force,
    )
