"""StatefulSets on the model cluster: one to begin with, and what tests do to it and ask of it."""

from typing import Any

from raykube.controllers.core import kinds
from raykube.controllers.core.statefulset import StatefulSetController
from tests.controllers.model import Cluster, Running, kubelet, set_pod, template

LABELS = {"app": "web"}
CLAIM = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}


def stateful_set(replicas: int, image: str = "web:1", **spec: Any) -> dict[str, Any]:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "serviceName": "net",
            "selector": {"matchLabels": LABELS},
            "template": template(LABELS, image),
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": rolling,
            "revisionHistoryLimit": 10,
            **spec,
        },
    }


def begin(found: dict[str, Any]) -> tuple[Cluster, Running]:
    cluster = Cluster()
    cluster.add(kinds.STATEFUL_SETS, found)
    running = Running(cluster, [StatefulSetController()])
    running.start()
    running.run()
    return cluster, running


def grow(cluster: Cluster, running: Running, *, passes: int = 40) -> None:
    """The kubelet and the controller, until neither has anything to do."""
    for _ in range(passes):
        if not kubelet(cluster):
            return
        running.run()
    raise AssertionError("the set does not come to rest")


def edit(cluster: Cluster, **spec: Any) -> None:
    cluster.change(kinds.STATEFUL_SETS, "web", lambda obj: obj["spec"].update(spec))


def names(cluster: Cluster) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in cluster.all(kinds.PODS))


def going(cluster: Cluster) -> list[str]:
    return sorted(
        each["metadata"]["name"] for each in cluster.all(kinds.PODS) if each["metadata"].get("deletionTimestamp")
    )


def images(cluster: Cluster) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in cluster.all(kinds.PODS)}


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(kinds.STATEFUL_SETS, "default", "web")
    assert found is not None
    return dict(found["status"])


def pod(cluster: Cluster, name: str) -> dict[str, Any]:
    found = cluster.get(kinds.PODS, "default", name)
    assert found is not None
    return found


def end(cluster: Cluster, name: str) -> None:
    """The kubelet confirms that a pod that is being deleted has ended."""
    cluster.vanish(kinds.PODS, pod(cluster, name))


def ready(cluster: Cluster, name: str, *, is_ready: bool = True) -> None:
    cluster.change(kinds.PODS, name, set_pod("Running", is_ready, cluster.now))


def rolling(maximum: Any) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": maximum}}


def claims_of(cluster: Cluster) -> dict[str, list[str]]:
    return {
        each["metadata"]["name"]: [owner["name"] for owner in each["metadata"].get("ownerReferences") or ()]
        for each in cluster.all(kinds.PERSISTENT_VOLUME_CLAIMS)
    }
