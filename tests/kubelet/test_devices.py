"""Devices on a machine: a driver that is a process of its own, a kubelet, and the process runtime below it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raykube.api import resource_claims
from raykube.api.errors import ApiError
from raykube.kubelet import drivers
from raykube.kubelet.core.deviceclaims import Device, DevicesFailed, Prepared, cdi_names, drivers_of, needed, parse
from raykube.pb import cri_pb2
from raykube.runtime.core.cdi import Unresolvable, inject
from tests.kit.waiting import until
from tests.kubelet.conftest import NODE, PODS, Node, shell, state
from tests.scheduler.device_objects import resource_slice

Object = dict[str, Any]
NAME = "gpu.example.com"
SHOW = 'echo "${DEVICE_OF_SHARED:-none}"; trap "exit 0" TERM; sleep 1000 & wait'


class Driver:
    """The process."""

    def __init__(self, node: Node) -> None:
        self.root = node.root / "kubelet"
        self.cdi = node.root / "cdi"
        self.process: subprocess.Popen[str] | None = None

    async def start(self, version: str = "v1.DRAPlugin") -> None:
        program = Path(__file__).with_name("device_driver.py")
        arguments = [sys.executable, str(program), NAME, str(self.root), str(self.cdi), version]
        self.process = await asyncio.to_thread(
            subprocess.Popen, arguments, stdout=subprocess.PIPE, text=True, cwd=program.parents[2]
        )
        assert self.process.stdout is not None
        assert await asyncio.to_thread(self.process.stdout.readline) == "ready\n"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    @property
    def calls(self) -> list[str]:
        path = self.root / f"{NAME}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def fail(self, text: str) -> None:
        path = self.root / f"{NAME}.fails"
        path.write_text(text) if text else path.unlink()


@pytest.fixture
def driver(node: Node) -> Iterator[Driver]:
    node.runtime._config = node.runtime_config = node.runtime_config.model_copy(
        update={"cdi_spec_dirs": [node.root / "cdi"]}
    )
    node.runtime._runtime._config = node.runtime_config  # type: ignore[union-attr]
    driver = Driver(node)
    yield driver
    driver.stop()


async def user(node: Node, name: str, *containers: Object, claim: str = "shared") -> Object:
    """A pod that names the claim, once the scheduler has reserved it."""
    pod = await node.pod(name, *containers, resourceClaims=[{"name": "gpu", "resourceClaimName": claim}])
    reserve(node, claim, pod)
    return pod


def reserve(node: Node, name: str, *pods: Object, device: str = "gpu-0") -> None:
    key = ("resourceclaims", "default", name)
    old = node.store.objects.get(key) or {"status": {}}
    reserved = [*resource_claims.reserved_for(old)]
    reserved += [resource_claims.consumer(pod["metadata"]["name"], pod["metadata"]["uid"]) for pod in pods]
    result = {"request": "gpu", "driver": NAME, "pool": NODE, "device": device}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}},
        "status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": reserved},
    }
    node.store.put(key, claim)


def using(script: str, name: str = "c", **entry: Any) -> Object:
    return shell(script, name, resources={"claims": [{"name": "gpu"} | entry]})


async def test_a_pod_gets_its_device_and_gives_it_back(node: Node, driver: Driver) -> None:
    await driver.start()
    await until(lambda: driver.calls, what="the driver is registered")
    assert driver.calls == ["registered True"]
    await user(node, "p", using(SHOW), shell(SHOW, "other"))
    await node.phase("p", "Running")
    await until(lambda: node.log("p", "c") == "gpu-0\n", what="the container sees its device")
    assert node.log("p", "other") == "none\n", "it asked for none"
    assert driver.calls[1:] == ["prepare default/shared"]

    # A second pod of the claim: nobody is asked again, and what both used is given back with the last one.
    await user(node, "q", using(SHOW))
    await node.phase("q", "Running")
    await delete(node, "q")
    await node.gone("q")
    assert driver.calls[1:] == ["prepare default/shared"]
    await delete(node, "p")
    await node.gone("p")
    assert driver.calls[1:] == ["prepare default/shared", "unprepare default/shared"]


async def delete(node: Node, name: str) -> None:
    await node.client.delete(PODS, "default", name, grace_period_s=1)


async def test_a_pod_waits_for_its_driver_and_for_what_the_driver_says(node: Node, driver: Driver) -> None:
    await user(node, "p", using(SHOW))
    failed = "Failed to prepare dynamic resources: prepare dynamic resources: "
    await node.event("FailedPrepareDynamicResources", f"{failed}DRA driver {NAME} is not registered")
    driver.fail("no power")
    await driver.start()
    text = f"{failed}NodePrepareResources failed for ResourceClaim shared: no power"
    await node.event("FailedPrepareDynamicResources", text)
    pod = await node.sees("p", lambda pod: pod.get("status", {}).get("phase") == "Pending")
    assert not pod["status"].get("podIP")
    driver.fail("")
    await node.phase("p", "Running")


async def test_a_kubelet_that_starts_again_knows_what_to_give_back(node: Node, driver: Driver) -> None:
    await driver.start()
    pod = await user(node, "p", using(SHOW))
    await node.phase("p", "Running")
    await node.kubelet.stop()
    node.store.put(("pods", "default", "p"), None)
    await node.start_kubelet()
    await until(lambda: driver.calls[-1] == "unprepare default/shared", what="what is left is given back")
    checkpoint = node.root / "kubelet" / "prepared-claims.json"
    await until(lambda: pod["metadata"]["uid"] not in checkpoint.read_text(), what="and not remembered")


async def test_a_pod_stays_until_its_driver_has_taken_the_device_back(node: Node, driver: Driver) -> None:
    await driver.start()
    await user(node, "p", using("exit 0"))
    await node.phase("p", "Running")
    driver.stop()
    (node.root / "kubelet" / "plugins_registry" / f"{NAME}.sock").unlink()
    await delete(node, "p")
    await asyncio.sleep(2)
    assert ("pods", "default", "p") in node.store.objects
    await driver.start()
    await node.gone("p", timeout_s=30)
    assert driver.calls[-1] == "unprepare default/shared"


async def test_nobody_is_told_of_the_end_before_the_device_is_taken_back(node: Node, driver: Driver) -> None:
    await driver.start()
    goes_on = node.root / "goes-on"
    wait = f"until [ -e {goes_on} ]; do sleep 0.02; done"
    for name, script in (("done", wait), ("late", "sleep 1000")):
        claims = [{"name": "gpu", "resourceClaimName": name}]
        pod = await node.pod(name, using(script), resourceClaims=claims, restartPolicy="Never")
        reserve(node, name, pod)
        await node.phase(name, "Running")
    driver.stop()
    (node.root / "kubelet" / "plugins_registry" / f"{NAME}.sock").unlink()
    await until(lambda: node.parts.devices.drivers.get(NAME) is None, what="the driver is gone")
    goes_on.touch()
    late = node.store.objects["pods", "default", "late"]
    node.store.put(("pods", "default", "late"), late | {"spec": late["spec"] | {"activeDeadlineSeconds": 1}})
    for name in ("done", "late"):
        await node.sees(name, lambda pod: "terminated" in state(pod)["state"])
    await asyncio.sleep(1)
    for name in ("done", "late"):
        status = node.store.objects["pods", "default", name]["status"]
        assert status["phase"] == "Running" and "reason" not in status
    await driver.start()
    await node.phase("done", "Succeeded")
    assert (await node.phase("late", "Failed"))["status"]["reason"] == "DeadlineExceeded"
    # The kubelet may ask before it has told the driver that it is registered.
    asked = [call for call in driver.calls if call.startswith("unprepare")]
    assert sorted(asked) == ["unprepare default/done", "unprepare default/late"]


async def test_a_claim_with_other_devices_is_prepared_anew(node: Node, driver: Driver) -> None:
    await driver.start()
    await until(lambda: driver.calls, what="the driver is registered")
    await user(node, "p", using('trap "" TERM; while :; do sleep 0.1; done'))
    await node.phase("p", "Running")
    node.store.put(("pods", "default", "p"), None)  # by force: what it had is given to others while it still runs
    node.store.put(("resourceclaims", "default", "shared"), None)
    pod = await node.pod("q", using(SHOW), resourceClaims=[{"name": "gpu", "resourceClaimName": "shared"}])
    reserve(node, "shared", pod, device="gpu-1")
    await node.phase("q", "Running")
    assert driver.calls[1:] == ["prepare default/shared", "unprepare default/shared", "prepare default/shared"]
    failed = "Failed to prepare dynamic resources: prepare dynamic resources: "
    await node.event(
        "FailedPrepareDynamicResources",
        f"{failed}the devices that ResourceClaim shared had before are not given back yet",
    )


async def test_what_was_asked_for_in_vain_is_taken_back_where_the_claim_has_other_devices(
    node: Node, driver: Driver
) -> None:
    await driver.start()
    await until(lambda: driver.calls, what="the driver is registered")
    driver.fail("no power")
    pod = await user(node, "p", using(SHOW))
    await node.event("FailedPrepareDynamicResources", "Failed to prepare dynamic resources: ")
    node.store.put(("resourceclaims", "default", "shared"), None)
    reserve(node, "shared", pod, device="gpu-1")
    driver.fail("")
    await node.phase("p", "Running")
    assert driver.calls[-2:] == ["unprepare default/shared", "prepare default/shared"]


async def test_slices_of_a_driver_that_is_gone_are_deleted(
    node: Node, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offer(name: str, its_driver: str, place: str = NODE) -> None:
        node.store.put(("resourceslices", "", name), resource_slice(name, place, driver=its_driver))

    offer("mine", NAME)
    offer("old", "old.example.com")
    offer("far", "old.example.com", "n2")
    offer("left", "left.example.com")
    node.parts.devices.drivers._gone["left.example.com"] = time.monotonic() + 60  # which is not long ago
    await driver.start()
    await until(lambda: driver.calls, what="the driver is registered")
    monkeypatch.setattr(drivers, "GONE_S", 1.0)

    def left() -> set[str]:
        return {key[2] for key in node.store.objects if key[0] == "resourceslices"}

    await until(lambda: left() == {"mine", "left", "far"}, what="what is left of an old driver is gone")
    offer("new", "new.example.com")  # of one that begins, or begins again
    failures = [ApiError(500, "InternalError", "for a moment")]
    listed = node.parts.devices.drivers._client.list

    async def list_slices(*args: Any, **more: Any) -> Any:
        if failures and args[0] == drivers.SLICES:
            raise failures.pop()
        return await listed(*args, **more)

    monkeypatch.setattr(node.parts.devices.drivers._client, "list", list_slices)
    driver.stop()
    (node.root / "kubelet" / "plugins_registry" / f"{NAME}.sock").unlink()
    await until(lambda: left() == {"left", "new", "far"}, what="so is what the driver offered")
    assert not failures


async def test_a_driver_of_an_older_version_serves_too(node: Node, driver: Driver) -> None:
    await driver.start("v1beta1.DRAPlugin")
    await until(lambda: driver.calls, what="the driver is registered")
    await user(node, "p", using(SHOW))
    await node.phase("p", "Running")
    assert driver.calls == ["registered True", "prepare default/shared"]


async def test_a_driver_of_a_version_that_nobody_speaks_is_told_so(node: Node, driver: Driver) -> None:
    await driver.start("v9.DRAPlugin")
    await until(lambda: driver.calls, what="it is told")
    assert driver.calls[0].startswith("registered False none of the versions [v9.DRAPlugin] is supported")
    assert node.parts.devices.drivers.get(NAME) is None


async def test_who_is_no_driver_is_told_so(node: Node) -> None:
    directory = node.root / "kubelet" / "plugins_registry"
    assert directory.is_dir()
    (directory / "file.sock").write_text("no socket")
    await asyncio.sleep(1.5)
    assert node.parts.devices.drivers.get("file") is None and node.kubelet.status()["healthy"]


# -- without a machine


def pod_with(*entries: Object, **status: Any) -> Object:
    container = {"name": "c", "resources": {"claims": list(entries)}}
    claims = [{"name": "gpu", "resourceClaimTemplateName": "t"}]
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [container], "resourceClaims": claims},
        "status": status,
    }


def test_what_a_pod_may_use() -> None:
    told = {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu"}]}
    with pytest.raises(DevicesFailed, match='pod "n/p": ResourceClaim not created yet'):
        needed(pod_with({"name": "gpu"}))
    assert needed(pod_with()) == [], "no container uses it"
    pod = pod_with({"name": "gpu"}, **told)
    (one,) = needed(pod)
    meta: Object = {"name": "p-gpu", "namespace": "n", "uid": "c"}
    claim: Object = {"metadata": meta, "status": {}}
    with pytest.raises(DevicesFailed, match="pod is not owner"):
        drivers_of(pod, one, claim)
    meta["ownerReferences"] = [{"controller": True, "uid": "u"}]
    with pytest.raises(DevicesFailed, match="ResourceClaim p-gpu not allocated"):
        drivers_of(pod, one, claim)
    claim["status"]["allocation"] = {"devices": {"results": [{"driver": "a"}, {"driver": "b"}]}}
    with pytest.raises(DevicesFailed, match=r"pod p \(u\) is not allowed to use ResourceClaim p-gpu \(c\)"):
        drivers_of(pod, one, claim)
    claim["status"]["reservedFor"] = [{"uid": "u"}]
    assert drivers_of(pod, one, claim) == {"a", "b"}


def test_a_container_gets_the_devices_of_the_requests_that_it_names() -> None:
    devices = (Device(("big/a",), ("x=1",)), Device(("small",), ("x=2", "x=3")), Device((), ("x=4",)))
    prepared = {"p-gpu": Prepared("c", "n", "p-gpu", "d", {"u"}, {"d": devices})}
    told = {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu"}]}

    def names(*entries: Object) -> list[str]:
        pod = pod_with(*entries, **told)
        return cdi_names(pod, pod["spec"]["containers"][0], prepared)

    assert names() == []
    assert names({"name": "gpu"}) == ["x=1", "x=2", "x=3", "x=4"]
    assert names({"name": "gpu", "request": "big"}) == ["x=1", "x=4"]
    assert names({"name": "gpu", "request": "small"}, {"name": "gpu", "request": "big"}) == ["x=2", "x=3", "x=4", "x=1"]


def test_what_was_prepared_is_read_as_it_was_written() -> None:
    one = Prepared("c", "n", "p-gpu", "d", {"u", "v"}, {"d": (Device(("a",), ("x=1",)),), "e": None})
    assert parse({"claims": [one.to_object()]}) == [one] and not one.is_ready
    for damaged in (None, [], {}, {"claims": [{}]}, {"claims": None}):
        with pytest.raises(ValueError, match="no record of prepared claims"):
            parse(damaged)


def test_what_a_spec_says_of_a_device_is_added_to_the_container() -> None:
    edits = {
        "env": ["A=1", "B=x=y"],
        "deviceNodes": [{"path": "/dev/gpu0"}, {"path": "/dev/gpu", "hostPath": "/dev/gpu1", "permissions": "r"}],
        "mounts": [{"hostPath": "/opt/lib", "containerPath": "/lib/gpu", "options": ["ro", "bind"]}],
    }
    everywhere = {"env": ["ALL=1"]}
    spec = {
        "kind": "example.com/gpu",
        "containerEdits": everywhere,
        "devices": [{"name": "0", "containerEdits": edits}],
    }
    old = {"kind": "example.com/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["A=old"]}}]}
    config = cri_pb2.ContainerConfig(CDI_devices=[cri_pb2.CDIDevice(name="example.com/gpu=0")])
    inject(config, [old, spec])
    assert [(one.key, one.value) for one in config.envs] == [("ALL", b"1"), ("A", b"1"), ("B", b"x=y")]
    assert [(one.container_path, one.host_path) for one in config.devices] == [("/dev/gpu", "/dev/gpu1")]
    assert [(one.container_path, one.host_path, one.readonly) for one in config.mounts] == [
        ("/lib/gpu", "/opt/lib", True)
    ]
    config = cri_pb2.ContainerConfig(CDI_devices=[cri_pb2.CDIDevice(name="example.com/gpu=1")])
    with pytest.raises(Unresolvable, match=r"unresolvable CDI devices example\.com/gpu=1"):
        inject(config, [spec])
    hooked = {"kind": "k/x", "devices": [{"name": "0", "containerEdits": {"hooks": [{"path": "/x"}]}}]}
    with pytest.raises(Unresolvable, match="hooks"):
        inject(cri_pb2.ContainerConfig(CDI_devices=[cri_pb2.CDIDevice(name="k/x=0")]), [hooked])
