"""The kubelet manages only what it made: everything else on the same containerd is left as it is."""

from collections.abc import AsyncIterator

import pytest

from raykube.kubelet.core import criconfig
from raykube.kubelet.cri import Cri
from raykube.pb import cri_pb2
from tests.kit.images import BUSYBOX, busybox
from tests.kit.waiting import until
from tests.kubelet.conftest import NODE, PODS, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration


def sandbox(node: ContainerdNode, name: str, labels: dict[str, str]) -> cri_pb2.PodSandboxConfig:
    config = cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-of-{name}"),
        labels=labels,
        log_directory=str(node.root),
        annotations={criconfig.GRACE: "1"},
    )
    config.linux.cgroup_parent = f"{node.containerd.cgroup_root}/{name}"
    config.linux.security_context.namespace_options.network = cri_pb2.NODE
    return config


@pytest.fixture
async def cri(node: ContainerdNode) -> AsyncIterator[Cri]:
    cri = Cri(node.containerd.endpoint, NODE, 30)
    yield cri
    await cri.close()


async def test_strays_are_left_alone_and_orphans_removed(node: ContainerdNode, cri: Cri) -> None:
    containerd = node.containerd
    containerd.ctr("-n", "default", "images", "import", "-", stdin=busybox().archive())
    for namespace in ("default", "k8s.io"):
        group = f"--cgroup={containerd.cgroup_root}/stray-{namespace}"
        containerd.ctr("-n", namespace, "run", "--detach", group, BUSYBOX, f"stray-{namespace}", "sleep", "100000")
    # Pods that somebody else made over CRI: without labels, with those of Kubernetes, and of another node of ours.
    labels = {"io.kubernetes.pod.name": "x", "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "x"}
    made = []
    for name, own in (("plain", {}), ("kubernetes", labels), ("other", labels | {criconfig.NODE: "other-node"})):
        config = sandbox(node, name, own)
        sandbox_id = await cri.run_sandbox(config)
        container = cri_pb2.ContainerConfig(
            metadata=cri_pb2.ContainerMetadata(name="c"),
            image=cri_pb2.ImageSpec(image=BUSYBOX),
            command=["sleep", "100000"],
            labels=own,
            log_path=f"{name}.log",
        )
        container_id = await cri.create_container(sandbox_id, container, config)
        await cri.start_container(container_id)
        made += [(sandbox_id, container_id)]
    strays = {**containerd.tasks(), **containerd.tasks("default")}
    assert len(strays) == 2 + 2 * 3
    orphan = await cri.run_sandbox(sandbox(node, "orphan", labels | {criconfig.NODE: NODE, criconfig.POD_UID: "gone"}))

    # A pod lives and is deleted; the kubelet starts anew, and tidies up.
    await node.pod("own", shell("exec sleep 1000"))
    await node.phase("own", "Running")
    await node.kubelet.stop()
    await node.start_kubelet()
    await until(lambda: orphan not in containerd.tasks(), 30, "the orphan is removed")
    pod = await node.phase("own", "Running")
    assert state(pod)["restartCount"] == 0
    await node.client.delete(PODS, "default", "own", grace_period_s=1)
    await node.gone("own")
    assert {**containerd.tasks(), **containerd.tasks("default")} == strays  # the same processes
    for sandbox_id, _ in made:
        await cri.stop_sandbox(sandbox_id)
        await cri.remove_sandbox(sandbox_id)
    for namespace in ("default", "k8s.io"):
        containerd.ctr("-n", namespace, "tasks", "delete", "--force", f"stray-{namespace}")
