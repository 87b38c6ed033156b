"""The objects of a scenario: pods by number, Deployments, Nodes where nobody plays machines."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from raykube.api.patch import merge_patch

Object = dict[str, Any]
STEP_LABEL = "bench.raykube.io/step"
RUN_LABEL = "bench.raykube.io/run"  # on a cluster that stays
PREFIX = "bench-"
OWN = re.compile(rf"{PREFIX}s\d+-\d+")  # pods that are nobody else's to replace
_NUMBER = re.compile(rb"\$\{i(?: *([%/]) *([1-9][0-9]*))?\}")
BASE: Object = {
    "metadata": {"labels": {"app": "bench"}},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": "registry.example/app:1",
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            }
        ],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
    },
}


class PodTemplate:
    """Pods that differ by their number: encoded once, numbers put in."""

    def __init__(self, step: str, *patches: Object, namespace: str = "default") -> None:
        found = orjson.loads(orjson.dumps(BASE))
        for patch in patches:
            found = merge_patch(found, patch)
        found["metadata"].setdefault("labels", {})[STEP_LABEL] = step
        self.template: Object = found
        self._namespace = namespace
        metadata = {"name": f"{PREFIX}{step}-${{i}}", "namespace": namespace} | found["metadata"]
        self._name = metadata["name"].encode()
        self._text = orjson.dumps({"kind": "Pod", "apiVersion": "v1"} | found | {"metadata": metadata})

    def pod(self, number: int) -> tuple[str, bytes]:
        """Name and JSON of pod `number`."""
        return numbered(self._name, number).decode(), numbered(self._text, number)

    def deployment(self, name: str, replicas: int, number: int) -> Object:
        """A Deployment of such pods; `${i}` is its own number."""
        template = orjson.loads(numbered(orjson.dumps(self.template), number))
        labels = template["metadata"]["labels"] | {"deployment": name}
        template["metadata"]["labels"] = labels
        return {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"deployment": name}},
                "template": template,
            },
        }


def numbered(text: bytes, number: int) -> bytes:
    """`${i}`, `${i % 10}` and `${i / 10}` replaced; a quotient is a whole number."""

    def value(found: re.Match[bytes]) -> bytes:
        if not found[1]:
            return b"%d" % number
        by = int(found[2])
        return b"%d" % (number % by if found[1] == b"%" else number // by)

    return _NUMBER.sub(value, text)


def shared(whole: int, parts: int) -> list[int]:
    """`whole` in `parts` that differ by one at most."""
    return [whole * (index + 1) // parts - whole * index // parts for index in range(parts)]


def node(number: int, flags: Mapping[str, str]) -> Object:
    """A Node that nobody plays: pods are bound to it and never run."""
    name = f"node-{number:05}"
    zones = int(flags.get("zones", 3))
    amounts = {"cpu": "32", "memory": "256Gi", "pods": flags.get("max-pods", "250")}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % zones + 1}"},
        },
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]},
    }
