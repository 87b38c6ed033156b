"""The kubelet's own metrics, by upstream's names."""

import os
import time
from pathlib import Path

from raykube.base.metrics import Registry

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TICKS = os.sysconf("SC_CLK_TCK")


class Measures:
    """Counters that the parts add to."""

    def __init__(self, node_name: str) -> None:
        self.registry = registry = Registry()
        registry.gauge("kubelet_node_name", "The node's name. The count is always 1.", ("node",)).set((node_name,), 1)
        self.running_pods = registry.gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox")
        self.running_containers = registry.gauge(
            "kubelet_running_containers", "Number of containers currently running", ("container_state",)
        )
        self.desired_pods = registry.gauge("kubelet_desired_pods", "Number of pods that should run here", ("static",))
        self.mirror_pods = registry.gauge("kubelet_mirror_pods", "Number of mirror pods in the API")
        self.evictions = registry.counter(
            "kubelet_evictions", "Cumulative number of pod evictions by eviction signal", ("eviction_signal",)
        )
        self.images_collected = registry.counter(
            "kubelet_image_garbage_collected_total", "Total number of images garbage collected", ("reason",)
        )
        self.node_startup = registry.gauge("kubelet_node_startup_duration_seconds", "Seconds until registered")
        kind = ("operation_type",)
        self._operations = registry.counter(
            "kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", kind
        )
        self._operation_errors = registry.counter(
            "kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors.", kind
        )
        self._operation_seconds = registry.histogram(
            "kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations.", kind, _SECONDS
        )
        self.usage_seconds = registry.histogram(
            "raykube_kubelet_usage_sample_duration_seconds", "How long a sample of all pods' usage took", (), _SECONDS
        )
        self._cpu = registry.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        self._memory = registry.gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
        started = registry.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")
        started.set((), round(time.time(), 2))
        registry.before_render(self._process)

    def runtime_call(self, operation: str, seconds: float, failed: bool) -> None:
        """Notes one call of the runtime."""
        self._operations.add((operation,))
        self._operation_seconds.observe((operation,), seconds)
        if failed:
            self._operation_errors.add((operation,))

    def _process(self) -> None:
        times = os.times()
        self._cpu.set((), round(times.user + times.system, 2))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._memory.set((), pages * os.sysconf("SC_PAGE_SIZE"))
