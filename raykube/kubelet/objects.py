"""ConfigMaps, Secrets and ServiceAccount tokens for pods, from the apiserver, kept for a while.

A kubelet may read only what its pods refer to, so objects are got by name, when a pod first needs them and again each
`sync_frequency`; a pod that starts gets them fresh, or as they were last known while no apiserver answers.
"""

import asyncio
from dataclasses import dataclass

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.clock import parse_rfc3339
from raykube.client.api import ApiClient
from raykube.client.operations import Operation, wire
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sources import Reference, Sources
from raykube.pb import api_pb2
from raykube.rpc.clock import SystemClock

KINDS = {"ConfigMap": builtin("v1", "ConfigMap"), "Secret": builtin("v1", "Secret")}
SERVICE_ACCOUNTS = builtin("v1", "ServiceAccount")
TOKEN_SECONDS = 3607
REFRESH_SHARE = 0.8  # of a token's life
REFRESH_AGE_MAX_S = 24 * 3600
TIMEOUT_S = 30.0
KNOWN_TIMEOUT_S = 3.0  # where an older copy will do
KNOWN_MAX = 5000


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    refresh_at: float
    expires: float


class Objects:
    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._clock = SystemClock()
        self._known: dict[tuple[str, str, str], Object | None] = {}  # the last answers, oldest first
        self._tokens: dict[tuple[str, str, int, str], _Token] = {}

    async def sources(self, namespace: str, references: set[Reference]) -> Sources:
        """The objects as they are now, None for a missing one. Raises ApiError when the apiserver cannot say."""
        ordered = sorted(references)
        found = await asyncio.gather(*(self._get(namespace, kind, name) for kind, name in ordered))
        return Sources(namespace, dict(zip(ordered, found, strict=True)))

    async def _get(self, namespace: str, kind: str, name: str) -> Object | None:
        key = (namespace, kind, name)
        timeout_s = KNOWN_TIMEOUT_S if key in self._known else TIMEOUT_S
        try:
            found: Object | None = await self._client.get(KINDS[kind], namespace, name, timeout=timeout_s)
        except ApiError as error:
            if error.code == 404:
                found = None
            elif key in self._known:
                return self._known[key]  # the apiservers are away: a container that restarts gets what it had
            else:
                raise
        self._known.pop(key, None)
        self._known[key] = found
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return found

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
        return dict((await self._client.write_one(operation))["status"])

    def forget(self, uid: str) -> None:
        """Drops the tokens of a pod that is gone."""
        for key in [key for key in self._tokens if key[0] == uid]:
            del self._tokens[key]
