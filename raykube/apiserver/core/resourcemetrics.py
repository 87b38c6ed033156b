"""What nodes and pods use now, out of two readings of each kubelet's `/metrics/resource`.

A *point* is one reading of a container or a node: CPU seconds so far, and memory. A rate takes two; a container that
started a short while ago is measured from its start. What was not read for a while is not told any more.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from raykube.api import quantity
from raykube.base.clock import rfc3339
from raykube.base.duration import format_duration

Object = dict[str, Any]

FRESH_S_MIN = 10.0  # a container is measured from its start once it is so old
FRESH_S_MAX = 60.0  # and not when it is older
STALE_S = 90.0

_LINE = re.compile(r"^(\w+)(?:\{(.*)\})?\s+(\S+)(?:\s+(\d+))?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_FAMILIES = {
    "node_cpu_usage_seconds_total": "cpu_s",
    "node_memory_working_set_bytes": "memory",
    "container_cpu_usage_seconds_total": "cpu_s",
    "container_memory_working_set_bytes": "memory",
    "container_start_time_seconds": "started_at",
}


@dataclass(frozen=True, slots=True)
class Point:
    at: float
    cpu_s: float
    memory: float
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU in cores, memory in bytes, measured in the `window_s` seconds before `at`."""

    at: float
    window_s: float
    cpu: float
    memory: float

    def amounts(self) -> dict[str, str]:
        nano_cores = round(self.cpu * 1e9)
        return {
            "cpu": quantity.format_quantity(Fraction(nano_cores, 10**9)) if nano_cores else "0",
            "memory": quantity.format_quantity(int(self.memory), quantity.BINARY),
        }


PodKey = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class Reading:
    """One kubelet's page."""

    node: Point | None = None
    pods: dict[PodKey, dict[str, Point]] = field(default_factory=dict)


def _labels(text: str) -> dict[str, str]:
    return {
        key: re.sub(r"\\.", lambda found: _ESCAPES.get(found.group(), found.group()), value)
        for key, value in _LABEL.findall(text)
    }


def parse(page: str) -> Reading:
    """A page of `/metrics/resource`; lines that are none, and families that are not asked for, are passed over."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for line in page.splitlines():
        if not line.startswith(("node_", "container_")):
            continue
        found = _LINE.match(line)
        if found is None or found.group(1) not in _FAMILIES:
            continue
        name, text, number, stamp = found.groups()
        key = ("", "", "")
        if name.startswith("container_"):
            labels = _labels(text or "")
            key = (labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", ""))
            if not all(key):
                continue
        try:
            value = float(number)
        except ValueError:
            continue
        cell = values.setdefault(key, {})
        cell[_FAMILIES[name]] = value
        if stamp and _FAMILIES[name] == "cpu_s":
            cell["at"] = int(stamp) / 1000
    node = values.pop(("", "", ""), {})
    pods: dict[PodKey, dict[str, Point]] = {}
    for (namespace, pod, container), cell in values.items():
        if {"cpu_s", "memory", "at"} <= cell.keys():
            pods.setdefault((namespace, pod), {})[container] = Point(**cell)
    return Reading(Point(**node) if {"cpu_s", "memory", "at"} <= node.keys() else None, pods)


@dataclass(frozen=True, slots=True)
class _Pair:
    last: Point
    before: Point | None = None

    def with_point(self, point: Point) -> "_Pair":
        if point.at <= self.last.at:
            return self
        restarted = point.started_at > self.last.started_at or point.cpu_s < self.last.cpu_s
        return _first(point) if restarted else _Pair(point, self.last)

    def usage(self) -> Usage | None:
        if self.before is None:
            return None
        window_s = self.last.at - self.before.at
        return Usage(self.last.at, window_s, (self.last.cpu_s - self.before.cpu_s) / window_s, self.last.memory)


def _first(point: Point) -> _Pair:
    age_s = point.at - point.started_at
    if point.started_at and FRESH_S_MIN <= age_s < FRESH_S_MAX:
        return _Pair(point, Point(point.started_at, 0.0, 0.0, point.started_at))
    return _Pair(point)


def _follow(pair: _Pair | None, point: Point) -> _Pair:
    return _first(point) if pair is None else pair.with_point(point)


class UsageStore:
    """The last readings of every node."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Pair] = {}
        self._pods: dict[str, dict[PodKey, dict[str, _Pair]]] = {}  # by node

    def put(self, node: str, reading: Reading) -> None:
        """Takes a node's page; what is not in it any more is gone."""
        if reading.node is not None:
            self._nodes[node] = _follow(self._nodes.get(node), reading.node)
        old = self._pods.get(node, {})
        self._pods[node] = {
            key: {name: _follow(old.get(key, {}).get(name), point) for name, point in containers.items()}
            for key, containers in reading.pods.items()
        }

    def keep(self, nodes: set[str]) -> None:
        """Forgets every other node."""
        for name in self._pods.keys() - nodes:
            del self._pods[name]
            self._nodes.pop(name, None)

    def has(self, node: str) -> bool:
        """Whether the node's use is known."""
        return node in self._nodes and self._nodes[node].before is not None

    def node(self, name: str, now: float) -> Usage | None:
        pair = self._nodes.get(name)
        if pair is None or now - pair.last.at > STALE_S:
            return None
        return pair.usage()

    def pod(self, node: str, namespace: str, name: str, now: float) -> dict[str, Usage] | None:
        """By container; None when one of them is not known yet."""
        found: dict[str, Usage] = {}
        for container, pair in self._pods.get(node, {}).get((namespace, name), {}).items():
            usage = pair.usage() if now - pair.last.at <= STALE_S else None
            if usage is None:
                return None
            found[container] = usage
        return found or None


def _metadata(obj: Object, now: float) -> Object:
    own = obj["metadata"]
    shown: Object = {"name": own["name"], "creationTimestamp": rfc3339(now)}
    for name in ("namespace", "labels"):
        if own.get(name):
            shown[name] = own[name]
    return shown


def _times(usages: list[Usage]) -> Object:
    earliest = min(usages, key=lambda one: one.at)
    return {"timestamp": rfc3339(earliest.at), "window": format_duration(round(earliest.window_s, 3))}


def node_metrics(node: Object, usage: Usage, now: float) -> Object:
    return {
        "kind": "NodeMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": _metadata(node, now),
        **_times([usage]),
        "usage": usage.amounts(),
    }


def pod_metrics(pod: Object, usages: dict[str, Usage], now: float) -> Object:
    return {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": _metadata(pod, now),
        **_times(list(usages.values())),
        "containers": [{"name": name, "usage": usage.amounts()} for name, usage in sorted(usages.items())],
    }
