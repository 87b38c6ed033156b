"""Probes: thresholds over single attempts, and what their results mean for a container.

A container's probes belong to one run of it, so results are kept by container id: a restart begins anew.
"""

from dataclasses import dataclass, field

from raykube.kubelet.core.pod import Object

KINDS = ("startupProbe", "livenessProbe", "readinessProbe")


@dataclass(slots=True)
class Threshold:
    """Counts equal results in a row; `result` changes when a threshold is reached, not before."""

    successes_min: int
    failures_min: int
    result: bool | None  # None until the first threshold is reached
    _last: bool | None = None
    _run: int = 0

    @classmethod
    def of(cls, kind: str, probe: Object, before: bool | None = None) -> "Threshold":
        """Readiness begins as not ready, liveness as alive, startup as unknown; or with what was found before."""
        initial = {"livenessProbe": True, "readinessProbe": False, "startupProbe": None}[kind]
        if before is not None:
            initial = before
        return cls(int(probe.get("successThreshold") or 1), int(probe.get("failureThreshold") or 3), initial)

    def on_result(self, success: bool) -> bool:
        """Counts an attempt; answers whether `result` changed."""
        self._run = self._run + 1 if success is self._last else 1
        self._last = success
        if self._run < (self.successes_min if success else self.failures_min):
            return False
        changed = self.result is not success
        self.result = success
        return changed


def found_before(status: Object) -> dict[tuple[str, str], bool]:
    """By (container id, kind of probe) that has succeeded: what a pod's status tells of its running containers."""
    found = {}
    for one in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        container_id = str(one.get("containerID") or "").rpartition("://")[2]
        for name, kind in (("started", "startupProbe"), ("ready", "readinessProbe")):
            if container_id and one.get(name) and "running" in (one.get("state") or {}):
                found[container_id, kind] = True
    return found


@dataclass(slots=True)
class ProbeResults:
    """Results by (container id, kind of probe)."""

    results: dict[tuple[str, str], bool | None] = field(default_factory=dict)

    def set(self, container_id: str, kind: str, result: bool | None) -> None:
        self.results[container_id, kind] = result

    def forget(self, container_id: str) -> None:
        for kind in KINDS:
            self.results.pop((container_id, kind), None)

    def startup_failed(self, container_id: str) -> bool:
        return self.results.get((container_id, "startupProbe")) is False

    def liveness_failed(self, container_id: str) -> bool:
        return self.results.get((container_id, "livenessProbe")) is False

    def started(self, spec: Object, container_id: str) -> bool:
        """For a running container: its startup probe has succeeded, or it has none."""
        return not spec.get("startupProbe") or self.results.get((container_id, "startupProbe")) is True

    def ready(self, spec: Object, container_id: str) -> bool:
        """For a running container: started, and its readiness probe succeeds, or it has none."""
        if not self.started(spec, container_id):
            return False
        return not spec.get("readinessProbe") or self.results.get((container_id, "readinessProbe")) is True
