"""The server's own calls, as a kubelet makes them, on a real dockerd."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from raykube.kubelet.cri import Cri
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from tests.kit import images
from tests.kit.docker import Docker
from tests.kit.images import BUSYBOX
from tests.kit.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def cri(docker: Docker) -> AsyncIterator[Cri]:
    cri = Cri(docker.endpoint, "n1", 30)
    yield cri
    await cri.close()


def sandbox_config(docker: Docker, name: str) -> cri_pb2.PodSandboxConfig:
    config = cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
        labels={"io.raykube.node": "n1", "io.kubernetes.pod.uid": f"uid-{name}"},
        log_directory=str(docker.folder / "logs" / name),
    )
    config.linux.cgroup_parent = f"{docker.cgroup_root}/{name}"
    return config


async def started(cri: Cri, sandbox: str, config: cri_pb2.PodSandboxConfig, script: str) -> str:
    container = cri_pb2.ContainerConfig(
        metadata=cri_pb2.ContainerMetadata(name="c"),
        image=cri_pb2.ImageSpec(image=BUSYBOX),
        command=["sh", "-c", script],
        labels=dict(config.labels),
        log_path="c/0.log",
    )
    container_id = await cri.create_container(sandbox, container, config)
    await cri.start_container(container_id)
    return container_id


async def test_a_command_that_takes_too_long_is_killed(cri: Cri, docker: Docker) -> None:
    config = sandbox_config(docker, "slow")
    sandbox = await cri.run_sandbox(config)
    container = await started(cri, sandbox, config, "exec sleep 1000")
    assert await cri.execute(container, ["sh", "-c", "echo out; echo err >&2; exit 5"], 10) == (5, b"out\nerr\n")
    with pytest.raises(RpcError) as refused:
        await cri.execute(container, ["sleep", "77"], 1)
    assert refused.value.code is Code.DEADLINE_EXCEEDED
    assert "timed out after 1s" in refused.value.message
    await until(lambda: "sleep 77" not in docker.docker("exec", container, "ps"))
    (stats,) = await cri.sandbox_stats()
    assert stats.linux.containers[0].memory.working_set_bytes.value > 0
    assert stats.linux.network.default_interface.name == "eth0"
    await cri.stop_sandbox(sandbox)
    await cri.stop_sandbox(sandbox)
    with pytest.raises(RpcError) as refused:
        await cri.execute(container, ["true"], 1)
    assert refused.value.code is Code.FAILED_PRECONDITION
    await cri.remove_sandbox(sandbox)
    await cri.remove_sandbox(sandbox)
    assert docker.docker("ps", "--all", "--quiet") == ""


async def test_a_log_is_rotated_and_nothing_is_lost(cri: Cri, docker: Docker) -> None:
    config = sandbox_config(docker, "rotated")
    sandbox = await cri.run_sandbox(config)
    script = "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.05; done; exec sleep 1000"
    container = await started(cri, sandbox, config, script)
    log = Path(config.log_directory) / "c" / "0.log"
    await until(lambda: log.exists() and log.stat().st_size > 0)
    log.rename(log.with_suffix(".old"))
    await cri.reopen_log(container)
    docker.kill_server()  # whose new file may still be empty
    docker.start_server()

    def texts() -> list[str]:
        lines = (log.with_suffix(".old").read_text() + log.read_text()).splitlines()
        return [line.split(" ", 3)[3] for line in lines]

    await until(lambda: texts()[-1:] == ["39"], 20)
    assert texts() == [str(number) for number in range(40)]
    await cri.remove_sandbox(sandbox)


async def test_what_is_not_ours_cannot_be_touched(cri: Cri, docker: Docker) -> None:
    stray = docker.docker("run", "--detach", "--net=none", "busybox:1.36", "sleep", "1000").strip()
    assert await cri.sandboxes() == await cri.containers() == []
    await cri.stop_container(stray, 0)
    await cri.stop_sandbox(stray)
    await cri.remove_sandbox(stray)
    await cri.remove_container(stray)
    assert stray in docker.tasks()
    docker.docker("rm", "--force", stray)


async def test_images(cri: Cri, docker: Docker) -> None:
    image = images.build("example.test/gone:1", user="1000")
    docker.import_image(image)
    docker.docker("tag", image.name, "example.test/also:2")
    found = await cri.image(cri_pb2.ImageSpec(image=image.name))
    assert found is not None
    assert (found.id, found.uid.value) == (image.config_digest, 1000)
    assert sorted(found.repo_tags) == ["example.test/also:2", image.name]
    await cri.remove_image(found.id)
    assert await cri.image(cri_pb2.ImageSpec(image=image.name)) is None
    assert [one.pinned for one in await cri.images() if images.PAUSE in one.repo_tags] == [True]
    with pytest.raises(RpcError, match="dial tcp"):
        await cri.pull_image(cri_pb2.ImageSpec(image="127.0.0.1:1/none:1"), cri_pb2.PodSandboxConfig(), None)
    assert await cri.image_mountpoint() == str(docker.folder / "root")
