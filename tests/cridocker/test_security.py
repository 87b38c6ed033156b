"""What holds on containerd holds on Docker: the same tests, on this room's nodes."""

from pathlib import Path

import pytest

from tests.cridocker.conftest import DockerNode
from tests.kubelet.containerd import test_security
from tests.kubelet.containerd.test_security import *  # noqa: F403

CAP_SYS_RESOURCE = 24


async def test_privileged(node: DockerNode) -> None:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if not effective >> CAP_SYS_RESOURCE & 1:
        pytest.skip("Docker gives a privileged container every capability, and this root lacks CAP_SYS_RESOURCE")
    await test_security.test_privileged(node)
