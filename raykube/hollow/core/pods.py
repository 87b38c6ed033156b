"""All pods of the hollow machines of one process: a slot for each, moved from stage to stage by timers.

    watch ─ on_pod, on_gone ─► Pod slots ─ timers ─► on_timer ─► dirty ─ take ─► writes ─ on_result ─┐
                                  ▲──────────────────────────────────────────────────────────────────┘

A pod has one write under way at most; what changes meanwhile goes into the next one. What is shown is compared with
what the apiserver has, as far as we know: our last write, until a later revision is seen. So what another changed (the
node-lifecycle controller, while this process was away) is put right. A process that starts finds each pod in the stage
that its status shows, and goes on from there; chance (`chance.py`) falls as it would have.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from raykube.base.clock import parse_rfc3339
from raykube.hollow.core import look, show
from raykube.hollow.core.addresses import AddressPool
from raykube.hollow.core.chance import Delay, fraction
from raykube.hollow.core.lifecycle import Lifecycle, Stage
from raykube.hollow.core.shape import Object, Shape, Shapes
from raykube.hollow.core.show import RUNNING, TERMINATED, WAITING, Sight
from raykube.hollow.core.slot import BACKOFF, ENDED, GONE, LIVE, REMOVING, STOPPED, STOPPING, Key, Last, Pod
from raykube.hollow.core.template import Template
from raykube.hollow.core.timers import GRID_S, Timers

RETRY_S = 1.0
NO_ADDRESS_RETRY_S = 5.0
TEMPLATES_MAX = 4096
RETRIED = (409, 429, 500, 503, 504)


class Retry:
    """Pods whose writes are to be tried again."""

    __slots__ = ("pods", "timer")

    def __init__(self, pods: list[Pod]) -> None:
        self.pods = pods
        self.timer = 0


class Write(NamedTuple):
    """A status patch, or with no body the pod's final deletion."""

    pod: Pod
    body: bytes
    shown: tuple[str, bool, bool]


class Happening(NamedTuple):
    """Something that a kubelet tells of a pod."""

    pod: Pod
    kind: str  # Normal, Warning
    reason: str
    message: str
    container: str = ""


