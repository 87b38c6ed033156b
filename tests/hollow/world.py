"""Hollow pods against an apiserver that is a dict: time moves when it is told to, writes land when they are taken."""

from pathlib import Path
from typing import Any

import orjson
import yaml

from raykube.api.resources import builtin
from raykube.api.strategic import strategic_merge
from raykube.base.clock import rfc3339
from raykube.client.core.listwatch import ADDED, BOOKMARK, DELETED, MODIFIED, WatchEvent
from raykube.hollow import config
from raykube.hollow.core import lifecycle
from raykube.hollow.core.addresses import AddressPool
from raykube.hollow.core.feed import Feed
from raykube.hollow.core.lifecycle import Lifecycle
from raykube.hollow.core.pods import Happening, Pods, Write
from raykube.hollow.core.timers import Timers

Object = dict[str, Any]
PODS = builtin("v1", "Pod")
BEGIN = 1_800_000_000.0
NAMESPACE = "d"


def builtin_lifecycles() -> tuple[Lifecycle, ...]:
    return lifecycle.parse(yaml.safe_load(Path(config.__file__).with_name("lifecycle.yaml").read_text()))


class World:
    """`pods` is the core; `objects` what the apiserver has."""

    def __init__(
        self, lifecycles: tuple[Lifecycle, ...] | None = None, seed: int = 0, cidr: str = "100.64.0.0/24"
    ) -> None:
        self.lifecycles = lifecycles or builtin_lifecycles()
        self.seed = seed
        self.cidr = cidr
        self.now = BEGIN
        self.revision = 0
        self.objects: dict[str, Object] = {}
        self.early = False  # news of a write come before its answer
        self.news: list[WatchEvent] = []
        self.log: list[str] = []
        self.told: list[Happening] = []
        self.failing = 0  # code of all answers; 0: all is well
        self.writes = 0
        self.start()

    def start(self) -> None:
        """A process begins, and reads what there is."""
        self.timers = Timers()
        self.pods = Pods(
            self.lifecycles, self.seed, AddressPool(self.cidr), self.timers, lambda _: b"127.64.0.1", self.told.append
        )
        self.feed = Feed(self.pods, lambda: self.now, lambda: None)
        self.feed.request()
        self.feed.on_events([event(ADDED, obj) for obj in self.objects.values()])
        self.feed.on_events([WatchEvent(BOOKMARK, None, self.revision, initial_events_end=True)])

    def see(self, obj: Object, kind: str = MODIFIED) -> None:
        self.feed.on_events([event(kind, obj)])

    def store(self, obj: Object) -> Object:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.objects[obj["metadata"]["name"]] = obj
        return obj

    def create(
        self,
        name: str,
        *,
        policy: str = "Always",
        owner: str = "",
        chosen: str = "",
        node: str = "n1",
        containers: tuple[str, ...] = ("c",),
        init: tuple[str, ...] = (),
        **spec: Any,
    ) -> None:
        """A pod that is bound. Names of `init` that begin with "side" are sidecars."""
        metadata: Object = {"name": name, "namespace": NAMESPACE, "uid": f"00000000-0000-4000-8000-{len(name):012}"}
        metadata["generation"] = 1
        if owner:
            metadata["ownerReferences"] = [{"kind": owner, "name": "o", "uid": "o", "controller": True}]
        if chosen:
            metadata["annotations"] = {lifecycle.ANNOTATION: chosen}
        spec |= {
            "nodeName": node,
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": each, "image": "registry.example/app:1"} for each in containers],
        }
        if init:
            spec["initContainers"] = [
                {"name": each, "image": "i"} | ({"restartPolicy": "Always"} if each.startswith("side") else {})
                for each in init
            ]
        scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None}
        status = {
            "phase": "Pending",
            "qosClass": "BestEffort",
            "conditions": [scheduled | {"lastTransitionTime": rfc3339(self.now)}],
        }
        self.see(self.store({"metadata": metadata, "spec": spec, "status": status}))

    def delete(self, name: str, grace_s: int = 30) -> None:
        obj = self.objects[name]
        metadata = {**obj["metadata"], "deletionTimestamp": rfc3339(self.now + grace_s)}
        metadata["deletionGracePeriodSeconds"] = grace_s
        self.see(self.store({**obj, "metadata": metadata}))

    def unready(self, name: str) -> None:
        """The node-lifecycle controller says that a pod is not ready."""
        obj = self.objects[name]
        conditions = [
            {**each, "status": "False"} if each["type"] == "Ready" else each for each in obj["status"]["conditions"]
        ]
        self.see(self.store({**obj, "status": {**obj["status"], "conditions": conditions}}))

    def run(self, seconds: float) -> None:
        """Lets time pass, event by event."""
        until = self.now + seconds
        self._settle()
        while (due := self.timers.next()) is not None and due <= until:
            self.now = max(self.now, due)
            for item in self.timers.due(self.now):
                self.pods.on_timer(item, self.now)  # type: ignore[arg-type]
            self._settle()
        self.now = until

    def _settle(self) -> None:
        while writes := self.pods.take(1000, self.now):
            results = [(write, *self._answer(write)) for write in writes]
            assert not self.pods.on_results(results, self.now)
            news, self.news = self.news, []
            self.feed.on_events(news)

    def _tell(self, kind: str, obj: Object) -> None:
        """The watch brings it before the answer to who wrote it, or behind."""
        if self.early:
            self.see(obj, kind)
        else:
            self.news.append(event(kind, obj))

    def _answer(self, write: Write) -> tuple[int, int]:
        self.writes += 1
        name = write.pod.key[1]
        if self.failing:
            self.log.append(f"{self._clock} {name} answered {self.failing}")
            return self.failing, 0
        obj = self.objects.get(name)
        if obj is None:
            return 404, 0
        if not write.body:
            self._tell(DELETED, self.store(obj))
            del self.objects[name]
            self.log.append(f"{self._clock} {name} removed")
            return 200, self.revision
        self._tell(MODIFIED, self.store(strategic_merge(PODS, obj, orjson.loads(write.body))))
        self.log.append(f"{self._clock} {summary(self.objects[name])}")
        return 200, self.revision

    @property
    def _clock(self) -> str:
        return f"{self.now - BEGIN:7.2f}"


def event(kind: str, obj: Object) -> WatchEvent:
    """As the watch brings it: undecoded."""
    text: Any = orjson.dumps(obj)
    return WatchEvent(kind, text, int(obj["metadata"]["resourceVersion"]))


def summary(obj: Object) -> str:
    """A pod in a line: phase, Ready, address, and the state of each container."""
    status = obj["status"]
    ready = next((each["status"] for each in status["conditions"] if each["type"] == "Ready"), "-")
    containers = [_container(each) for each in (*status.get("initContainerStatuses", ()), *status["containerStatuses"])]
    return (
        f"{obj['metadata']['name']} {status['phase']} ready={ready} {status.get('podIP', '-')} {', '.join(containers)}"
    )


def _container(status: Object) -> str:
    def words(state: Object) -> str:
        (kind, body) = next(iter(state.items()))
        detail = body.get("reason", "")
        if kind == "terminated":
            detail += f" {body['exitCode']}"
        return f"{kind} {detail}".strip()

    last = f" after {words(status['lastState'])}" if status["lastState"] else ""
    return f"{status['name']}#{status['restartCount']} {words(status['state'])}{last}"
