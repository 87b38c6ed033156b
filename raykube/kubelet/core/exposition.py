"""Usage in Prometheus' text format: `/metrics/resource` (what metrics-server reads) and cAdvisor's main families.

Each line has the time of its reading, so that who scrapes twice computes a rate over what truly passed between.
"""

from collections.abc import Iterable, Mapping

from raykube.kubelet.core.usage import PodUsage, Sample


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{escape(value)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


Point = tuple[Mapping[str, str], float, float]  # labels, value, time in seconds; no time where it is 0


class Page:
    """A page of metrics, family by family."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, points: Iterable[Point]) -> None:
        """Nothing is written of a family without points."""
        lines = [
            f"{name}{_labels(labels)} {_number(value)}" + (f" {int(at * 1000)}" if at else "")
            for labels, value, at in points
        ]
        if lines:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def resource(sample: Sample | None) -> str:
    """`/metrics/resource`. Without a sample the page says only that there was none."""
    page = Page()
    if sample is not None:
        node = sample.node
        pods = [({"namespace": pod.namespace, "pod": pod.name}, pod) for pod in sample.pods]
        containers = [({"container": one.name, **labels}, one) for labels, pod in pods for one in pod.containers]
        page.family(
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            [(labels, one.cpu.total_ns / 1e9, one.cpu.at) for labels, one in containers if one.cpu is not None],
        )
        page.family(
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            [(labels, one.memory.working_set, one.memory.at) for labels, one in containers if one.memory is not None],
        )
        page.family(
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
            [(labels, one.started_at, 0.0) for labels, one in containers if one.started_at],
        )
        page.family(
            "container_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            [
                (labels, one.memory.swap, one.memory.at)
                for labels, one in containers
                if one.memory is not None and one.memory.swap is not None
            ],
        )
        page.family(
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            [({}, node.cpu.total_ns / 1e9, node.cpu.at)],
        )
        page.family(
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            [({}, node.memory.working_set, node.memory.at)],
        )
        page.family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            [(labels, pod.cpu.total_ns / 1e9, pod.cpu.at) for labels, pod in pods if pod.cpu is not None],
        )
        page.family(
            "pod_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the pod in bytes",
            [(labels, pod.memory.working_set, pod.memory.at) for labels, pod in pods if pod.memory is not None],
        )
    page.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        [({}, float(sample is None), 0.0)],
    )
    return page.text()


def _cadvisor_labels(pod: PodUsage, container: str, identity: str, image: str) -> dict[str, str]:
    return {
        "container": container,
        "id": f"/kubepods/pod{pod.uid}/{identity}" if identity else f"/kubepods/pod{pod.uid}",
        "image": image,
        "name": identity,
        "namespace": pod.namespace,
        "pod": pod.name,
    }


def cadvisor(sample: Sample) -> str:
    """`/metrics/cadvisor`: the machine, then CPU, memory, network, disk and processes of pods and containers."""
    page, node = Page(), sample.node
    units = [(_cadvisor_labels(pod, "", "", ""), pod.cpu, pod.memory) for pod in sample.pods]
    units += [
        (_cadvisor_labels(pod, one.name, one.id, one.image), one.cpu, one.memory)
        for pod in sample.pods
        for one in pod.containers
    ]
    root = {"container": "", "id": "/", "image": "", "name": "", "namespace": "", "pod": ""}
    units.insert(0, (root, node.cpu, node.memory))
    page.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        [({"cpu": "total", **labels}, cpu.total_ns / 1e9, cpu.at) for labels, cpu, _ in units if cpu is not None],
    )
    memories = [(labels, memory) for labels, _, memory in units if memory is not None]
    page.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        [(labels, memory.working_set, memory.at) for labels, memory in memories],
    )
    page.family(
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        [(labels, memory.usage, memory.at) for labels, memory in memories if memory.usage is not None],
    )
    page.family(
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        [(labels, memory.rss, memory.at) for labels, memory in memories if memory.rss is not None],
    )
    containers = [
        (_cadvisor_labels(pod, one.name, one.id, one.image), one) for pod in sample.pods for one in pod.containers
    ]
    page.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        [(labels, one.started_at, 0.0) for labels, one in containers if one.started_at],
    )
    page.family(
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        [({"device": "", **labels}, one.rootfs.used, one.rootfs.at) for labels, one in containers if one.rootfs],
    )
    page.family(
        "container_processes",
        "gauge",
        "Number of processes running inside the container.",
        [(_cadvisor_labels(pod, "", "", ""), pod.processes, 0.0) for pod in sample.pods if pod.processes is not None],
    )
    interfaces = [
        ({**_cadvisor_labels(pod, "", "", ""), "interface": each.name}, each, pod.network.at)
        for pod in sample.pods
        if pod.network is not None
        for each in pod.network.interfaces[:1]
    ]
    for name, text, attribute in (
        ("receive_bytes", "bytes received", "rx_bytes"),
        ("receive_errors", "errors encountered while receiving", "rx_errors"),
        ("transmit_bytes", "bytes transmitted", "tx_bytes"),
        ("transmit_errors", "errors encountered while transmitting", "tx_errors"),
    ):
        page.family(
            f"container_network_{name}_total",
            "counter",
            f"Cumulative count of {text}",
            [(labels, getattr(each, attribute), at) for labels, each, at in interfaces],
        )
    page.family(
        "machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", [({}, node.memory_capacity, 0.0)]
    )
    return page.text()
