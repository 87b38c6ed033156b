"""A cluster in memory for controller tests: objects with the API's write semantics, and controllers that run on it.

`Cluster.apply` gives a Write what the apiserver would: resource versions, uids, generations, preconditions, merge
patches, status as a world of its own, finalizers and graceful deletion. `Cluster.settle` runs controllers until none of
them has anything to do, and can lose them between any two writes (`Crash`): new ones then start from what is stored.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raykube.base.clock import rfc3339
from raykube.controllers.core import aspects, indexes, kinds
from raykube.controllers.core.plan import Controller, Event, Obj, Plan, Read, Selective, Write

CLUSTER_SCOPED = {kinds.NODES, kinds.NAMESPACES, kinds.PERSISTENT_VOLUMES, kinds.STORAGE_CLASSES, kinds.RESOURCE_SLICES}
START = 1_800_000_000.0


class Crash(Exception):
    """The controllers lost power."""


class Cluster:
    """The stored objects, a clock, and everything that was written."""

    def __init__(self) -> None:
        self.now = START
        self.revision = 0
        self.objects: dict[str, dict[tuple[str, str], Obj]] = {}
        self.seen: dict[str, int] = {}  # resources whose cache is behind, and how far it has come
        self.changes: deque[tuple[str, Obj | None, Obj | None]] = deque()
        self.log: list[Write] = []
        self.events: list[Event] = []
        self.refuse: Callable[[Write], str] = lambda write: ""
        self.writes_left = -1  # writes until the controllers crash; negative: never

    # -- what tests do to it

    def add(self, resource: str, obj: Obj) -> Obj:
        """Stores a new object as a user would create it."""
        meta = obj.setdefault("metadata", {})
        if resource not in CLUSTER_SCOPED:
            meta.setdefault("namespace", "default")
        self.revision += 1
        meta.setdefault("uid", f"uid-{self.revision}")
        meta.setdefault("creationTimestamp", rfc3339(self.now))
        meta.setdefault("generation", 1)
        self._store(resource, obj)
        return obj

    def change(self, resource: str, name: str, edit: Callable[[Obj], None], namespace: str = "default") -> Obj:
        """Edits a stored object in place, as a user or another component would; a changed spec is a new generation."""
        old = self.get(resource, "" if resource in CLUSTER_SCOPED else namespace, name)
        assert old is not None, f"{resource} {name} is not there"
        new = copy.deepcopy(old)
        edit(new)
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        self.revision += 1
        self._store(resource, new)
        return new

    def remove(self, resource: str, name: str, namespace: str = "default") -> int:
        """Deletes with the API's rules."""
        scope = "" if resource in CLUSTER_SCOPED else namespace
        return self.apply(Write("delete", resource, scope, name))[0]

    def vanish(self, resource: str, obj: Obj) -> None:
        """The object is gone, whatever held it."""
        meta = obj["metadata"]
        old = self.objects[resource].pop((meta.get("namespace", ""), meta["name"]))
        self.revision += 1
        self.changes.append((resource, old, None))

    def all(self, resource: str) -> list[Obj]:
        return list(self.objects.get(resource, {}).values())

    # -- View

    error = ""

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        return self.objects.get(resource, {}).get((namespace, name))

    def list(self, resource: str) -> Iterable[Obj]:
        return self.all(resource)

    def by_index(self, resource: str, index: str, value: str) -> Sequence[Obj]:
        function = indexes.indexes_of(resource, resource not in CLUSTER_SCOPED)[index]
        return [obj for obj in self.all(resource) if value in function(obj)]

    def revision_of(self, resource: str) -> int:
        return self.seen.get(resource, self.revision)

    def answer(self, read: Read) -> Sequence[Obj] | None:
        if read.name:
            found = self.get(read.resource, read.namespace, read.name)
            return [found] if found else []
        return [obj for obj in self.all(read.resource) if obj["metadata"].get("namespace", "") == read.namespace]

    # -- writes

    def apply(self, write: Write) -> tuple[int, str]:
        """(HTTP status code, message) of a write."""
        if refused := self.refuse(write):
            return 403, refused
        found = self.get(write.resource, write.namespace, write.name)
        if write.verb == "create":
            return self._create(write, found)
        if found is None:
            return 404, f"{write.resource} {write.name!r} not found"
        meta = found["metadata"]
        if write.uid and meta["uid"] != write.uid:
            return 409, "the uid in the precondition is not the uid in the record"
        if write.resource_version and int(meta["resourceVersion"]) != write.resource_version:
            return 409, "the object has been modified"
        return self._delete(write, found) if write.verb == "delete" else self._change(write, found)

    def _create(self, write: Write, found: Obj | None) -> tuple[int, str]:
        if found is not None:
            return 409, f"{write.resource} {write.name!r} already exists"
        body = copy.deepcopy(write.body)
        body.pop("status", None) if write.resource == kinds.PODS else None
        self.add(write.resource, body)
        return 201, ""

    def _change(self, write: Write, found: Obj) -> tuple[int, str]:
        if write.verb == "update":
            wanted = copy.deepcopy(write.body)
        else:
            assert write.patch == "merge", "the model merges only"
            wanted = merge(found, write.body)
        new = copy.deepcopy(found)
        if write.subresource == "status":
            new["status"] = wanted.get("status") or {}
            if write.resource == kinds.NODES or write.resource == kinds.PODS:
                new["metadata"] = {**wanted["metadata"]}
        elif write.subresource == "finalize":
            new["spec"] = wanted.get("spec") or {}
        else:
            status = found.get("status")
            new = {**wanted, "metadata": {**wanted["metadata"]}}
            new.pop("status", None)
            if status is not None:
                new["status"] = copy.deepcopy(status)
        if new.get("spec") != found.get("spec"):
            new["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
        if new == found:
            return 200, ""
        self.revision += 1
        if is_gone(write.resource, new):
            self.objects[write.resource].pop((write.namespace, write.name))
            self.changes.append((write.resource, found, None))
        else:
            self._store(write.resource, new)
        return 200, ""

    def _delete(self, write: Write, found: Obj) -> tuple[int, str]:
        grace = (write.body or {}).get("gracePeriodSeconds", 30)
        phase = (found.get("status") or {}).get("phase")
        bound = (found.get("spec") or {}).get("nodeName") and phase not in ("Succeeded", "Failed")
        graceful = write.resource == kinds.PODS and bound and grace
        meta = found["metadata"]
        if graceful or meta.get("finalizers") or write.resource == kinds.NAMESPACES:
            if meta.get("deletionTimestamp") and (graceful or meta.get("deletionGracePeriodSeconds") == 0):
                return 200, ""
            new = copy.deepcopy(found)
            new["metadata"]["deletionTimestamp"] = rfc3339(self.now)
            new["metadata"]["deletionGracePeriodSeconds"] = grace if graceful else 0
            if write.resource == kinds.NAMESPACES:
                new["status"] = {**new.get("status", {}), "phase": "Terminating"}
            self.revision += 1
            self._store(write.resource, new)
        else:
            self.vanish(write.resource, found)
        return 200, ""

    def _store(self, resource: str, obj: Obj) -> None:
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.revision)
        key = (meta.get("namespace", ""), meta["name"])
        old = self.objects.setdefault(resource, {}).get(key)
        self.objects[resource][key] = obj
        self.changes.append((resource, old, obj))

    # -- controllers

    def settle(self, *controllers: Controller, rounds: int = 2000) -> None:
        """Runs `controllers` until nothing is left to do now; delayed keys wait for `advance`."""
        running = Running(self, controllers)
        running.start()
        running.run(rounds)

    def carry_out(self, plan: Plan) -> str:
        """Applies a plan's writes; the first refusal's message."""
        error = ""
        assert len({(w.resource, w.namespace, w.name) for w in plan.writes}) == len(plan.writes), (
            "two writes of one object"
        )
        self.events.extend(plan.events)
        for write in plan.writes:
            if self.writes_left == 0:
                raise Crash
            self.writes_left -= 1
            self.log.append(write)
            code, message = self.apply(write)
            ok = code < 400 or (code == 404 and write.verb in ("delete", "patch"))
            note = write.done if ok else write.failed
            if note is not None and code != 404:
                self.events.append(note)
            if not ok:
                error = error or message
        return error


