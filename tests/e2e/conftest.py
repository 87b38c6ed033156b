"""A cluster of two machines, of plain processes, for all of these tests; every test file has a namespace of its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.user import User
from tests.kit.controlplane import ControlPlane
from tests.kit.require import require_program

COMPONENTS = ("kv", "apiserver", "controller-manager", "scheduler", "kubelet", "kube-proxy")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    require_program("kubectl")
    # Volumes follow their ConfigMaps at this pace; a minute is the default.
    config = {"kubelet": {"sync-frequency": "5s"}}
    with ControlPlane(tmp_path_factory.mktemp("plane"), machines=2, extra_config=config) as running:
        running.start(*COMPONENTS)
        yield running


@pytest.fixture(scope="module")
def user(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[User]:
    namespace = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    plane.kubectl("create", "namespace", namespace)
    someone = User(plane, namespace)
    someone.wait("create", "serviceaccount/default")
    yield someone
    plane.kubectl("delete", "namespace", namespace, "--wait=false")
