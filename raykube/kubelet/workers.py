"""The workers of this node's pods: one for each, from the first sight of a pod until nothing of it is left here."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.tools import Tools
from raykube.kubelet.worker import PodWorker

log = logging.getLogger(__name__)

RESTART_S = 10.0  # of a worker that failed


class Workers:
    """By uid. `spawn` runs a task as long as the service lives."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.tools: Tools | None = None  # before a runtime answers, pods wait
        self.left: Callable[[], None] = lambda: None  # called when a pod has left
        self._spawn = spawn
        self._workers: dict[str, PodWorker] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[PodWorker]:
        return iter(list(self._workers.values()))

    def __contains__(self, uid: str) -> bool:
        return uid in self._workers

    def get(self, uid: str) -> PodWorker | None:
        return self._workers.get(uid)

    def add(self, pod: Object) -> None:
        assert self.tools is not None, "pods come once a runtime answers"
        worker = self._workers[pods.uid(pod)] = PodWorker(pod, self.tools)
        self._spawn(self._run(worker))

    async def _run(self, worker: PodWorker) -> None:
        try:
            while True:
                try:
                    await worker.run()
                    return
                except Exception:
                    # A bug in one pod's handling must not take the machine's other pods with it.
                    log.exception("pod %s: the worker failed; again in 10 s", pods.full_name(worker.pod))
                    await asyncio.sleep(RESTART_S)
        finally:
            self._workers.pop(worker.uid, None)
            if not self._closed:
                self.left()
            self.wake_deferred()

    def close(self) -> None:
        """Lets go of all; their tasks are about to be cancelled."""
        self._closed = True
        self._workers.clear()

    # -- waking

    def wake(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()

    def refresh(self, uid: str) -> None:
        """An object that the pod refers to changed."""
        worker = self._workers.get(uid)
        if worker is not None:
            worker.refresh()

    def wake_deferred(self) -> None:
        """Pods that wait for room to grow look again."""
        for worker in self._workers.values():
            if worker.deferred:
                worker.wake()

    # -- what they are about

    def uids(self) -> list[str]:
        return list(self._workers)

    def finished(self) -> set[str]:
        """The uids of pods of which nothing runs any more."""
        return {uid for uid, worker in self._workers.items() if worker.finished}

    def pods(self) -> list[Object]:
        return [worker.pod for worker in self._workers.values()]

    def active_pods(self) -> Iterable[Object]:
        """Those that were admitted and have not stopped, with the resources that they were promised."""
        return [worker.sized_pod for worker in self._workers.values() if worker.takes_room]
