"""Writes pod statuses: only changes, the newest of each pod, all that wait in one request.

What is written is compared with what the apiserver has, as far as we know: our own last write, until the informer
shows a later revision. So what another changed (the node-lifecycle controller, while this machine was silent), or a
write of ours whose answer never came, is noticed: the pod is looked at again, and what is not true is put right.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.statuspatch import alike, status_patch
from raykube.pb import api_pb2

log = logging.getLogger(__name__)

PODS = builtin("v1", "Pod")
RETRY_S = 1.0
REFUSED_S = 10.0  # until what was refused, for whatever reason, is tried again


@dataclass(slots=True)
class _Wanted:
    namespace: str
    name: str
    status: Object
    done: "asyncio.Future[None]"


@dataclass(slots=True)
class _Record:
    """One pod: what the apiserver has, and the last that the informer showed."""

    known: Object
    revision: int  # that `known` is of; an older sight is no news
    seen: Object
    seen_revision: int
    in_flight: bool = False

    def adopt(self) -> bool:
        """Takes what the informer showed for what there is, if it is newer; answers whether that is another status."""
        if self.in_flight or self.seen_revision <= self.revision:
            return False
        changed = not alike(self.seen, self.known)
        self.known, self.revision = self.seen, self.seen_revision
        return changed


class StatusWriter:
    """`changed(uid)` is called when a pod's status is not what was last written."""

    def __init__(self, client: ApiClient, changed: Callable[[str], None]) -> None:
        self._client = client
        self._changed = changed
        self._records: dict[str, _Record] = {}  # by uid, until `forget`
        self._mirrors: dict[str, str] = {}  # uid of a static pod → uid of the API object that shows it
        self._wanted: dict[str, _Wanted] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}  # by uid, one at most: another look at what was refused
        self._wake = asyncio.Event()

    def observe(self, pod: Object) -> None:
        """The informer shows a pod."""
        record = self._records.get(pods.uid(pod))
        if record is None:
            return
        record.seen, record.seen_revision = pod.get("status") or {}, _revision(pod)
        if record.adopt():
            self._changed(pods.uid(pod))

    def mirror(self, pod: Object, mirror: Object | None) -> None:
        """Says which API object shows the static pod: its status is written there, and nowhere while there is none."""
        uid = pods.uid(pod)
        if mirror is None:
            self._mirrors.pop(uid, None)
            return
        status, revision = mirror.get("status") or {}, _revision(mirror)
        record = self._records.get(uid)
        if record is None or self._mirrors.get(uid) != pods.uid(mirror):
            self._mirrors[uid] = pods.uid(mirror)
            self._records[uid] = _Record(status, revision, status, revision)
            self._changed(uid)
            return
        record.seen, record.seen_revision = status, revision
        if record.adopt():
            self._changed(uid)

    def known(self, pod: Object) -> Object:
        """The status of a pod with our own last writes in it, be they back from the apiserver or not."""
        return self._record(pod).known

    def _record(self, pod: Object) -> _Record:
        record = self._records.get(pods.uid(pod))
        if record is None:
            status, revision = pod.get("status") or {}, _revision(pod)
            record = self._records[pods.uid(pod)] = _Record(status, revision, status, revision)
        return record

    def write(self, pod: Object, status: Object) -> "asyncio.Future[None]":
        """Makes `status` the pod's; the future is done when the apiserver has it, or refuses it."""
        uid = pods.uid(pod)
        record = self._record(pod)
        pending = self._wanted.get(uid)
        if pending is not None:
            pending.status = status
            return pending.done
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        unseen = pods.is_static(pod) and uid not in self._mirrors
        if unseen or (record.known == status and not record.in_flight):
            done.set_result(None)
            return done
        self._wanted[uid] = _Wanted(pods.namespace(pod), pods.name(pod), status, done)
        self._wake.set()
        return done

    def forget(self, uid: str) -> None:
        self._records.pop(uid, None)
        self._mirrors.pop(uid, None)
        self._cancel_retry(uid)
        wanted = self._wanted.pop(uid, None)
        if wanted is not None:
            _finish(wanted.done)

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
            record = self._records.get(uid)
            change = status_patch(record.known, wanted.status) if record is not None else {}
            if record is None or not change:
                _finish(wanted.done)
                continue
            before[uid] = record.known
            record.known, record.in_flight = wanted.status, True  # what comes meanwhile is compared with this
            writes.append((uid, wanted, change))
        if not writes:
            return
        patches = [
            operations.patch(
                PODS,
                wanted.namespace,
                wanted.name,
                {"status": change},
                api_pb2.STRATEGIC,
                "status",
                uid=self._mirrors.get(uid, uid),
            )
            for uid, wanted, change in writes
        ]
        try:
            results = await self._client.write(patches)
        except ApiError:
            for uid, _, _ in writes:
                self._land(uid, before[uid], 0)
            raise
        failed: dict[str, _Wanted] = {}
        for (uid, wanted, _), result in zip(writes, results, strict=True):
            if result.code in (429, 500, 503, 504):
                self._land(uid, before[uid], 0)
                failed[uid] = wanted
                continue
            if result.code in (404, 410):
                log.debug("the pod %s/%s is gone: its status is not written", wanted.namespace, wanted.name)
            elif result.code >= 400:
                # A conflict: another pod has the name now, and the informer will say so; or it is worth another look.
                # Another refusal may be a late authorizer's, or a webhook's: that need not be the last word.
                if result.code != 409:
                    log.error("status of %s/%s refused: %s", wanted.namespace, wanted.name, message_of(result.body))
                self._land(uid, before[uid], 0)
                self._retry(uid, RETRY_S if result.code == 409 else REFUSED_S)
            self._land(uid, None, result.resource_version)
            _finish(wanted.done)
        if failed:
            self._requeue(failed)
            await asyncio.sleep(RETRY_S)

    def _retry(self, uid: str, delay_s: float) -> None:
        """Has the pod looked at again, once: each look may be refused, and timers of their own would only add up."""
        self._cancel_retry(uid)
        self._retries[uid] = asyncio.get_running_loop().call_later(delay_s, self._look_again, uid)

    def _look_again(self, uid: str) -> None:
        self._retries.pop(uid, None)
        self._changed(uid)

    def _cancel_retry(self, uid: str) -> None:
        retry = self._retries.pop(uid, None)
        if retry is not None:
            retry.cancel()

    def _land(self, uid: str, known: Object | None, revision: int) -> None:
        """A write is over: with `known` it counts as not done, else it is in `revision`."""
        record = self._records.get(uid)
        if record is None:
            return
        if known is not None:
            record.known = known
        record.revision = max(record.revision, revision)
        record.in_flight = False
        if record.adopt():
            self._changed(uid)


def _revision(pod: Object) -> int:
    return int(pod["metadata"].get("resourceVersion") or 0)


def _finish(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)


def _follow(first: "asyncio.Future[None]", then: "asyncio.Future[None]") -> None:
    """Finishes `then` when `first` is done."""
    first.add_done_callback(lambda _: _finish(then))


def message_of(body: bytes) -> str:
    try:
        return str(orjson.loads(body).get("message"))
    except (orjson.JSONDecodeError, AttributeError):
        return body.decode(errors="replace")
