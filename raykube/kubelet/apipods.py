"""The pods that the API binds to this node: a worker for each. Mirrors of static pods are only looked at."""

import asyncio

from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from raykube.client.informer import Informer
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.mirrors import Mirrors
from raykube.kubelet.workers import Workers


class ApiPods:
    """`services`: pods see those that exist when they start, so none starts before they are known."""

    def __init__(self, client: ApiClient, node: str, workers: Workers, mirrors: Mirrors, services: Informer) -> None:
        self._informer = Informer(client, builtin("v1", "Pod"), field_selector=f"spec.nodeName={node}")
        self._workers = workers
        self._mirrors = mirrors
        self._services = services
        self.known = asyncio.Event()  # set once every pod has its worker

    async def run(self) -> None:
        informer_task = asyncio.ensure_future(self._informer.run())
        try:
            await asyncio.gather(self._informer.synced(), self._services.synced())
            self._informer.add_handler(self._on_pod)
            self.known.set()
            await informer_task
        finally:
            informer_task.cancel()

    def _on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        shown = new if new is not None else old
        if shown is not None and pods.is_mirror(shown):
            self._mirrors.observe(kind, shown)
            return
        if kind == "DELETED":
            gone = self._workers.get(pods.uid(old)) if old is not None else None
            if gone is not None:
                gone.remove()
            return
        assert new is not None
        if old is not None and pods.uid(old) != pods.uid(new):
            # Deleted and made anew under the same name between two looks.
            self._on_pod("DELETED", old, None)
        worker = self._workers.get(pods.uid(new))
        if worker is not None:
            worker.update(new)
            return
        self._workers.add(new)
