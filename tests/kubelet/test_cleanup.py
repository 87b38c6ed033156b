"""Periodic clean-up: what is new stays, what cannot go keeps nothing else, logs are rotated whatever is missing."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raykube.kubelet.cgroups import MOUNT, PodCgroups, unified_hierarchy
from raykube.kubelet.core import criconfig
from raykube.kubelet.cri import Cri
from raykube.kubelet.volumes import mounts
from raykube.rpc import Code, RpcError
from tests.kit.require import missing
from tests.kit.waiting import until
from tests.kubelet.conftest import Node, running_node, shell, state

pytestmark = pytest.mark.integration
Object = dict[str, Any]


def uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


async def test_a_pod_that_comes_while_an_orphan_is_stopped_keeps_its_files(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "raykube.kubelet.cleanup")
    directories = node.root / "kubelet" / "pods"
    orphan = uid(await node.pod("orphan", shell("trap '' TERM; while :; do sleep 0.1; done")))
    await node.phase("orphan", "Running")
    await node.kubelet.stop()
    del node.store.objects["pods", "default", "orphan"]
    await node.start_kubelet()
    await until(lambda: "removing the orphaned pod orphan" in caplog.text, what="the clean-up begins")
    mount = {"name": "v", "mountPath": "/v"}
    came = uid(
        await node.pod(
            "came",
            shell("echo x > /v/file; exec sleep 1000", volumeMounts=[mount]),
            volumes=[{"name": "v", "emptyDir": {}}],
        )
    )
    await node.phase("came", "Running")
    file = directories / came / "volumes" / "kubernetes.io~empty-dir" / "v" / "file"
    await until(file.exists, what="the pod writes")
    assert (directories / orphan).exists()  # its grace has not ended
    log = node.root / "kubelet" / "logs" / "pods" / f"default_orphan_{orphan}"
    await until(lambda: not log.exists(), 30, "the orphan is removed")
    assert not (directories / orphan).exists()
    assert file.exists()
    assert node.log("came") == ""  # is there


@pytest.mark.parametrize("flags", [{"maximum_dead_containers_per_container": 0, "minimum_container_ttl_duration": 0.0}])
async def test_what_cannot_be_removed_ends_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.kubelet.cleanup.PERIOD_S", 0.1)
    for name in "abc":
        wait = f"until test -e {node.root}/go; do sleep 0.05; done; mkdir {node.root}/{name} && exit 1"
        pod = await node.pod(name, shell(f"test -e {node.root}/{name} || {{ {wait}; }}; exec sleep 1000"))
        await node.phase(name, "Running")
        if name != "c":  # what no file is cannot be unlinked
            (node.root / "kubelet" / "logs" / "pods" / f"default_{name}_{uid(pod)}" / "c" / "0.log.d").mkdir()
    (node.root / "go").touch()
    for name in "abc":
        await node.sees(name, lambda pod: state(pod)["restartCount"] == 1 and state(pod)["ready"])
    cri = node.parts.cri

    async def runs() -> int:
        return len(await cri.containers())

    while await runs() > 3:
        assert node.kubelet._failed is not None
        assert not node.kubelet._failed.done()
        await asyncio.sleep(0.02)
    assert not node.kubelet._failed.done()
    assert not list((node.root / "kubelet" / "logs" / "pods").glob("default_c_*/c/0.log*"))


async def test_logs_are_rotated_while_a_source_of_pods_is_silent(tmp_path: Path) -> None:
    flags = {"container_log_max_size": "1Ki", "container_log_monitor_interval": 0.1}
    async with running_node(pod_manifest_path=tmp_path / "absent", **flags) as node:
        await node.pod("talks", shell("while :; do echo many words; sleep 0.01; done"))
        await node.phase("talks", "Running")
        (log,) = (node.root / "kubelet" / "logs" / "pods").glob("default_talks_*/c/0.log")
        await until(lambda: len(list(log.parent.iterdir())) > 1, 20, "the log is rotated")


async def test_a_rotation_that_was_cut_short_is_finished(node: Node) -> None:
    """A kubelet that is killed between the two steps of a rotation leaves a container that writes to the old file."""
    await node.pod("talks", shell("while :; do echo many words; sleep 0.01; done"))
    await node.phase("talks", "Running")
    (log,) = (node.root / "kubelet" / "logs" / "pods").glob("default_talks_*/c/0.log")
    log.rename(f"{log}.20260102-030405")
    await node.parts._cleanup.rotate()
    await until(lambda: log.exists() and "many words" in log.read_text(), what="the log is written to again")


@pytest.fixture
def groups() -> Iterator[tuple[PodCgroups, list[Path]]]:
    """A kubelet's control groups in a place of the test's own, and the directories of that place."""
    name = f"rk-cleanup-{os.getpid()}"
    tops = [MOUNT] if unified_hierarchy() else [MOUNT / "cpu", MOUNT / "memory"]
    places = [top / name for top in tops]
    try:
        for place in places:
            (place / "kubepods" / "besteffort").mkdir(parents=True)
    except OSError as error:
        missing(f"may make no control groups: {error}")
    yield PodCgroups(f"/{name}", "cgroupfs"), places
    for place in places:
        for path, _, _ in os.walk(place, topdown=False):
            os.rmdir(path)


def test_control_groups_of_another_kubelet_stay(groups: tuple[PodCgroups, list[Path]]) -> None:
    cgroups, places = groups
    for place in places:
        for level, name in (
            ("", "podours"),
            ("besteffort", "podtheirs"),
            ("besteffort", "podback"),
            ("", "podtheirs2"),
        ):
            (place / "kubepods" / level / name).mkdir()
    cgroups.remove_orphans({"ours", "back"}, {"back"})
    for place in places:
        assert not (place / "kubepods" / "podours").exists()
        for path in ("besteffort/podtheirs", "besteffort/podback", "podtheirs2"):
            assert (place / "kubepods" / path).exists()


def test_a_group_that_is_busy_goes_later(groups: tuple[PodCgroups, list[Path]]) -> None:
    cgroups, places = groups
    pod = {"metadata": {"uid": "u", "name": "p"}, "spec": {"containers": [{"name": "c"}]}}
    for place in places:
        (place / "kubepods" / "besteffort" / "podu").mkdir()
    child = subprocess.Popen(["sleep", "1000"])
    try:
        (places[0] / "kubepods" / "besteffort" / "podu" / "cgroup.procs").write_text(str(child.pid))
        cgroups.remove(pod)
        cgroups.remove_orphans(set(), set())
        assert (places[0] / "kubepods" / "besteffort" / "podu").exists()
    finally:
        child.kill()
        child.wait()
    cgroups.remove_orphans(set(), set())
    assert not (places[0] / "kubepods" / "besteffort" / "podu").exists()


def test_a_weight_that_somebody_set_stays(groups: tuple[PodCgroups, list[Path]]) -> None:
    cgroups, places = groups
    pod = {"metadata": {"uid": "u", "name": "p"}, "spec": {"containers": [{"name": "c"}]}}
    weight = places[0] / "kubepods" / "besteffort" / ("cpu.weight" if unified_hierarchy() else "cpu.shares")
    if not weight.exists():
        missing("the cpu controller is not delegated to here")
    cgroups.apply(pod)
    assert weight.read_text().strip() in ("1", "2")  # nobody had
    weight.write_text("77")
    cgroups.apply(pod)
    assert weight.read_text().strip() == "77"


def ends_without(monkeypatch: pytest.MonkeyPatch, method: str, place: str) -> None:
    """From now on, this call of CRI times out for what is named so."""
    call = getattr(Cri, method)

    async def times_out(cri: Cri, item_id: str, *more: Any) -> None:
        if item_id == place:
            raise RpcError(Code.DEADLINE_EXCEEDED, "too slow")
        await call(cri, item_id, *more)

    monkeypatch.setattr(Cri, method, times_out)


async def two_pods(node: Node) -> list[Path]:
    """Two pods that run; the mounts of theirs."""
    if not mounts.allowed():
        missing("needs root, to mount")
    places = []
    for name in ("a", "b"):
        volume = {"name": "v", "emptyDir": {"medium": "Memory"}}
        spec = shell("exec sleep 1000", volumeMounts=[{"name": "v", "mountPath": "/v"}])
        pod = await node.pod(name, spec, volumes=[volume])
        await node.phase(name, "Running")
        places.append(node.root / "kubelet" / "pods" / uid(pod) / "volumes" / "kubernetes.io~empty-dir" / "v")
    assert all(map(os.path.ismount, places))
    return places


async def test_a_node_that_goes_ends_the_sandbox_of_a_container_that_does_not_stop(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = await two_pods(node)
    cri = node.parts.cri
    stuck = next(item for item in await cri.containers() if item.labels[criconfig.POD_NAME] == "a")
    await node.kubelet.stop()
    ends_without(monkeypatch, "stop_container", stuck.id)
    await node.kubelet.clear()
    assert not list(node.runtime._runtime.sandboxes())  # type: ignore[union-attr]
    assert not any(map(os.path.ismount, places))


async def test_a_node_that_goes_leaves_the_volumes_of_a_pod_that_runs_on(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = await two_pods(node)
    cri = node.parts.cri
    stuck = next(item for item in await cri.sandboxes() if item.labels[criconfig.POD_NAME] == "a")
    await node.kubelet.stop()
    ends_without(monkeypatch, "stop_sandbox", stuck.id)
    with pytest.raises(RuntimeError, match=r"1 pods may still run: a: .*too slow"):
        await node.kubelet.clear()
    assert [item.id for item in node.runtime._runtime.sandboxes()] == [stuck.id]  # type: ignore[union-attr]
    assert [os.path.ismount(place) for place in places] == [True, False]
