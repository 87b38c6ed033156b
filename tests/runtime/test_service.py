"""What the runtime's service says and leaves when it cannot start."""

from pathlib import Path

import pytest

from raykube.runtime.config import Config
from raykube.runtime.service import Service


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
