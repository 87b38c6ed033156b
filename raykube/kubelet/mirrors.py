"""Keeps a mirror pod in the API for each static pod, so that it is seen there; nothing runs because of a mirror."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.staticpods import full_name, mirror_of, mirror_steps, shows
from raykube.kubelet.statuswriter import StatusWriter

log = logging.getLogger(__name__)

PODS = builtin("v1", "Pod")
RETRY_S = 5.0


class Mirrors:
    def __init__(
        self,
        client: ApiClient,
        statuses: StatusWriter,
        static: Callable[[], Iterable[Object]],
        node: Callable[[], Object],
    ) -> None:
        self._client = client
        self._statuses = statuses
        self._static = static
        self._node = node
        self._mirrors: dict[tuple[str, str], Object] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._mirrors)

    def observe(self, kind: str, mirror: Object) -> None:
        """The informer shows a mirror pod of this node."""
        name = full_name(mirror)
        if kind == "DELETED":
            known = self._mirrors.get(name)
            if known is not None and pods.uid(known) == pods.uid(mirror):
                del self._mirrors[name]
        else:
            self._mirrors[name] = mirror
        self.wake()

    def wake(self) -> None:
        """Looks again, for static pods or mirrors changed."""
        for pod in self._static():
            mirror = self._mirrors.get(full_name(pod))
            self._statuses.mirror(pod, mirror if mirror is not None and shows(mirror, pod) else None)
        self._wake.set()

    async def run(self) -> None:
        """Call once the pods of the API and of all sources are known."""
        while True:
            try:
                await self._reconcile()
                await self._wake.wait()
            except ApiError as error:
                log.warning("mirror pods wait: %s", error)
                await asyncio.sleep(RETRY_S)
            self._wake.clear()

    async def _reconcile(self) -> None:
        surplus, missing = mirror_steps(self._static(), list(self._mirrors.values()))
        for mirror in surplus:
            await self._delete(mirror)
        for pod in missing:
            await self._create(pod)

    async def _delete(self, mirror: Object) -> None:
        log.info("the mirror pod %s shows nothing that runs here", pods.full_name(mirror))
        try:
            await self._client.delete(
                PODS, pods.namespace(mirror), pods.name(mirror), uid=pods.uid(mirror), grace_period_s=0
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def _create(self, pod: Object) -> None:
        try:
            self.observe("ADDED", await self._client.create(mirror_of(pod, self._node())))
        except ApiError as error:
            if error.code == 409:
                # Another pod has the name, or our own was made by a kubelet that died: the informer will tell.
                log.debug("no mirror pod for %s: %s", pods.full_name(pod), error)
            elif error.code in (400, 403, 422):
                log.error("no mirror pod for %s: %s", pods.full_name(pod), error)
            else:
                raise
