"""ConfigMaps, Secrets and ServiceAccount tokens for pods, from the apiserver, kept as long as a pod refers to them.

A kubelet may read only what its pods refer to, so every object is followed by a watch of its own name, which the pods
that refer to it share. Its change wakes them: a missing object that appears starts the pod that waits for it, and a
changed one reaches the volumes. Nothing is asked for on a timer. A pod that starts gets objects fresh, or as they were
last known while no apiserver answers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.clock import parse_rfc3339
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change
from raykube.client.informer import Informer
from raykube.client.operations import Operation, wire
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sources import Reference, Sources, references
from raykube.pb import api_pb2
from raykube.rpc.clock import SystemClock

KINDS = {"ConfigMap": builtin("v1", "ConfigMap"), "Secret": builtin("v1", "Secret")}
RUNTIME_CLASSES = builtin("node.k8s.io/v1", "RuntimeClass")
SERVICE_ACCOUNTS = builtin("v1", "ServiceAccount")
TOKEN_SECONDS = 3607
REFRESH_SHARE = 0.8  # of a token's life
REFRESH_AGE_MAX_S = 24 * 3600
TIMEOUT_S = 30.0
KNOWN_TIMEOUT_S = 3.0  # where an older copy will do


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    refresh_at: float
    expires: float


Key = tuple[str, str, str]  # namespace, kind, name


@dataclass(slots=True)
class _Known:
    """The newest state seen of one object; `object` None: there is none."""

    object: Object | None
    revision: int = 0


@dataclass(slots=True)
class _Followed:
    """One object that pods refer to."""

    informer: Informer
    task: "asyncio.Task[None]"
    users: set[str] = field(default_factory=set)  # uids of pods


class Objects:
    """`on_change(uid)` is called for every pod whose objects changed."""

    def __init__(self, client: ApiClient, on_change: Callable[[str], None] = lambda _: None) -> None:
        self.client = client
        self._on_change = on_change
        self._clock = SystemClock()
        self._known: dict[Key, _Known] = {}
        self._followed: dict[Key, _Followed] = {}
        self._of_pod: dict[str, set[Key]] = {}
        self._read: dict[str, set[Key]] = {}  # what was read for each pod since it is here
        self._tokens: dict[tuple[str, str, int, str], _Token] = {}

    # -- following

    def follow(self, pod: Object) -> None:
        """Watches what the pod refers to until `unfollow`; again is no change."""
        uid, namespace = pods.uid(pod), pods.namespace(pod)
        if uid in self._of_pod:
            return
        keys = self._of_pod[uid] = {(namespace, kind, name) for kind, name in references(pod)}
        for key in keys:
            followed = self._followed.get(key)
            if followed is None:
                followed = self._followed[key] = self._watch(key)
            followed.users.add(uid)

    def _watch(self, key: Key) -> _Followed:
        namespace, kind, name = key
        informer = Informer(self.client, KINDS[kind], namespace, field_selector=f"metadata.name={name}")
        informer.add_batch_handler(lambda changes: self._changed(key, changes))
        return _Followed(informer, asyncio.get_running_loop().create_task(informer.run()))

    def unfollow(self, uid: str) -> None:
        """The pod needs its objects no more."""
        self._read.pop(uid, None)
        for key in self._of_pod.pop(uid, ()):
            followed = self._followed[key]
            followed.users.discard(uid)
            if not followed.users:
                followed.task.cancel()
                del self._followed[key]
                self._known.pop(key, None)

    async def close(self) -> None:
        tasks = [followed.task for followed in self._followed.values()]
        self._followed.clear()
        self._of_pod.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, key: Key, changes: list[Change]) -> None:
        for change in changes:
            revision = int(change.object["metadata"].get("resourceVersion") or 0)
            known = self._known.get(key)
            if known is not None and known.object is not None and known.revision >= revision + (change.new is None):
                continue  # a pod that started has read this state already, or what was made anew after a deletion
            self._known[key] = _Known(change.new, revision)
            followed = self._followed.get(key)
            for uid in [*followed.users] if followed is not None else ():
                self._on_change(uid)

    # -- reading

    async def sources(self, pod: Object, wanted: set[Reference]) -> Sources:
        """The objects of a followed pod, None for a missing one. Raises ApiError when the apiserver cannot say.

        The first time they are read for this pod, so that none is older than the pod; then the watches keep them.
        """
        uid, namespace = pods.uid(pod), pods.namespace(pod)
        ordered = sorted(wanted)
        found = await asyncio.gather(*(self._get(uid, (namespace, kind, name)) for kind, name in ordered))
        return Sources(namespace, dict(zip(ordered, found, strict=True)))

    async def _get(self, uid: str, key: Key) -> Object | None:
        namespace, kind, name = key
        known, followed, read = self._known.get(key), self._followed.get(key), self._read.setdefault(uid, set())
        if known is not None and followed is not None and followed.informer.has_synced and key in read:
            return known.object
        try:
            found = await self.client.get(
                KINDS[kind], namespace, name, timeout=TIMEOUT_S if known is None else KNOWN_TIMEOUT_S
            )
        except ApiError as error:
            if error.code == 404:
                read.add(key)
                return self._note(key, None, 0)
            if known is not None:
                return known.object  # the apiservers are away: a container that restarts gets what it had
            raise
        read.add(key)
        return self._note(key, found, int(found["metadata"].get("resourceVersion") or 0))

    def _note(self, key: Key, found: Object | None, revision: int) -> Object | None:
        """Keeps what was read, unless the watch was faster."""
        known = self._known.get(key)
        if known is not None and known.revision > revision and known.object is not None:
            return known.object
        if key in self._followed:
            self._known[key] = _Known(found, revision)
        return found

    async def runtime_class(self, name: str) -> Object | None:
        """A RuntimeClass; None when there is none of that name. Raises ApiError when the apiserver cannot say."""
        try:
            return dict(await self.client.get(RUNTIME_CLASSES, "", name, timeout=TIMEOUT_S))
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    # -- tokens

    async def token(self, pod: Object, request: Object) -> str:
        """A token of the pod's service account, bound to the pod; renewed when most of its life is over."""
        seconds = int(request.get("expirationSeconds") or TOKEN_SECONDS)
        audience = str(request.get("audience") or "")
        account = str(pod["spec"].get("serviceAccountName") or "default")
        key = (pods.uid(pod), audience, seconds, account)
        cached = self._tokens.get(key)
        now = self._clock.now()
        if cached is not None and now < cached.refresh_at:
            return cached.text
        try:
            answer = await self._request_token(pod, account, audience, seconds)
        except ApiError as error:
            if cached is not None and now < cached.expires and error.code >= 500:
                return cached.text
            raise
        expires = parse_rfc3339(answer["expirationTimestamp"])
        refresh_at = now + min((expires - now) * REFRESH_SHARE, REFRESH_AGE_MAX_S)
        self._tokens[key] = _Token(answer["token"], refresh_at, expires)
        return str(answer["token"])

    async def _request_token(self, pod: Object, account: str, audience: str, seconds: int) -> Object:
        spec: Object = {
            "expirationSeconds": seconds,
            "audiences": [audience] if audience else [],
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pods.name(pod), "uid": pods.uid(pod)},
        }
        body = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec}
        operation = Operation(
            verb=api_pb2.CREATE,
            resource=wire(SERVICE_ACCOUNTS),
            namespace=pods.namespace(pod),
            name=account,
            subresource="token",
            body=orjson.dumps(body),
        )
        return dict((await self.client.write_one(operation))["status"])

    def forget(self, uid: str) -> None:
        """Drops what is kept for a pod that is gone."""
        self.unfollow(uid)
        for key in [key for key in self._tokens if key[0] == uid]:
            del self._tokens[key]
