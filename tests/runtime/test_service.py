"""What the runtime's service says and leaves when it cannot start."""

from pathlib import Path

import pytest

from raykube.pb import cri_pb2
from raykube.rpc import RpcError
from raykube.runtime.config import Config
from raykube.runtime.service import Service
from tests.runtime.conftest import Machine


def config(root: Path, **flags: str) -> Config:
    return Config.model_validate({"listen": f"unix://{root}/cri.sock", "root_dir": root / "state"} | flags)


async def test_a_start_that_failed_can_be_tried_again(root: Path) -> None:
    broken = Service(config(root, pod_cidr="nonsense"))
    with pytest.raises(ValueError, match="--pod-cidr: "):
        await broken.start()
    service = Service(config(root))  # `broken` still exists: it must have let go of the directory
    await service.start()
    with pytest.raises(OSError, match="another runtime uses"):
        await Service(config(root)).start()
    assert (root / "cri.sock").exists()
    await service.stop()


async def test_an_address_that_is_no_socket(root: Path) -> None:
    with pytest.raises(ValueError, match="--listen must be a unix socket"):
        await Service(config(root, listen="127.0.0.1:80")).start()
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        await Service(config(root, listen=f"unix://{root}/{'x' * 100}")).start()


async def test_a_record_that_is_damaged_is_named_and_the_rest_runs_on(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    kept = await machine.run(await machine.sandbox("kept"), "sleep", "1000")
    lost = await machine.run(await machine.sandbox("lost"), "sleep", "1000")
    record = machine.root / "state" / "containers" / lost / "container.json"
    whole = record.read_bytes()
    await machine.stop()
    record.write_bytes(whole[: len(whole) // 2])
    await machine.start()
    assert any("ignoring the damaged container record" in one.message and lost in one.message for one in caplog.records)
    assert (await machine.status(kept)).state == cri_pb2.CONTAINER_RUNNING
    with pytest.raises(RpcError, match="not found"):
        await machine.status(lost)
    # Put right, it is there again: what could not be read was left alone.
    await machine.stop()
    record.write_bytes(whole)
    await machine.start()
    assert (await machine.status(lost)).state == cri_pb2.CONTAINER_RUNNING
