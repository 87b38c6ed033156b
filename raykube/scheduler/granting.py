"""Writes what devices the claims of a pod have, and that the pod may use them, before the pod is bound.

    finalizer            the claim is not deleted under its users
    status.allocation    of exactly the state that was decided on
    status.reservedFor   several pods may reserve one claim at the same time: who comes late looks at it again

What was written stays when something fails on the way, and the next decision finds it there. Where an answer was lost
the claim is read until somebody says what it is: only then may its devices count as free.
"""

import asyncio
from collections.abc import Callable

from raykube.api import resource_claims
from raykube.api.errors import ApiError
from raykube.api.resource_claims import FINALIZER
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.operations import Object
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.devices import Grant

CLAIMS = builtin("resource.k8s.io/v1", "ResourceClaim")
ATTEMPTS_MAX = 5
ASK = Backoff(initial_s=0.2, max_s=5.0)


class Granting:
    """Grants of pods that are about to be bound."""

    def __init__(self, client: ApiClient, cluster: Cluster, tell: Callable[[], None]) -> None:
        """`tell`: there may be news of devices."""
        self._client = client
        self._cluster = cluster
        self._tell = tell

    async def grant(self, grants: tuple[Grant, ...]) -> str:
        """What went wrong; "" when all was written. When it returns, the table of devices knows what became of each."""
        uid = grants[0].pod["uid"] if grants else ""
        if not self._cluster.devices.begin(uid, grants):
            return "the pod was deleted in the meantime"
        try:
            for one in grants:
                if problem := await self._grant(one):
                    return problem
            return ""
        finally:
            self._cluster.devices.end(uid)
            self._tell()

    async def _grant(self, grant: Grant) -> str:
        claim, problem = grant.claim, ""
        for _ in range(ATTEMPTS_MAX):
            try:
                await self._write(grant, claim)
                return ""
            except ApiError as error:
                problem = str(error)
                if error.code < 500 and error.code != 409:
                    return problem
            # Somebody else wrote, or nobody knows whether this was written: it may have been.
            now = await self._read(claim)
            if now is None or _is_done(grant, now):
                return problem if now is None else ""
            if impossible := _impossible(grant, now):
                return impossible
            claim = now
        return problem

    async def _read(self, claim: Object) -> Object | None:
        """Asks until somebody answers; None when the claim is gone."""
        meta, attempt = claim["metadata"], 0
        while True:
            attempt += 1
            try:
                now = await self._client.get(CLAIMS, meta["namespace"], meta["name"])
            except ApiError as error:
                if error.code == 404:
                    return None
                await asyncio.sleep(ASK.delay_s(attempt))
                continue
            self._wrote(now)
            return now

    async def _write(self, grant: Grant, claim: Object) -> None:
        finalizers = claim["metadata"].get("finalizers") or []
        if grant.allocation is not None and FINALIZER not in finalizers:
            claim = await self._patch(claim, {"metadata": {"finalizers": [*finalizers, FINALIZER]}}, "")
        status: Object = {"reservedFor": [*resource_claims.reserved_for(claim), grant.pod]}
        if grant.allocation is not None:
            status["allocation"] = grant.allocation
        self._wrote(await self._patch(claim, {"status": status}, "status"))

    async def take_back(self, claim: Object) -> None:
        """Frees the devices of a claim that nobody uses. Whatever stands against it, the next decision sees."""
        status = {"allocation": None, "reservedFor": None, "devices": None}
        try:
            self._wrote(await self._patch(claim, {"status": status}, "status"))
        except ApiError:
            return

    def _wrote(self, claim: Object) -> None:
        self._cluster.devices.wrote(claim)
        self._tell()

    async def _patch(self, claim: Object, body: Object, subresource: str) -> Object:
        """Of exactly this state of the claim."""
        meta = claim["metadata"]
        write = operations.patch(
            CLAIMS,
            meta["namespace"],
            meta["name"],
            body,
            subresource=subresource,
            uid=meta["uid"],
            resource_version=int(meta.get("resourceVersion") or 0),
        )
        return await self._client.write_one(write)


def _is_done(grant: Grant, now: Object) -> bool:
    """Whether the claim is as it was to be written."""
    same = now["metadata"]["uid"] == grant.claim["metadata"]["uid"]
    allocation = resource_claims.allocation(now)
    wanted = grant.allocation if grant.allocation is not None else resource_claims.allocation(grant.claim)
    return same and allocation == wanted and resource_claims.is_reserved_for(now, grant.pod["uid"])


def _impossible(grant: Grant, now: Object) -> str:
    """Why a claim that changed meanwhile can no longer be what was decided; "" when it can."""
    name = f"{now['metadata']['namespace']}/{now['metadata']['name']}"
    if now["metadata"]["uid"] != grant.claim["metadata"]["uid"]:
        return f"claim {name} got replaced with new instance in the meantime"
    if now["metadata"].get("deletionTimestamp"):
        return f"claim {name} got deleted in the meantime"
    allocation = resource_claims.allocation(now)
    if allocation is not None and grant.allocation is not None:
        return f"claim {name} got allocated elsewhere in the meantime"
    if allocation != resource_claims.allocation(grant.claim):
        return f"claim {name} got deallocated in the meantime"
    if not resource_claims.can_be_reserved(now):
        return f"claim {name} is already reserved for as many pods as may use it"
    return ""
