"""Decisions alone: pods a second that the scheduler's core finds a node for, in CPU time, with no API around it.

Each scenario is a process of its own: nodes come, pods are read, and are decided on in batches as the service does it.
`read` is what making a pod of its JSON object costs, `decide` the decision and its bookkeeping, µs per pod.

With `--against` the core of another checkout takes turns with this one, and the table has both and their ratio.

    python -m benchmarks.decisions --against ../before --only distinct,spread-zone --repeat 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Object = dict[str, Any]

BATCH = 256
ZONES = 10
ROOT = Path(__file__).resolve().parents[1]
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def node(number: int) -> Object:
    name = f"node-{number:05}"
    return {
        "metadata": {"name": name, "labels": {HOSTNAME: name, ZONE: f"zone-{number % ZONES}", "disk": "ssd"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"}},
    }


def pod(number: int, cpu: str = "100m", memory: str = "128Mi", **more: Any) -> Object:
    """`labels`, `image`, `distinct` (requests, labels and image of its own); others go into the spec."""
    labels, image = more.pop("labels", {"app": "bench"}), more.pop("image", "registry.example/app:1")
    if more.pop("distinct", False):
        cpu, memory = f"{1 + number % 997}m", f"{1 + number % 509}Mi"
        labels, image = labels | {"app": f"app-{number}"}, f"registry.example/app-{number}:1"
    return {
        "metadata": {
            "name": f"pod-{number}",
            "namespace": "default",
            "uid": f"{number:032x}",
            "resourceVersion": "1",
            "labels": labels,
        },
        "spec": {
            "containers": [{"name": "main", "image": image, "resources": {"requests": {"cpu": cpu, "memory": memory}}}]
        }
        | more,
        "status": {"phase": "Pending"},
    }


def node_affinity(number: int) -> Object:
    expression = {"key": ZONE, "operator": "In", "values": [f"zone-{number % ZONES}", f"zone-{number % 7}"]}
    term = {"matchExpressions": [expression, {"key": "disk", "operator": "In", "values": ["ssd", f"disk-{number}"]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def pod_affinity(kind: str, key: str, labels: Object) -> Object:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": labels}}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def spread(key: str, labels: Object, skew: int = 1, when: str = "DoNotSchedule") -> list[Object]:
    selector = {"matchLabels": labels}
    return [{"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when, "labelSelector": selector}]


def _group(number: int, groups: int) -> Object:
    return {"group": f"group-{number % groups}"}


SCENARIOS: dict[str, Callable[[int], Object]] = {
    "identical": pod,
    "distinct": lambda n: pod(n, distinct=True),
    "distinct-node-affinity": lambda n: pod(n, distinct=True, affinity=node_affinity(n)),
    "affinity-zone": lambda n: pod(n, labels=_group(n, 10), affinity=pod_affinity("podAffinity", ZONE, _group(n, 10))),
    "anti-affinity-host": lambda n: pod(
        n, labels=_group(n, 20), affinity=pod_affinity("podAntiAffinity", HOSTNAME, _group(n, 20))
    ),
    "distinct-anti-affinity": lambda n: pod(
        n, distinct=True, labels=_group(n, 20), affinity=pod_affinity("podAntiAffinity", HOSTNAME, _group(n, 20))
    ),
    "spread-zone": lambda n: pod(n, topologySpreadConstraints=spread(ZONE, {"app": "bench"})),
    "spread-host": lambda n: pod(n, topologySpreadConstraints=spread(HOSTNAME, {"app": "bench"})),
    "spread-soft": lambda n: pod(n, topologySpreadConstraints=spread(ZONE, {"app": "bench"}, when="ScheduleAnyway")),
    "distinct-spread": lambda n: pod(
        n, distinct=True, labels=_group(n, 20), topologySpreadConstraints=spread(ZONE, _group(n, 20))
    ),
    "preemption": lambda n: pod(n, "8", "1Gi", priority=1000),
    "preemption-distinct": lambda n: pod(n, f"{7001 + n % 997}m", f"{1 + n % 509}Mi", priority=1000),
}
FILLED = {"preemption", "preemption-distinct"}
FILLER_PODS = 4  # on each node, which they fill


def fill(cluster: Any, nodes: int) -> None:
    """Pods of low priority, whose sizes differ a little, take all of every node."""
    for number in range(nodes * FILLER_PODS):
        obj = pod(number, ("7900m", "8", "8", "8100m")[number % FILLER_PODS], "1Gi", priority=1 + number % 3)
        obj["metadata"] |= {"uid": f"filler-{number}", "name": f"filler-{number}"}
        obj["spec"]["nodeName"] = f"node-{number // FILLER_PODS:05}"
        obj["status"] = {"phase": "Running", "startTime": f"2026-01-01T00:{number % 60:02}:00Z"}
        cluster.on_pod(cluster.read_pod(obj))


def measure(scenario: str, nodes: int, pods: int) -> Object:
    """µs of CPU per pod, and how many found a node."""
    from raykube.scheduler.core.cluster import Cluster, Placement
    from raykube.scheduler.core.queue import Pending, PodQueue

    cluster = Cluster()
    for number in range(nodes):
        cluster.on_node(node(number))
    if scenario in FILLED:
        fill(cluster, nodes)
    make = SCENARIOS[scenario]
    read = decide = 0.0
    placed = 0
    for first in range(0, pods, BATCH):
        objects = [make(number) for number in range(first, min(first + BATCH, pods))]
        began = time.process_time()
        views = [cluster.read_pod(obj) for obj in objects]
        read += time.process_time() - began
        batch = PodQueue.by_class([Pending(view, 0.0, 0.0) for view in views])
        began = time.process_time()
        for pending in batch:
            found = cluster.schedule(pending.pod)
            placed += isinstance(found, Placement) or found.eviction is not None
        decide += time.process_time() - began
    return {"read_us": read / pods * 1e6, "decide_us": decide / pods * 1e6, "placed": placed}


def turn(root: Path, scenario: str, nodes: int, pods: int) -> Object:
    """One measurement in a process of its own, with the core of the checkout at `root`."""
    command = [sys.executable, __file__, "--only", scenario, "--nodes", str(nodes), "--pods", str(pods), "--one"]
    run = subprocess.run(command, env={"PYTHONPATH": str(root)}, cwd=root, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(run.stdout))


def row(name: str, results: list[Object], pods: int) -> float:
    """Prints the middle of some turns; decisions a second."""
    decide = statistics.median(one["decide_us"] for one in results)
    read = statistics.median(one["read_us"] for one in results)
    placed = results[-1]["placed"]
    print(f"{name:34}{read:10.1f}{decide:10.1f}{1e6 / decide:14,.0f}{placed:9,} of {pods:,}", flush=True)
    return 1e6 / decide


def scenarios(only: str) -> Iterator[str]:
    for name in only.split(",") if only else SCENARIOS:
        if name not in SCENARIOS:
            raise SystemExit(f"no scenario {name}: {', '.join(SCENARIOS)}")
        yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--only", default="", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--one", action="store_true", help="one measurement, in this process, as JSON")
    asked = parser.parse_args()
    names = list(scenarios(asked.only))
    if asked.one:
        print(json.dumps(measure(names[0], asked.nodes, asked.pods)))
        return
    print(f"{asked.nodes:,} nodes\n{'':34}{'read µs':>10}{'decide µs':>10}{'decisions/s':>14}{'placed':>9}")
    for name in names:
        roots = {name: ROOT} if asked.against is None else {f"{name}, before": asked.against.resolve(), name: ROOT}
        results: dict[str, list[Object]] = {title: [] for title in roots}
        for _ in range(asked.repeat):
            for title, root in roots.items():
                results[title].append(turn(root, name, asked.nodes, asked.pods))
        rates = [row(title, found, asked.pods) for title, found in results.items()]
        if len(rates) == 2:
            print(f"{'':34}{'':20}{rates[1] / rates[0]:13.2f}x")


if __name__ == "__main__":
    main()
