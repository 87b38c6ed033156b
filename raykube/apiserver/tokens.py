"""TokenRequest: tokens for ServiceAccounts, bound to the pod that asks for them."""

import os
import time

from raykube.api.errors import ApiError, Cause
from raykube.api.resources import Resource, builtin
from raykube.apiserver.core.serviceaccount_token import Issuer
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.reader import Reader
from raykube.base.clock import rfc3339

ACCOUNTS = builtin("v1", "ServiceAccount")
_BOUND = {"Pod": builtin("v1", "Pod"), "Secret": builtin("v1", "Secret"), "Node": builtin("v1", "Node")}
EXPIRATION_S_MIN = 600
EXPIRATION_S_MAX = 1 << 32
_EXPIRATION_S = 3600


class Tokens:
    """Issues tokens."""

    def __init__(self, reader: Reader, issuer: Issuer, audiences: list[str]) -> None:
        self._reader = reader
        self._issuer = issuer
        self._audiences = audiences

    async def issue(self, namespace: str, name: str, request: Object, node: str = "") -> Object:
        """The answered TokenRequest. `node`: the kubelet that asks; its pods' tokens only. Raises ApiError."""
        spec = request.get("spec") or {}
        seconds = spec.get("expirationSeconds")
        seconds = _EXPIRATION_S if seconds is None else seconds
        _check_expiration(seconds)
        account = (await self._reader.get(ACCOUNTS, namespace, name)).decode()
        wanted_uid = (request.get("metadata") or {}).get("uid")
        if wanted_uid and wanted_uid != account["metadata"].get("uid"):
            raise ApiError.conflict(
                ACCOUNTS,
                name,
                f"the UID in the token request ({wanted_uid}) does not match the UID of the service account",
            )
        reference = spec.get("boundObjectRef")
        bound = await self._bound(namespace, name, reference) if reference else {}
        if node and "pod" not in bound:
            raise ApiError.forbidden(ACCOUNTS, name, f"node requested token not bound to a pod: node {node}")
        pod = bound.get("pod")
        if node and pod is not None and (pod.get("spec") or {}).get("nodeName") != node:
            message = f"node requested token bound to a pod scheduled on a different node: {node}"
            raise ApiError.forbidden(ACCOUNTS, name, message)
        if pod is not None and (pod.get("spec") or {}).get("nodeName"):
            host = self._reader.cache(_BOUND["Node"]).get(pod["spec"]["nodeName"])
            if host is not None:
                bound["node"] = host.decode()
        audiences = spec.get("audiences") or self._audiences
        token, expires = self._issuer.issue(
            account, now=time.time(), entropy=os.urandom(16), audiences=audiences, expiration_s=int(seconds), **bound
        )
        shown: Object = {"audiences": audiences, "expirationSeconds": int(seconds), "boundObjectRef": reference or None}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": rfc3339(time.time())},
            "spec": shown,
            "status": {"token": token, "expirationTimestamp": rfc3339(expires)},
        }

    async def _bound(self, namespace: str, account: str, reference: Object) -> dict[str, Object]:
        kind = reference.get("kind", "")
        resource: Resource | None = _BOUND.get(kind)
        if resource is None or reference.get("apiVersion") not in ("v1", ""):
            raise ApiError.bad_request(
                f"cannot bind token for serviceaccount {account!r} to object of kind {kind}".replace("'", '"')
            )
        name = reference.get("name", "")
        obj = (await self._reader.get(resource, namespace if resource.namespaced else "", name)).decode()
        if kind == "Pod" and (obj.get("spec") or {}).get("serviceAccountName") != account:
            message = (
                f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
            )
            raise ApiError.bad_request(message)
        wanted = reference.get("uid")
        if wanted and wanted != obj["metadata"].get("uid"):
            message = (
                f"the UID in the bound object reference ({wanted}) does not match the UID in record. The object might "
                "have been deleted and then recreated"
            )
            raise ApiError.conflict(resource, name, message)
        return {kind.lower(): obj}


def _check_expiration(seconds: object) -> None:
    message = ""
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        message = "must be an integer"
    elif seconds < EXPIRATION_S_MIN:
        message = "may not specify a duration less than 10 minutes"
    elif seconds > EXPIRATION_S_MAX:
        message = "may not specify a duration larger than 2^32 seconds"
    if message:
        cause = Cause("FieldValueInvalid", f"Invalid value: {seconds}: {message}", "spec.expirationSeconds")
        raise ApiError.invalid("TokenRequest", "", [cause])
