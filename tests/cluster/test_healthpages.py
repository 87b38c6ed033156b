"""Components are asked themselves: real servers at the addresses of a plan, and places where nobody answers."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from raykube.cluster import addresses, health, healthpages, pki, placement
from raykube.cluster import state as cluster_state
from raykube.cluster.plan import Folders, plan
from raykube.cluster.state import ClusterState, Machine
from raykube.kv.config import Config
from raykube.kv.service import Service as Store
from raykube.rpc.health import HealthServer
from raykube.rpc.tls import Tls

ADDRESS = f"127.{128 + os.getpid() % 100}.{os.getpid() // 100 % 250}.77"  # this test's own, with all ports


@contextmanager
def serving() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread, as components are elsewhere than who asks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def page(stack: ExitStack, loop: asyncio.AbstractEventLoop, port: int, problem: str, tls: Tls | None = None) -> None:
    server = HealthServer(lambda: problem or None, lambda: "", tls)
    asyncio.run_coroutine_threadsafe(server.start(ADDRESS, port), loop).result(10)
    stack.callback(lambda: asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10))


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterState:
    machine = Machine(name="m", address=ADDRESS, index=1, control_plane=True)
    state = ClusterState(
        name="c", id="1" * 32, subnet=0, local=False, machines=[machine], has_networks=True, gcs_address="127.0.0.1:1"
    )
    state.extra_config = {"kube-proxy": {"healthz-bind-address": ""}}
    pki.write_pki(tmp_path / "pki", {"m": [ADDRESS]}, now=time.time(), service_ip="10.96.0.1")
    cluster_state.save(tmp_path, state)
    return state


def test_each_component_is_as_it_says_itself(tmp_path: Path, cluster: ClusterState) -> None:
    folder = tmp_path / "pki"
    certificate = Tls(folder / "scheduler.crt", folder / "scheduler.key", folder / "ca.crt")
    with serving() as loop, ExitStack() as stack, socket.socket() as deaf:
        page(stack, loop, addresses.SCHEDULER_PORT, "", certificate)
        page(stack, loop, addresses.CONTROLLER_MANAGER_PORT, "waiting for the apiservers", certificate)
        page(stack, loop, addresses.POD_NETWORK_HEALTH_PORT, "")
        page(stack, loop, addresses.APISERVER_PORT, "")  # without a certificate: who answers is not the apiserver
        deaf.bind((ADDRESS, addresses.KUBELET_PORT))
        deaf.listen()
        found = {item.component: item.name for item in plan(cluster, tmp_path)}
        said = healthpages.ask(plan(cluster, tmp_path), [folder])
    healthy = {component: said[name].healthy for component, name in found.items()}
    assert healthy == {
        "scheduler": True,
        "controller-manager": False,
        "pod-network": True,
        "apiserver": False,
        "kubelet": False,
        "router": False,
        "kv": False,
        "kube-proxy": None,
    }
    assert said["controller-manager-m"].detail == "waiting for the apiservers"
    assert said["kubelet-m"].detail == "no answer within 3 s"
    assert "no health address" in said["kube-proxy-m"].detail
    for component, reason in (("router", "connection refused"), ("apiserver", "")):
        address = next(item.health_address for item in plan(cluster, tmp_path) if item.component == component)
        assert said[found[component]].detail.startswith(f"no answer: cannot connect to {address}: {reason}")
    assert not any("object at 0x" in one.detail or "ssl:" in one.detail for one in said.values())


def test_without_certificates_of_the_cluster_it_is_unknown(tmp_path: Path, cluster: ClusterState) -> None:
    said = healthpages.ask(plan(cluster, tmp_path), [tmp_path / "elsewhere"])
    assert said["kv-m"].healthy is None
    assert "cannot read" in said["kv-m"].detail
    assert said["pod-network-m"].healthy is False, "it needs none"


@pytest.mark.integration
def test_without_ray_a_real_store_tells_its_role_and_who_is_in_the_cluster(
    tmp_path: Path, cluster: ClusterState
) -> None:
    (item,) = [item for item in plan(cluster, tmp_path) if item.component == "kv"]
    folders = Folders(tmp_path, cluster, item.machine)
    for name in item.certificates:
        folders.pki.mkdir(parents=True, exist_ok=True)
        (folders.pki / name).write_bytes((tmp_path / "pki" / name).read_bytes())
    flags: dict[str, Any] = dict(item.services)["raykube.kv"]
    with serving() as loop:
        store = Store(Config(**flags))
        asyncio.run_coroutine_threadsafe(store.start(), loop).result(30)
        try:
            deadline = time.monotonic() + 30
            while not healthpages.ask([item], [tmp_path / "pki"])["kv-m"].healthy:
                assert time.monotonic() < deadline
            found = health.status(tmp_path)
            assert health.answering(cluster, tmp_path)
        finally:
            asyncio.run_coroutine_threadsafe(store.stop(), loop).result(30)
    assert found is not None
    row = next(row for row in found.components if row.component == "kv")
    assert (row.healthy, row.role, row.address) == (True, "leader", f"{ADDRESS}:2379")
    assert (found.store_wanted, found.store_healthy, found.failures_tolerated) == (1, 1, 0)
    assert "Ray's head at 127.0.0.1:1 does not answer" in found.note
    assert not health.answering(cluster, tmp_path)
    down = health.status(tmp_path)
    assert down is not None
    assert "README" in down.note, "nothing runs: it is not the head alone that is missing"


def test_stopped_is_what_down_left_and_nothing_that_failed(tmp_path: Path, cluster: ClusterState) -> None:
    cluster = cluster.model_copy(update={"local": True, "id": "2" * 32})
    cluster_state.save(tmp_path, cluster)  # its Ray is known, and dead
    failed = health.status(tmp_path)
    assert failed is not None
    assert not failed.stopped
    cluster.gcs_address = ""  # as `down` leaves it
    cluster_state.save(tmp_path, cluster)
    down = health.status(tmp_path)
    assert down is not None
    assert down.stopped
    assert down.failures_tolerated == -1
    with serving() as loop, ExitStack() as stack:
        page(stack, loop, addresses.POD_NETWORK_HEALTH_PORT, "")
        left = health.status(tmp_path)
    assert left is not None
    assert not left.stopped, "something of it runs"


def test_stopped_on_a_ray_of_others_is_that_it_has_no_actor(
    tmp_path: Path, cluster: ClusterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "connected", lambda state, data_dir: nullcontext())
    monkeypatch.setattr(placement, "handed_over", lambda state: None)
    monkeypatch.setattr(placement, "statuses", lambda placements: {})
    for actors in (set[str](), {placement.STORE_PREFIX + "m"}):
        monkeypatch.setattr(placement, "names", lambda actors=actors: actors)
        found = health.status(tmp_path)
        assert found is not None
        assert found.stopped is (not actors)


def test_stopped_without_the_ray_of_others_is_that_nothing_is_left_here(tmp_path: Path, cluster: ClusterState) -> None:
    def stopped() -> bool:
        found = health.status(tmp_path)
        assert found is not None
        return found.stopped

    assert not stopped(), "nothing is known of how it ended"
    folders = Folders(tmp_path, cluster, cluster.machines[0])
    folders.specs.mkdir(parents=True)
    folders.spec("kv").write_text("{}")
    assert not stopped(), "a machine that failed"
    folders.spec("kv").unlink()  # as `down --ray` does, when nothing is left that is to be taken away
    assert stopped()


def test_what_runs_and_is_no_actor_of_this_ray_is_told(tmp_path: Path, cluster: ClusterState) -> None:
    (item,) = [item for item in plan(cluster, tmp_path) if item.component == "scheduler"]
    said = healthpages.Said(True, "", "says that it is healthy")
    assert health._asked_itself(item, said, None).healthy is True
    assert health._asked_itself(item, said, {item.name}).healthy is True
    row = health._asked_itself(item, said, {placement.STORE_PREFIX + "m"})
    assert row.healthy is False
    assert "run 'raykube up'" in row.detail