class Running:
    """Controllers at work on a cluster: what their shell does, one key after another."""

    def __init__(self, cluster: Cluster, controllers: Sequence[Controller]) -> None:
        self.cluster, self.controllers = cluster, controllers
        self.queues: list[dict[str, None]] = [{} for _ in controllers]
        self.delayed: list[dict[str, float]] = [{} for _ in controllers]
        self.errors: list[dict[str, str]] = [{} for _ in controllers]
        self.seen: list[dict[str, None]] = [{} for _ in controllers]

    def start(self) -> None:
        """What a new informer does: everything is an addition."""
        self.cluster.changes.clear()
        for resource, objects in self.cluster.objects.items():
            for obj in list(objects.values()):
                self._observe(resource, None, obj)

    def run(self, rounds: int = 2000) -> None:
        """Works until nothing is due."""
        for _ in range(rounds):
            self._take_in()
            if not self._one():
                self._check_fixed_point()
                return
        raise AssertionError(f"not settled after {rounds} reconciles; last writes: {self.cluster.log[-6:]}")

    def advance(self, seconds: float, rounds: int = 2000) -> None:
        """Lets time pass, waking what is due on the way, in order."""
        end = self.cluster.now + seconds
        self.run(rounds)
        while True:
            due = min((at for delayed in self.delayed for at in delayed.values()), default=end + 1)
            if due > end:
                break
            self.cluster.now = max(self.cluster.now, due)
            for queue, delayed in zip(self.queues, self.delayed, strict=True):
                for key in [key for key, at in delayed.items() if at <= self.cluster.now]:
                    del delayed[key]
                    queue[key] = None
            self.run(rounds)
        self.cluster.now = end

    def _take_in(self) -> None:
        while self.cluster.changes:
            self._observe(*self.cluster.changes.popleft())

    def _observe(self, resource: str, old: Obj | None, new: Obj | None) -> None:
        for controller, queue in zip(self.controllers, self.queues, strict=True):
            wanted = aspects.wanted(controller.looks_at if isinstance(controller, Selective) else aspects.ALL)
            if resource == kinds.PODS and not aspects.concerns(aspects.found(old, new), wanted):
                continue  # as the shell has it
            if resource in controller.resources:
                queue.update(dict.fromkeys(controller.observe(self.cluster, resource, old, new, self.cluster.now)))

    def _check_fixed_point(self) -> None:
        """Whatever was looked at has nothing left to do: no change went by without waking its key."""
        for number, controller in enumerate(self.controllers):
            for key in self.seen[number]:
                if key not in self.delayed[number]:
                    self.cluster.error = self.errors[number].get(key, "")
                    plan = controller.reconcile(self.cluster, key, self.cluster.now)
                    self.cluster.error = ""
                    assert not plan.writes, f"{controller.name} {key} was not woken: {plan.writes}"

    def _one(self) -> bool:
        for number, (controller, queue) in enumerate(zip(self.controllers, self.queues, strict=True)):
            if not queue:
                continue
            key = next(iter(queue))
            del queue[key]
            self.seen[number][key] = None
            self.cluster.error = self.errors[number].get(key, "")
            before = self.cluster.revision
            plan = controller.reconcile(self.cluster, key, self.cluster.now)
            self.cluster.error = ""
            error = self.cluster.carry_out(plan)
            self.errors[number][key] = error
            if error:
                self.delayed[number][key] = self.cluster.now + 1
            elif plan.writes and self.cluster.revision == before:
                raise AssertionError(f"{controller.name} {key}: writes that change nothing: {plan.writes}")
            if plan.requeue_after == 0:
                queue[key] = None
            elif plan.requeue_after is not None:
                due = self.cluster.now + plan.requeue_after
                self.delayed[number][key] = min(self.delayed[number].get(key, due), due)
            return True
        return False


