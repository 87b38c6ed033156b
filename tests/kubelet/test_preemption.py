"""Room for critical pods: who leaves, and how it is told."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from raykube.kubelet.core.preemption import deficits, victims
from tests.kit.waiting import until
from tests.kubelet.conftest import Object, running_node, shell

CRITICAL = 2_000_000_000


def pod(name: str, cpu: str = "", limit: bool = False, priority: int = 0) -> Object:
    """Best effort without `cpu`; guaranteed with `limit`, else burstable."""
    resources: dict[str, Any] = {"requests": {"cpu": cpu, "memory": "100Mi"}} if cpu else {}
    if limit:
        resources["limits"] = {"cpu": cpu, "memory": "100Mi"}
    spec = {"containers": [{"name": "c", "resources": resources}], "priority": priority}
    return {"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": spec}


def node(cpu: str, pods: int = 110) -> Object:
    return {"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": str(pods)}}}


def names(found: list[Object]) -> list[str]:
    return [one["metadata"]["name"] for one in found]


def test_what_is_missing() -> None:
    others = [pod("a", "1500m"), pod("b")]
    assert deficits(pod("new", "1"), others, node("2", pods=2)) == {"cpu": 0.5, "pods": 1}
    assert deficits(pod("new", "500m"), others, node("2")) == {}


@pytest.mark.parametrize(
    ("new", "others", "capacity", "expected"),
    [
        # nobody leaves for an ordinary pod, nor where all of them would not be enough, nor where it fits
        (pod("new", "1", priority=5), [pod("a", "1")], node("1"), []),
        (pod("new", "2", priority=CRITICAL), [pod("a", "1")], node("1"), []),
        (pod("new", "1", priority=CRITICAL), [pod("a", "1")], node("2"), []),
        # nor does another critical pod of the same priority
        (pod("new", "1", priority=CRITICAL), [pod("a", "1", priority=CRITICAL)], node("1"), []),
        (pod("new", "1", priority=CRITICAL + 1), [pod("a", "1", priority=CRITICAL)], node("1"), ["a"]),
        # the one that is nearest to what is missing; of equals the smaller
        (pod("new", "1", priority=CRITICAL), [pod("a", "500m"), pod("b", "2"), pod("c", "1")], node("3500m"), ["c"]),
        # burstable ones before guaranteed ones
        (pod("new", "1", priority=CRITICAL), [pod("a", "1", limit=True), pod("b", "1")], node("2"), ["b"]),
        (pod("new", "2", priority=CRITICAL), [pod("a", "1", limit=True), pod("b", "1")], node("2"), ["a", "b"]),
        # a place for a pod is what best-effort ones have
        (pod("new", priority=CRITICAL), [pod("a", "1"), pod("b")], node("2", pods=2), ["b"]),
    ],
)
def test_who_leaves(new: Object, others: list[Object], capacity: Object, expected: list[str]) -> None:
    assert names(victims(new, others, capacity)) == expected


@pytest.mark.integration
async def test_a_static_pod_takes_the_place_of_another(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    async with running_node(pod_manifest_path=manifests, capacity="cpu=1") as machine:
        asks = {"requests": {"cpu": "600m"}}
        await machine.pod("big", shell("exec sleep 1000", resources=asks), terminationGracePeriodSeconds=1)
        await machine.pod("free", shell("exec sleep 1000"))
        for name in ("big", "free"):
            await machine.phase(name, "Running")
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "vital"},
            "spec": {"containers": [shell("exec sleep 1000", image="any", resources=asks)]},
        }
        (manifests / "vital.yaml").write_bytes(orjson.dumps(manifest))
        status = (await machine.phase("big", "Failed"))["status"]
        assert (status["reason"], status["message"]) == ("Preempting", "Preempted in order to admit critical pod")
        (target,) = [one for one in status["conditions"] if one["type"] == "DisruptionTarget"]
        assert (target["reason"], target["message"]) == (
            "TerminationByKubelet",
            "Pod was preempted by Kubelet to accommodate a critical pod.",
        )
        await machine.event("Preempting", "Preempted in order to admit critical pod")
        await until(lambda: ("pods", "default", "vital-n1") in machine.store.objects, 20)
        await machine.phase("vital-n1", "Running")
        await machine.phase("free", "Running")
        (manifests / "vital.yaml").unlink()
        await machine.gone("vital-n1")


@pytest.mark.integration
async def test_a_static_pod_takes_the_place_of_another_while_no_apiserver_answers(tmp_path: Path) -> None:
    """It may be the apiserver itself."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    async with running_node(pod_manifest_path=manifests, capacity="cpu=1") as machine:
        asks = {"requests": {"cpu": "600m"}}
        await machine.pod("big", shell("exec sleep 1000", resources=asks), terminationGracePeriodSeconds=1)
        await machine.phase("big", "Running")
        await machine.api.stop()
        try:
            came = tmp_path / "came"
            manifest = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "vital"},
                "spec": {
                    "containers": [
                        shell(
                            "touch /out/came; exec sleep 1000",
                            image="any",
                            resources=asks,
                            volumeMounts=[{"name": "out", "mountPath": "/out"}],
                        )
                    ],
                    "volumes": [{"name": "out", "hostPath": {"path": str(tmp_path)}}],
                },
            }
            (manifests / "vital.yaml").write_bytes(orjson.dumps(manifest))
            await until(came.exists, 60)
        finally:
            await machine.api.start(int(machine.address.rpartition(":")[2]))
        status = (await machine.phase("big", "Failed", 60))["status"]
        assert status["reason"] == "Preempting"
        await until(lambda: ("pods", "default", "vital-n1") in machine.store.objects, 60)
        await machine.phase("vital-n1", "Running", 60)
        (manifests / "vital.yaml").unlink()
        await machine.gone("vital-n1", 60)
