"""A pod's resources on this machine: what it was promised, what its containers have, and how one becomes the other."""

from collections.abc import Callable

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core import resize
from raykube.kubelet.core.observed import ObservedPod
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.status import condition
from raykube.kubelet.tools import Tools
from raykube.rpc import Code, RpcError

RETRY_S = 5.0


class PodResize:
    def __init__(self, pod: Object, tools: Tools) -> None:
        self.allocated: dict[str, Object] = resize.sizes(pod) | resize.reported(pod)  # by container
        self.applied: dict[str, Object] = {}  # by container id
        self._uid = pods.uid(pod)
        self._tools = tools
        self._refusal: resize.Refusal | None = None  # of what the spec asks for
        self._error = ""

    @property
    def deferred(self) -> bool:
        """Whether it waits for others to leave, to have what it asks for."""
        return self._refusal is not None and self._refusal.reason == "Deferred"

    def sized(self, pod: Object) -> Object:
        """The pod with the resources that this machine has promised it."""
        return resize.sized(pod, self.allocated)

    def allocate(self, pod: Object) -> None:
        """Promises the pod what its spec asks for, if the machine has it."""
        if not resize.wants_resize(pod, self.allocated):
            self._refusal = None
            return
        others = [one for one in self._tools.active_pods() if pods.uid(one) != self._uid]
        before, self._refusal = self._refusal, resize.decide(pod, others, self._tools.node())
        if self._refusal is None:
            self.allocated = resize.sizes(pod)
            self._error = ""
        elif self._refusal != before:
            message = f"Pod resize {self._refusal.reason}: {self._refusal.message}"
            self._tools.events.record(pod, "Warning", f"Resize{self._refusal.reason}", message)

    def adopt(self, pod: Object, observed: ObservedPod) -> None:
        """Containers of an earlier kubelet have what it said; whom nobody told of, what was promised."""
        known = resize.reported(pod)
        running = {run.id: run.name for run in observed.running}
        for container_id, name in running.items():
            if container_id not in self.applied and name in self.allocated:
                self.applied[container_id] = known.get(name, self.allocated[name])
        self.applied = {one: size for one, size in self.applied.items() if one in running}

    async def apply(
        self, pod: Object, observed: ObservedPod, address: str, now: float, tell: Callable[[], object]
    ) -> float | None:
        """Gives containers what was promised; returns when to look again, None when there was nothing to do.

        `tell` writes the pod's status: that it is in progress, or why it is not.
        """
        steps = resize.steps(pod, self.allocated, self.applied, observed)
        if not steps:
            return None
        tell()
        actions = self._tools.containers
        actions.resize_pod(pod)
        try:
            for step in steps:
                spec = pods.container(pod, step.name)
                assert spec is not None
                if step.restart:
                    run = next(one for one in observed.running if one.id == step.container_id)
                    message = f"Container {step.name} resize requires restart"
                    await actions.kill(pod, spec, run, address, pods.grace_s(pod), message)
                else:
                    await actions.resize(pod, spec, step.container_id)
                    self.applied[step.container_id] = self.allocated[step.name]
        except RpcError as error:
            if error.code is Code.UNAVAILABLE:
                raise
            if error.message != self._error:
                self._tools.events.record(pod, "Warning", "ResizeError", f"Pod resize error: {error.message}")
            self._error = error.message
            tell()
            return now + RETRY_S
        self._error = ""
        actions.resize_pod(pod)
        self._tools.freed()
        if not any(step.restart for step in steps):
            self._tools.events.record(pod, "Normal", "ResizeCompleted", "Pod resize completed")
        return now

    def conditions(self, pod: Object, observed: ObservedPod) -> list[Object]:
        """Those of the pod's status while a resize waits or is under way."""
        found = []
        if self._refusal is not None:
            found.append((resize.PENDING, self._refusal.reason, self._refusal.message))
        if resize.steps(pod, self.allocated, self.applied, observed):
            reason = "Error" if self._error else ""
            found.append((resize.IN_PROGRESS, reason, self._error))
        return [condition(kind, "True", reason, message) for kind, reason, message in found]
