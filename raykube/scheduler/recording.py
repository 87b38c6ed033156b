"""What a scheduler sees, as a file: each change of a watch on a line, with the second at which it came.

    {"recording": 1, "began": 1796000000.0}
    {"at": 0.0, "type": "ADDED", "object": {"kind": "Node", …}}
    {"at": 12.3, "type": "MODIFIED", "object": {"kind": "Pod", …}}

What is there at the start has `at` 0. Objects are without what schedulers do not look at: who wrote which field, and
what runs in containers and with which environment, which is nobody else's business. Nor does what was applied last,
which kubectl keeps as an annotation, tell it.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.base.clock import Clock
from raykube.client.api import ApiClient
from raykube.client.informer import Informer
from raykube.scheduler.core.intake import DEVICES, LIVING, STORAGE

Object = dict[str, Any]

FORMAT = 1
PODS = builtin("v1", "Pod")
RESOURCES = (
    builtin("v1", "Node"),
    builtin("v1", "Namespace"),
    *STORAGE,
    *DEVICES,
    builtin("scheduling.k8s.io/v1alpha2", "PodGroup"),
    builtin("policy/v1", "PodDisruptionBudget"),
    PODS,
)
PRIVATE = ("command", "args", "env", "envFrom", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
REFUSALS = frozenset({400, 401, 403, 404, 405})  # asking again would not help


class Moment(NamedTuple):
    """One change. `object` is the newest state; of what was deleted the last one."""

    at: float
    type: str  # ADDED, MODIFIED or DELETED
    object: Object


class Recording(NamedTuple):
    began: float  # seconds since the epoch
    moments: list[Moment]


def parse(lines: Iterable[bytes]) -> Recording:
    """Raises ValueError for what is no recording. A last line that was cut off is left out."""
    began: float | None = None
    moments: list[Moment] = []
    cut = False
    for number, line in enumerate(lines, 1):
        if cut:
            raise ValueError(f"line {number - 1} is no JSON")
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            cut = number > 1
            if not cut:
                raise ValueError("no recording of `raykube record`") from None
            continue
        if began is None:
            if not isinstance(found, dict) or found.get("recording") != FORMAT:
                raise ValueError(f"no recording of `raykube record` (of format {FORMAT})")
            began = float(found["began"])
            continue
        try:
            moments.append(Moment(float(found["at"]), found["type"], found["object"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"line {number} has no change") from None
    if began is None:
        raise ValueError("the recording is empty")
    return Recording(began, moments)


class Recorder:
    """Follows the apiservers and writes lines."""

    def __init__(self, client: ApiClient, clock: Clock, out: BinaryIO, silence_s: float = 30.0) -> None:
        """`silence_s`: how long nothing may come before all is read."""
        self._client = client
        self._clock = clock
        self._out = out
        self._silence_s = silence_s
        self._since: float | None = None
        self._following: asyncio.Future[Any] | None = None
        self._problem: OSError | None = None
        self.count = 0  # changes so far

    async def run(self, seconds: float | None) -> None:
        """Records for so long, or until it is cancelled.

        Raises ApiError when the apiserver refuses to tell or none answers at the start, OSError when a line cannot be
        written.
        """
        self._out.write(orjson.dumps({"recording": FORMAT, "began": self._clock.now()}) + b"\n")
        informers = []
        for resource in RESOURCES:
            informer = Informer(self._client, resource, field_selector=LIVING if resource == PODS else "")
            informer.add_handler(partial(self._on_change, resource))
            informers.append(informer)
        tasks = [asyncio.ensure_future(one.run(refusals=REFUSALS)) for one in informers]
        following = self._following = asyncio.gather(*tasks)
        synced = asyncio.gather(*(one.synced() for one in informers))
        try:
            while not (following.done() or synced.done()):
                before = self.count
                await asyncio.wait({following, synced}, timeout=self._silence_s, return_when=asyncio.FIRST_COMPLETED)
                if not (following.done() or synced.done() or self.count > before):
                    raise ApiError(503, "ServiceUnavailable", f"no apiserver answered for {self._silence_s:g} s")
            if not following.done():
                self._since = self._clock.monotonic()
                await asyncio.wait({following}, timeout=seconds)
            if self._problem is not None:
                raise self._problem
            if following.done():
                following.result()
        finally:
            for task in tasks:
                task.cancel()
            synced.cancel()
            await asyncio.gather(*tasks, following, synced, return_exceptions=True)

    def _on_change(self, resource: Resource, event: str, old: Object | None, new: Object | None) -> None:
        obj = new if new is not None else old
        assert obj is not None
        at = 0.0 if self._since is None else round(self._clock.monotonic() - self._since, 6)
        typed = {"apiVersion": resource.api_version, "kind": resource.kind}
        try:
            self._out.write(orjson.dumps({"at": at, "type": event, "object": typed | _public(obj)}) + b"\n")
            self._out.flush()  # whoever ends this in any way has what was until then
        except OSError as error:
            self._problem = error
            if self._following is not None:
                self._following.cancel()
            return
        self.count += 1


def _public(obj: Object) -> Object:
    """What a scheduler looks at."""
    kept = {key: obj[key] for key in obj.keys() - {"apiVersion", "kind", "metadata", "data"}}
    kept["metadata"] = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    annotations = kept["metadata"].get("annotations") or {}
    if APPLIED in annotations:
        kept["metadata"]["annotations"] = {key: value for key, value in annotations.items() if key != APPLIED}
    spec = obj.get("spec")
    if isinstance(spec, dict) and "containers" in spec:
        lists = {
            name: [{key: one[key] for key in one if key not in PRIVATE} for one in spec[name]]
            for name in CONTAINERS
            if spec.get(name)
        }
        kept["spec"] = spec | lists
    return kept