class Pods:
    """See the module's docstring. `host_of`: a node's address."""

    def __init__(
        self,
        lifecycles: tuple[Lifecycle, ...],
        seed: int,
        pool: AddressPool,
        timers: Timers,
        host_of: Callable[[str], bytes],
        tell: Callable[[Happening], None] | None = None,
    ) -> None:
        self._seed = seed
        self._pool = pool
        self._timers = timers
        self._host_of = host_of
        self._tell = tell
        self._shapes = Shapes(lifecycles)
        self._pods: dict[Key, Pod] = {}
        self._dirty: deque[Pod] = deque()  # those among them that are `queued`
        self._templates: dict[tuple[int, Sight], tuple[Shape, Template]] = {}
        self._names: dict[str, str] = {}  # one text for all pods of a namespace or a node
        self._own: dict[int, Pod] = {}  # writes of ours by revision, of which the watch has yet to tell
        self._followed = 0  # the revision that the watch is at
        self.running = 0

    def __len__(self) -> int:
        return len(self._pods)

    @property
    def waiting(self) -> int:
        """How many pods have something to write, at most."""
        return len(self._dirty)

    @property
    def keys(self) -> Iterable[Key]:
        """Namespace and name of each."""
        return self._pods.keys()

    # What is seen

    def on_pod(self, obj: Object, now: float) -> None:
        """A pod as the apiserver has it."""
        metadata = obj["metadata"]
        key = (metadata["namespace"], metadata["name"])
        pod = self._pods.get(key)
        if pod is not None and pod.uid != metadata["uid"]:
            self.on_gone(key)
            pod = None
        revision = int(metadata["resourceVersion"])
        if pod is None:
            pod = self._add(obj, key, revision, now)
        elif pod.in_flight or revision >= pod.revision:
            self._compare(pod, obj, revision)
        # Whatever its revision: a write of ours may have come between the deletion and the news of it.
        if "deletionTimestamp" in metadata and pod.mode < REMOVING:
            self._stop(pod, metadata.get("deletionGracePeriodSeconds"), now)

    def is_own(self, revision: int, text: bytes, *, deleted: bool) -> bool:
        """Takes news of one of our own writes, which nobody need read: whether it is that. `text`: the pod's JSON."""
        pod = self._own.pop(revision, None)
        if pod is None:
            return False
        if deleted:
            if self._pods.get(pod.key) is pod:
                self.on_gone(pod.key)
            return True
        # A write that was repeated and changed nothing is answered with the revision of another's write.
        return (pod.mode >= STOPPING or b'"deletionTimestamp":' not in text) and look.is_shown(pod.shown, text)

    def on_followed(self, revision: int, *, whole: bool = False) -> None:
        """The watch is at `revision`; with `whole`, by a new state in place of single news."""
        self._followed = revision
        if whole:
            self._own = {at: pod for at, pod in self._own.items() if at > revision}

    def on_gone(self, key: Key) -> None:
        """A pod is no longer there."""
        pod = self._pods.pop(key, None)
        if pod is None:
            return
        self.running -= pod.shown[2]
        pod.mode = GONE
        self._timers.cancel(pod)
        pod.queued = False
        if pod.ip:
            self._pool.give_back(pod.ip)

    def _add(self, obj: Object, key: Key, revision: int, now: float) -> Pod:
        shared = self._names
        node = obj["spec"]["nodeName"]
        key = (shared.setdefault(key[0], key[0]), key[1])
        node = shared.setdefault(node, node)
        pod = Pod(key, obj["metadata"]["uid"], node, self._shapes.of(obj), revision, now)
        self._pods[key] = pod
        status = obj.get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed"):
            pod.mode = ENDED
            pod.shown = (status["phase"], True, False)
            pod.ip = self._pool.keep(status.get("podIP", "")) if not pod.shape.host_network else 0
        elif status.get("startTime"):
            self._resume(pod, status, now)
        else:
            self._enter(pod, 0, now)
        return pod

    def _resume(self, pod: Pod, status: Object, now: float) -> None:
        """Finds the stage that a status shows, from the process before this one."""
        pod.start_at = parse_rfc3339(status["startTime"])
        if status.get("podIP") and not pod.shape.host_network:
            pod.ip = self._pool.keep(status["podIP"])
        container: Object = next(iter(status.get("containerStatuses") or ()), {})
        state, last = container.get("state") or {}, container.get("lastState") or {}
        pod.attempt = int(container.get("restartCount") or 0)
        ended = last.get(TERMINATED)
        if ended:
            times = parse_rfc3339(ended["startedAt"]), parse_rfc3339(ended["finishedAt"])
            pod.last = Last(ended["exitCode"], ended["reason"], *times, pod.attempt - (RUNNING in state))
        pod.shown = (status.get("phase", "Pending"), bool(status.get("podIP")), _is_ready(status))
        self.running += pod.shown[2]
        ready = bool(container.get("ready"))
        fitting = (each for each in pod.shape.lifecycle.stages if each.state in state)
        stage = next((each for each in fitting if each.state != RUNNING or each.ready == ready), None)
        if RUNNING in state:
            pod.run_at = parse_rfc3339(state[RUNNING]["startedAt"])
        if WAITING in state and pod.last is not None:
            pod.mode, pod.run_at, pod.since = BACKOFF, pod.last.run_at, pod.last.end_at
            self._set_timer(pod, pod.backoff_s, now)
        elif stage is None:
            self._enter(pod, 0, now)
        elif stage.state == TERMINATED:
            pod.run_at = parse_rfc3339(state[TERMINATED]["startedAt"])
            self._enter(pod, stage.index, parse_rfc3339(state[TERMINATED]["finishedAt"]), now)
        else:
            # The stage began when the apiserver says that the container did: at least so long ago.
            pod.stage, pod.since = stage.index, pod.run_at or pod.start_at
            if stage.delay is not None:
                self._set_timer(pod, self._draw(pod, stage.delay, "delay"), now)
            if pod.shown[2] != (ready and stage.state == RUNNING):
                self._mark(pod)  # another said otherwise meanwhile

    def _compare(self, pod: Pod, obj: Object, revision: int) -> None:
        status = obj.get("status") or {}
        pod.seen, pod.seen_revision = (status.get("phase", "Pending"), _is_ready(status)), revision
        if not pod.in_flight:
            pod.revision = revision
            self._adopt(pod)

    def _adopt(self, pod: Pod) -> None:
        """Takes what was seen for what there is."""
        phase, started, ready = pod.shown
        if pod.seen == (phase, ready):
            return
        self.running += pod.seen[1] - ready
        pod.shown = (pod.seen[0], started, pod.seen[1])
        if pod.seen[0] in ("Succeeded", "Failed") and pod.mode < STOPPING:
            pod.mode = ENDED  # another ended it: that is final
            self._timers.cancel(pod)
            pod.queued = False
        elif pod.mode < STOPPING:
            self._mark(pod)

    # What happens

    def on_timer(self, item: Pod | Retry, now: float) -> None:
        """A timer is due."""
        if isinstance(item, Retry):
            for pod in item.pods:
                if pod.stale and not pod.in_flight:
                    self._mark(pod)
        elif item.mode == STOPPING:
            item.mode, item.since = STOPPED, now
            self._mark(item)
        elif item.mode == BACKOFF:
            self._again(item)
            item.mode = LIVE
            self._enter(item, 0, now)
        elif item.mode == LIVE:
            stage = item.now_in
            if stage.state == TERMINATED:
                self._again(item)
            following = stage.only
            if following is None:
                following = stage.following(fraction(self._seed, "then", *item.key, stage.name, item.attempt))
            self._enter(item, following, now)

    @staticmethod
    def _again(pod: Pod) -> None:
        """Its containers are made anew."""
        pod.attempt += 1
        pod.run_at = 0.0

    def _enter(self, pod: Pod, index: int, since: float, now: float | None = None) -> None:
        """Begins a stage."""
        now = since if now is None else now
        pod.stage, pod.since = index, since
        stage = pod.now_in
        if stage.state == RUNNING and not self._run(pod, since):
            self._set_timer(pod, NO_ADDRESS_RETRY_S, now, since=now)
            return
        if stage.state == TERMINATED:
            self._end(pod, stage, now)
            return
        if stage.state:
            self._mark(pod)
        if stage.delay is not None:
            self._set_timer(pod, self._draw(pod, stage.delay, "delay"), now)

    def _run(self, pod: Pod, now: float) -> bool:
        """Containers run from now on, if they did not; False when there is no address left."""
        if not pod.ip and not pod.shape.host_network:
            pod.ip = self._pool.take()
            if not pod.ip:
                if self._tell:
                    message = "Failed to create pod sandbox: no address is left in the range of hollow pods"
                    self._tell(Happening(pod, "Warning", "FailedCreatePodSandBox", message))
                pod.stage, pod.mode = 0, LIVE
                return False
        if not pod.run_at:
            pod.run_at = now
            if self._tell:
                self._tell_started(pod)
        return True

    def _end(self, pod: Pod, stage: Stage, now: float) -> None:
        """Containers have ended."""
        if not pod.run_at:
            pod.run_at = pod.since
        if not pod.shape.restarts(stage.exit_code):
            pod.mode = ENDED
            self._mark(pod)
            return
        reason = stage.reason or ("Completed" if stage.exit_code == 0 else "Error")
        pod.last = Last(stage.exit_code, reason, pod.run_at, pod.since, pod.attempt)
        if stage.then and stage.delay is not None:
            self._set_timer(pod, self._draw(pod, stage.delay, "delay"), now)
        else:
            pod.mode = BACKOFF
            self._set_timer(pod, pod.backoff_s, now)
            if self._tell and pod.attempt:
                for each in pod.shape.containers:
                    message = (
                        f"Back-off restarting failed container {each.name} in pod {pod.key[1]}_{pod.key[0]}({pod.uid})"
                    )
                    self._tell(Happening(pod, "Warning", "BackOff", message, each.name))
        self._mark(pod)

    def _stop(self, pod: Pod, grace: int | None, now: float) -> None:
        """The pod is being deleted."""
        if pod.mode == ENDED or not (pod.run_at or pod.last):
            pod.mode = REMOVING
            self._timers.cancel(pod)
            self._mark(pod)
            return
        if pod.mode == STOPPED:
            return
        if pod.last is not None and pod.last.attempt == pod.attempt:  # nothing runs
            pod.mode, pod.since = STOPPED, pod.last.end_at
            self._timers.cancel(pod)
            self._mark(pod)
            return
        if pod.mode != STOPPING:
            pod.mode, pod.since = STOPPING, now
            pod.queued = False
            if self._tell:
                for each in pod.shape.containers:
                    self._tell(Happening(pod, "Normal", "Killing", f"Stopping container {each.name}", each.name))
        delay_s = self._draw(pod, pod.shape.lifecycle.stop, "stop")
        self._set_timer(pod, min(delay_s, pod.shape.grace_s if grace is None else grace), now)

    def _tell_started(self, pod: Pod) -> None:
        assert self._tell is not None
        for each in pod.shape.containers:
            pulled = f'Container image "{each.image}" already present on machine and can be accessed by the pod'
            for reason, message in (
                ("Pulled", pulled),
                ("Created", "Container created"),
                ("Started", "Container started"),
            ):
                self._tell(Happening(pod, "Normal", reason, message, each.name))

    def _draw(self, pod: Pod, delay: Delay, purpose: str) -> float:
        if delay.kind == "constant":
            return delay.low
        return delay.seconds(fraction(self._seed, purpose, *pod.key, pod.stage, pod.attempt))

    def _set_timer(self, pod: Pod, delay_s: float, now: float, since: float | None = None) -> None:
        # A step of the grid at least, so that stages without a delay cannot hold a turn of the loop up for ever.
        self._timers.set(pod, max((pod.since if since is None else since) + delay_s, now + GRID_S))

    # What is written

    def _mark(self, pod: Pod) -> None:
        if pod.in_flight:
            pod.stale = True
        elif pod.mode != GONE and not pod.queued:
            pod.queued = True
            self._dirty.append(pod)

    def take(self, most: int, now: float) -> list[Write]:
        """At most `most` writes; each is answered by `on_result`."""
        writes: list[Write] = []
        while self._dirty and len(writes) < most:
            pod = self._dirty.popleft()
            if not pod.queued:
                continue
            pod.queued = pod.stale = False
            write = self._write(pod, now)
            if write is not None:
                pod.in_flight = True
                writes.append(write)
        return writes

    def _write(self, pod: Pod, now: float) -> Write | None:
        if pod.mode == REMOVING:
            return Write(pod, b"", pod.shown)
        sight = look.sight(pod)
        if sight is None:
            return None
        known = self._templates.get((id(pod.shape), sight))
        if known is None:
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            # The shape is kept with it, so that no other one can have its id.
            known = self._templates[id(pod.shape), sight] = (pod.shape, show.patch(pod.shape, sight))
        return Write(
            pod,
            known[1].render(look.values(pod, self._host_of(pod.node), now)),
            (sight.phase, sight.has_started, sight.ready),
        )

    def on_results(self, results: Iterable[tuple[Write, int, int]], now: float) -> list[str]:
        """(write, code, revision) of each. Returns the keys of pods whose status was refused for good, for the log."""
        again: list[Pod] = []
        refused = []
        for write, code, revision in results:
            pod = write.pod
            pod.in_flight = False
            if pod.mode == GONE:
                continue
            if code < 300:
                self._landed(write, revision)
            elif code in RETRIED:
                pod.stale = True
                again.append(pod)
            elif code in (404, 410):
                pod.mode = GONE  # the watch tells of it as well
                self._timers.cancel(pod)
            else:
                refused.append("/".join(pod.key))
        if again:
            self._timers.set(Retry(again), now + RETRY_S)
        return refused

    def _landed(self, write: Write, revision: int) -> None:
        pod = write.pod
        pod.revision = max(pod.revision, revision)
        if revision > self._followed:
            self._own[revision] = pod
        if not write.body:
            pod.mode = GONE  # until the watch says so: finalizers may hold it
            return
        self.running += write.shown[2] - pod.shown[2]
        pod.shown = write.shown
        if pod.mode == STOPPED:
            pod.mode, pod.stale = REMOVING, True
        if pod.stale:
            self._mark(pod)
        elif pod.seen_revision >= revision:
            pod.revision = pod.seen_revision
            self._adopt(pod)


def _is_ready(status: Object) -> bool:
    for condition in status.get("conditions") or ():
        if condition["type"] == "Ready":
            return bool(condition["status"] == "True")
    return False