def merge(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(copy.deepcopy(old)) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def is_gone(resource: str, obj: Obj) -> bool:
    """Whether nothing holds a deleted object any longer."""
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers"):
        return False
    if resource == kinds.NAMESPACES:
        return not (obj.get("spec") or {}).get("finalizers")
    phase = (obj.get("status") or {}).get("phase")
    on_node = resource == kinds.PODS and (obj.get("spec") or {}).get("nodeName")
    return not (on_node and phase not in ("Succeeded", "Failed") and meta.get("deletionGracePeriodSeconds"))


# -- objects, and the parts of a cluster that are not controllers


def template(labels: dict[str, str], image: str = "web:1") -> Obj:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}}


def set_pod(phase: str, ready: bool, now: float) -> Callable[[Obj], None]:
    """An edit: what a kubelet reports."""

    def edit(pod: Obj) -> None:
        pod["spec"].setdefault("nodeName", "node-1")
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": rfc3339(now)}
        pod["status"] = {"phase": phase, "conditions": [condition]}
        if phase in ("Succeeded", "Failed"):
            code = 0 if phase == "Succeeded" else 1
            ended = {"exitCode": code, "finishedAt": rfc3339(now)}
            pod["status"]["containerStatuses"] = [{"name": "c", "restartCount": 0, "state": {"terminated": ended}}]

    return edit


def kubelet(cluster: Cluster, phase: str = "Running", *, ready: bool = True) -> int:
    """One pass of a kubelet: pods being deleted end, pending ones reach `phase`. How many changed."""
    changed = 0
    for pod in cluster.all(kinds.PODS):
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        namespace = pod["metadata"]["namespace"]
        if pod["metadata"].get("deletionTimestamp"):
            if status.get("phase") not in ("Succeeded", "Failed"):
                cluster.change(kinds.PODS, name, set_pod("Failed", False, cluster.now), namespace)
            if not pod["metadata"].get("finalizers"):
                cluster.vanish(kinds.PODS, pod)
            changed += 1
        elif status.get("phase", "Pending") == "Pending":
            cluster.change(kinds.PODS, name, set_pod(phase, ready, cluster.now), namespace)
            changed += 1
    return changed
