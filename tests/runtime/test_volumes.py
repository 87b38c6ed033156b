"""Volumes in mount namespaces, as whoever runs the tests and, when that is root, as an ordinary user too."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import cri_pb2
from raykube.rpc import RpcError
from tests.kit.require import missing, require_program
from tests.runtime.conftest import Machine

pytestmark = pytest.mark.integration

AS_ORDINARY_USER = "RAYKUBE_TESTS_AS_ORDINARY_USER"


def volume(machine: Machine, name: str, files: dict[str, str]) -> Path:
    directory = machine.root / "volumes" / name
    directory.mkdir(parents=True)
    for path, text in files.items():
        (directory / path).write_text(text)
    return directory


def mounts(*wanted: tuple[Path, str] | tuple[Path, str, bool]) -> dict[str, Any]:
    return {
        "mounts": [
            cri_pb2.Mount(host_path=str(entry[0]), container_path=entry[1], readonly=entry[2:] == (True,))
            for entry in wanted
        ]
    }


def machine_mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}


async def test_mounts_on_paths_that_the_machine_has_not(machine: Machine) -> None:
    before, root_before = machine_mounts(), set(os.listdir("/"))
    sandbox = await machine.sandbox()
    one = volume(machine, "one", {"a": "1"})
    two = volume(machine, "two", {"b": "2"})
    container = await machine.run(
        sandbox,
        "sh",
        "-c",
        "cat /raykube-data/x/a /etc/raykube-config/deep/b; test -f /etc/passwd && test -d /usr/bin && "
        "test -c /dev/null && test -d /proc/self && touch /raykube-data/x/new && ls /raykube-data",
        **mounts((one, "/raykube-data/x"), (two, "/etc/raykube-config/deep")),
    )
    assert await machine.output(container) == "12x"
    assert (one / "new").exists()
    assert machine_mounts() == before
    assert set(os.listdir("/")) == root_before
    assert not Path("/etc/raykube-config").exists()


async def test_a_volume_over_a_directory_of_the_machine(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    data = volume(machine, "data", {"mine": "yes"})
    # /tmp holds the runtime's own directory, and with it the other volume.
    other = volume(machine, "other", {"b": "2"})
    container = await machine.run(
        sandbox,
        "sh",
        "-c",
        "ls /tmp; cat /tmp/inner/b /raykube/b",
        **mounts((data, "/tmp"), (other, "/tmp/inner"), (other, "/raykube")),
    )
    assert await machine.output(container) == "inner\nmine\n22"


async def test_read_only(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    data = volume(machine, "data", {"mine": "yes"})
    container = await machine.run(
        sandbox, "sh", "-c", "touch /raykube-ro/x 2>/dev/null || echo refused", **mounts((data, "/raykube-ro", True))
    )
    assert await machine.output(container) == "refused"
    assert not (data / "x").exists()


async def test_a_file(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    data = volume(machine, "data", {"file": "text"})
    container = await machine.run(
        sandbox,
        "sh",
        "-c",
        "cat /etc/hosts /raykube/conf.ini; echo ended > /dev/termination-log",
        **mounts(
            (data / "file", "/etc/hosts"), (data / "file", "/raykube/conf.ini"), (data / "file", "/dev/termination-log")
        ),
    )
    assert await machine.output(container) == "texttext"
    assert (data / "file").read_text() == "ended\n"


async def test_live_updates_are_seen(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    data = volume(machine, "data", {"file": "old"})
    container = await machine.run(
        sandbox, "sh", "-c", "until grep -q new /raykube/file; do sleep 0.05; done", **mounts((data, "/raykube"))
    )
    (data / "next").write_text("new")
    (data / "next").rename(data / "file")
    assert (await machine.exited(container)).exit_code == 0


async def test_exec_sees_the_volumes(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    data = volume(machine, "data", {"file": "text"})
    container = await machine.run(sandbox, "sleep", "1000", **mounts((data, "/raykube")))
    request = cri_pb2.ExecSyncRequest(container_id=container, cmd=["cat", "/raykube/file"], timeout=10)
    assert (await machine.cri.ExecSync(request)).stdout == b"text"


async def test_a_read_only_root(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    data = volume(machine, "data", {})
    config = cri_pb2.LinuxContainerConfig(security_context=cri_pb2.LinuxContainerSecurityContext(readonly_rootfs=True))
    container = await machine.run(
        sandbox,
        "sh",
        "-c",
        "touch /tmp/x 2>/dev/null || echo refused; touch /raykube/x && echo taken; echo void > /dev/null",
        linux=config,
        **mounts((data, "/raykube")),
    )
    assert await machine.output(container) == "refused\ntaken"


async def test_users(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    context = cri_pb2.LinuxContainerSecurityContext(
        run_as_user=cri_pb2.Int64Value(value=4321), run_as_group=cri_pb2.Int64Value(value=4322)
    )
    container = await machine.run(
        sandbox, "sh", "-c", "id -u; id -g", linux=cri_pb2.LinuxContainerConfig(security_context=context)
    )
    assert await machine.output(container) == "4321\n4322"


async def test_names_are_resolved_as_the_pod_says(machine: Machine) -> None:
    dns = cri_pb2.DNSConfig(servers=["127.0.0.99"], searches=["ns.svc.local"], options=["ndots:5"])
    sandbox = await machine.sandbox(dns_config=dns)
    container = await machine.run(sandbox, "cat", "/etc/resolv.conf")
    assert await machine.output(container) == "search ns.svc.local\nnameserver 127.0.0.99\noptions ndots:5"


async def test_a_volume_that_cannot_be_made(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    (machine.root / "file").touch()
    container = await machine.create(sandbox, "true", **mounts((machine.root / "file" / "in", "/raykube")))
    with pytest.raises(RpcError, match=r'failed to mkdir ".*/file/in": Not a directory'):
        await machine.start_container(container)


def python_for_everybody() -> str:
    """An interpreter of our version that no private home directory hides."""
    if not Path(sys.executable).resolve().is_relative_to(Path.home()):
        return sys.executable
    return str(require_program(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"))


def test_as_an_ordinary_user() -> None:
    if os.environ.get(AS_ORDINARY_USER):
        pytest.skip("this is the run as an ordinary user")
    if os.getuid() != 0:
        pytest.skip("the other tests ran as an ordinary user already")
    setpriv = require_program("setpriv")
    result = subprocess.run(
        [
            setpriv,
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            python_for_everybody(),
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            str(Path(__file__).parent),
        ],
        env={
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), sysconfig.get_path("purelib")]),
            "PATH": "/usr/bin:/bin",
        }
        | {"HOME": "/nonexistent", AS_ORDINARY_USER: "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def tmpfs(directory: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(directory)], check=True)


@pytest.fixture
def shared(machine: Machine) -> Iterator[Path]:
    """A mount that travels, as most machines' root is."""
    if os.geteuid() != 0:
        missing("needs root, to mount")
    directory = machine.root / "shared"
    directory.mkdir()
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    for kind in ("--make-private", "--make-shared"):
        subprocess.run(["mount", kind, str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--recursive", str(directory)], check=True)


def with_propagation(directory: Path, propagation: Any) -> dict[str, Any]:
    return {
        "mounts": [cri_pb2.Mount(host_path=str(directory), container_path="/raykube-shared", propagation=propagation)]
    }


LOOK = (
    "i=0; while [ ! -e /raykube-shared/in/file ] && [ $i -lt 40 ]; do sleep 0.05; i=$((i+1)); done; "
    "ls /raykube-shared/in"
)


async def test_mounts_of_the_machine_travel_where_they_may(machine: Machine, shared: Path) -> None:
    sandbox = await machine.sandbox()
    (shared / "in").mkdir()
    sees = await machine.run(
        sandbox, "sh", "-c", LOOK, **with_propagation(shared, cri_pb2.PROPAGATION_HOST_TO_CONTAINER)
    )
    does_not = await machine.run(sandbox, "sh", "-c", LOOK, **with_propagation(shared, cri_pb2.PROPAGATION_PRIVATE))
    tmpfs(shared / "in")
    (shared / "in" / "file").touch()
    assert await machine.output(sees) == "file"
    assert await machine.output(does_not) == ""


async def test_mounts_of_a_container_travel_where_they_may(machine: Machine, shared: Path) -> None:
    sandbox = await machine.sandbox()
    (shared / "in").mkdir()
    script = "mount -t tmpfs tmpfs /raykube-shared/in && touch /raykube-shared/in/file"
    for propagation, travels in (
        (cri_pb2.PROPAGATION_PRIVATE, False),
        (cri_pb2.PROPAGATION_HOST_TO_CONTAINER, False),
        (cri_pb2.PROPAGATION_BIDIRECTIONAL, True),
    ):
        container = await machine.run(sandbox, "sh", "-c", script, **with_propagation(shared, propagation))
        assert (await machine.exited(container)).exit_code == 0
        assert (shared / "in" / "file").exists() is travels, propagation


async def test_a_mount_that_cannot_travel_is_refused(machine: Machine) -> None:
    data = volume(machine, "data", {})
    sandbox = await machine.sandbox()
    with pytest.raises(RpcError, match=r"is not a shared mount|that needs root"):
        await machine.run(sandbox, "true", **with_propagation(data, cri_pb2.PROPAGATION_BIDIRECTIONAL))


async def test_read_only_all_the_way_down(machine: Machine, shared: Path) -> None:
    (shared / "in").mkdir()
    tmpfs(shared / "in")
    sandbox = await machine.sandbox()
    for recursive, expected in ((False, "taken"), (True, "refused")):
        wanted = cri_pb2.Mount(
            host_path=str(shared), container_path="/raykube-ro", readonly=True, recursive_read_only=recursive
        )
        script = "touch /raykube-ro/x 2>&- && echo wrong; touch /raykube-ro/in/x 2>&- && echo taken || echo refused"
        container = await machine.run(sandbox, "sh", "-c", script, mounts=[wanted])
        assert await machine.output(container) == expected
    answer = await machine.cri.Status(cri_pb2.StatusRequest())
    assert [one.features.recursive_read_only_mounts for one in answer.runtime_handlers] == [True]


async def test_a_directory_that_the_machine_lacks_is_made(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    place = machine.root / "not" / "there"
    container = await machine.run(sandbox, "touch", "/raykube/x", **mounts((place, "/raykube")))
    assert (await machine.exited(container)).exit_code == 0
    assert (place / "x").exists()


async def test_devices_are_shown_where_they_are_looked_for(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    device = cri_pb2.Device(host_path="/dev/zero", container_path="/dev/raykube-disk", permissions="r")
    container = await machine.run(sandbox, "sh", "-c", "head -c 3 /dev/raykube-disk | od -An -tx1", devices=[device])
    assert (await machine.output(container)).split() == ["00"] * 3
