"""A place of the machine that does not answer holds up its own pod, and nothing else."""

import asyncio
import threading
from pathlib import Path

import pytest

from raykube.kubelet.volumes import VolumeFailed, hostpath, places
from raykube.kubelet.volumes.places import Places
from tests.kit.waiting import until
from tests.kubelet.conftest import Node, shell


async def test_a_place_that_hangs_is_asked_once_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "TIMEOUT_S", 0.1)
    looked, answers, asked = Places(), threading.Event(), []

    def hangs() -> str:
        asked.append(1)
        answers.wait()
        return "here"

    both = await asyncio.gather(looked.look("/nfs", hangs), looked.look("/nfs", hangs), return_exceptions=True)
    assert [str(one) for one in both] == ["/nfs does not answer"] * 2
    with pytest.raises(VolumeFailed, match="/nfs does not answer"):
        await looked.look("/nfs", hangs)
    assert len(asked) == 2
    assert await looked.look("/other", lambda: 1) == 1
    answers.set()
    await until(lambda: not looked._hanging)
    assert await looked.look("/nfs", hangs) == "here"


async def test_what_the_look_raises_is_raised() -> None:
    def fails(error: Exception) -> None:
        raise error

    for error in (VolumeFailed("no"), OSError(5, "no"), TimeoutError("its own")):
        with pytest.raises(type(error)) as raised:
            await Places().look("/x", lambda error=error: fails(error))  # type: ignore[misc]
        assert raised.value is error


@pytest.mark.integration
async def test_pods_start_beside_one_whose_host_path_hangs(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(places, "TIMEOUT_S", 0.5)
    answers, prepare = threading.Event(), hostpath.prepare

    def prepares(path: str, kind: str) -> None:
        assert answers.wait(20)
        prepare(path, kind)

    monkeypatch.setattr(hostpath, "prepare", prepares)
    volumes = [{"name": "v", "hostPath": {"path": str(tmp_path), "type": "Directory"}}]
    await node.pod("hangs", shell("exec sleep 1000"), volumes=volumes)
    message = f'MountVolume.SetUp failed for volume "v" : {tmp_path} does not answer'
    await node.event("FailedMount", message)
    await node.pod("other", shell("exec sleep 1000"))
    await node.phase("other", "Running")
    answers.set()
    await node.phase("hangs", "Running")
