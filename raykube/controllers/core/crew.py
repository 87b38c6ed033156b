"""The pods of one Job, kept up to date by what changes.

Those that **work** (active, and tracked by the Job's finalizer) are many and alike: of them is kept what is asked each
time. The **others** are looked at one by one: pods that ended or are about to, and wait to be counted or have failed. A
pod that has succeeded and is counted is no part of the crew.
"""

from typing import NamedTuple

from raykube.api.selectors import LabelSelector
from raykube.controllers.core import claims, indexes, job_pods, kinds, pods
from raykube.controllers.core.completions import Indexes
from raykube.controllers.core.keeper import Keeper
from raykube.controllers.core.names import digest
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj, View


class Worker(NamedTuple):
    """A pod that works, as it was when it was looked at."""

    ready: bool
    place: int | None  # its completion index
    restarts: int


class Crew(Keeper):
    """See the module's docstring. `refresh` before anything is read."""

    def __init__(self, view: View, key: str, job: Obj) -> None:
        self._uid = uid_of(job)
        found = (
            *view.by_index(kinds.PODS, "unsettled", self._uid),
            *view.by_index(kinds.PODS, "failed", self._uid),
            *view.by_index(kinds.PODS, "job", key),
        )
        super().__init__(pod["metadata"]["name"] for pod in found)
        self.workers: dict[str, Worker] = {}
        self.ready = self.restarts = 0  # of all workers together
        self.by_index: dict[int | None, dict[str, None]] = {}  # completion index → workers
        self.members = 0  # a number that says which pods there are, as a roster's
        self._others: dict[str, None] = {}
        self._strays: dict[str, None] = {}  # owned, but no longer selected
        self._foreign: dict[str, None] = {}  # with the Job's finalizer, but not its own
        self._uids: dict[str, str] = {}  # of workers and others, by name
        self._key, self._basis = key, _basis(job)
        self._namespace = str(job["metadata"].get("namespace", ""))
        self._selector = LabelSelector.from_object(job_pods.selector_of(job))

    def is_for(self, job: Obj) -> bool:
        """Whether what was found here still holds for `job`."""
        return _basis(job) == self._basis

    def refresh(self, view: View) -> None:
        """Looks at the marked pods."""
        for name in self._take():
            self._forget(name)
            pod = view.get(kinds.PODS, self._namespace, name)
            if pod is not None:
                self._look(name, pod)

    def working(self, view: View) -> list[Obj]:
        """All workers: for what happens seldom."""
        return pods.named(view, self._namespace, self.workers)

    def others(self, view: View) -> list[Obj]:
        return pods.named(view, self._namespace, self._others)

    def strays(self, view: View) -> list[Obj]:
        """Pods of the Job that it no longer selects, and that stay."""
        return pods.named(view, self._namespace, self._strays)

    def foreign(self, view: View) -> list[Obj]:
        """Pods that wait for the Job to be counted, and are not its own."""
        return pods.named(view, self._namespace, self._foreign)

    def is_in_place(self, limit: int, done: Indexes) -> bool:
        """Whether each worker has an index below `limit` of its own, which is not `done`."""
        if len(self.by_index) < len(self.workers) or None in self.by_index:
            return False
        places = sorted(index for index in self.by_index if index is not None)
        return not places or (places[-1] < limit and not done.has_any(places))

    # -- one pod

    def _forget(self, name: str) -> None:
        self._strays.pop(name, None)
        self._foreign.pop(name, None)
        self._others.pop(name, None)
        uid = self._uids.pop(name, None)
        if uid is not None:
            self.members ^= digest(uid)
        worker = self.workers.pop(name, None)
        if worker is not None:
            self.ready -= worker.ready
            self.restarts -= worker.restarts
            names = self.by_index[worker.place]
            del names[name]
            if not names:
                del self.by_index[worker.place]

    def _look(self, name: str, pod: Obj) -> None:
        tracked = job_pods.is_tracked(pod)
        if indexes.controller_uid(pod) != self._uid:
            if tracked and self._key in indexes.by_job(pod):
                self._foreign[name] = None
            return
        if not tracked and pods.phase(pod) == "Succeeded":
            return
        if not self._selector.matches(claims.labels_of(pod)):
            if not pods.is_terminating(pod):
                self._strays[name] = None
            return
        uid = self._uids[name] = uid_of(pod)
        self.members ^= digest(uid)
        if not (tracked and pods.is_active(pod)):
            self._others[name] = None
            return
        worker = self.workers[name] = Worker(pods.is_ready(pod), job_pods.index_of(pod), job_pods.restarts(pod))
        self.ready += worker.ready
        self.restarts += worker.restarts
        self.by_index.setdefault(worker.place, {})[name] = None


def _basis(job: Obj) -> tuple[str, Obj]:
    return uid_of(job), job_pods.selector_of(job)
