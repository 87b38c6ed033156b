"""Writes pod statuses: only changes, the newest of each pod, all that wait in one request."""

import asyncio
import logging
from dataclasses import dataclass

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.status import status_patch

log = logging.getLogger(__name__)

PODS = builtin("v1", "Pod")
RETRY_S = 1.0


@dataclass(slots=True)
class _Wanted:
    namespace: str
    name: str
    status: Object
    done: "asyncio.Future[None]"


class StatusWriter:
    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._known: dict[str, Object] = {}  # by uid: the status that the apiserver has, as far as we know
        self._wanted: dict[str, _Wanted] = {}
        self._wake = asyncio.Event()

    def known(self, pod: Object) -> Object:
        """The status of a pod with our own last writes in it, be they back from the apiserver or not."""
        return self._known.get(pods.uid(pod)) or pod.get("status") or {}

    def write(self, pod: Object, status: Object) -> "asyncio.Future[None]":
        """Makes `status` the pod's; the future is done when the apiserver has it (or the pod is gone)."""
        uid = pods.uid(pod)
        self._known.setdefault(uid, pod.get("status") or {})
        pending = self._wanted.get(uid)
        if pending is not None:
            pending.status = status
            return pending.done
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._known[uid] == status:
            done.set_result(None)
            return done
        self._wanted[uid] = _Wanted(pods.namespace(pod), pods.name(pod), status, done)
        self._wake.set()
        return done

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)
        wanted = self._wanted.pop(uid, None)
        if wanted is not None and not wanted.done.done():
            wanted.done.set_result(None)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._wanted = self._wanted, {}
            try:
                await self._flush(batch)
            except ApiError as error:
                log.warning("%d pod statuses wait: %s", len(batch), error)
                self._requeue(batch)
                await asyncio.sleep(RETRY_S)

    def _requeue(self, batch: dict[str, _Wanted]) -> None:
        for uid, wanted in batch.items():
            newer = self._wanted.setdefault(uid, wanted)
            if newer is not wanted:
                _follow(newer.done, wanted.done)
        self._wake.set()

    async def _flush(self, batch: dict[str, _Wanted]) -> None:
        writes = []
        before: dict[str, Object] = {}
        for uid, wanted in batch.items():
            before[uid] = self._known.get(uid, {})
            change = status_patch(before[uid], wanted.status)
            if change:
                self._known[uid] = wanted.status  # what comes meanwhile is compared with what is on its way
                writes.append((uid, wanted, change))
            elif not wanted.done.done():
                wanted.done.set_result(None)
        try:
            results = await self._client.write(
                [
                    operations.patch(
                        PODS, wanted.namespace, wanted.name, {"status": change}, subresource="status", uid=uid
                    )
                    for uid, wanted, change in writes
                ]
            )
        except ApiError:
            for uid, _, _ in writes:
                self._known[uid] = before[uid]
            raise
        failed: dict[str, _Wanted] = {}
        for (uid, wanted, _), result in zip(writes, results, strict=True):
            if result.code in (429, 500, 503, 504):
                self._known[uid] = before[uid]
                failed[uid] = wanted
                continue
            if result.code in (404, 409, 410):
                log.debug("the pod %s/%s is gone: its status is not written", wanted.namespace, wanted.name)
            elif result.code >= 400:
                log.error("status of %s/%s refused: %s", wanted.namespace, wanted.name, message_of(result.body))
            if not wanted.done.done():
                wanted.done.set_result(None)
        if failed:
            self._requeue(failed)
            await asyncio.sleep(RETRY_S)


def _follow(first: "asyncio.Future[None]", then: "asyncio.Future[None]") -> None:
    """Finishes `then` when `first` is done."""

    def finish(_: "asyncio.Future[None]") -> None:
        if not then.done():
            then.set_result(None)

    first.add_done_callback(finish)


def message_of(body: bytes) -> str:
    try:
        return str(orjson.loads(body).get("message"))
    except (orjson.JSONDecodeError, AttributeError):
        return body.decode(errors="replace")
