"""`raykube machine`: Ray comes back after a crash, and stays away when it was told to end."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from raykube.cluster import departure, ray_nodes
from raykube.cluster.ray_machine import VITAL, Config, command, environment
from tests.kit.controlplane import until

ADDRESS = "127.248.0.2"
Machine = tuple["subprocess.Popen[bytes]", Path, str]


def test_a_head_and_others() -> None:
    head = command(Config(head=True, node_ip_address="10.0.0.1", labels="a=b"))
    assert {"--head", "--port=6379", "--node-ip-address=10.0.0.1", "--labels=a=b", "--no-monitor"} <= set(head)
    other = command(Config(address="10.0.0.1:6379", num_cpus=0))
    assert {"--address=10.0.0.1:6379", "--num-cpus=0"} <= set(other)
    assert "--head" not in other
    launched = command(Config(head=True, autoscaling_config="/x.yaml"))
    assert "--autoscaling-config=/x.yaml" in launched
    assert "--no-monitor" not in launched


def test_the_head_keeps_what_it_knows_and_a_token_is_used_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    token = tmp_path / "token"
    head = Config(head=True, gcs_storage_dir=tmp_path, auth_token_file=token)
    assert environment(head)["RAY_gcs_storage_path"] == str(tmp_path)
    assert environment(head)["RAY_AUTH_MODE"] == "disabled"
    token.write_text("x")
    assert environment(head)["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert "RAY_gcs_storage" not in environment(Config(address="h:1"))


def test_a_head_may_keep_what_it_knows_in_redis(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    head = Config(
        head=True, gcs_storage="redis", redis_address="10.0.0.9:6380", redis_password_file=tmp_path / "password"
    )
    assert environment(head)["RAY_REDIS_ADDRESS"] == "10.0.0.9:6380"
    assert "RAY_gcs_storage" not in environment(head)
    assert "--redis-password=secret" in command(head)
    for flags in ({"gcs_storage": "redis"}, {"redis_address": "h:1"}):
        with pytest.raises(ValidationError, match="go together"):
            Config.model_validate({"head": True} | flags)


@pytest.mark.parametrize("flags", [{}, {"head": True, "address": "h:1"}])
def test_a_machine_has_one_role(flags: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="either --head or --address"):
        Config.model_validate(flags)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A head, kept running; its log, and its GCS's address."""
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        log = Path(folder, "log")
        port = ray_nodes.free_port(ADDRESS)
        process = started(folder, port)
        try:
            yield process, log, f"{ADDRESS}:{port}"
        finally:
            process.terminate()
            process.wait(60)


def started(folder: str, port: int) -> "subprocess.Popen[bytes]":
    flags = ["--head", "--port", str(port), "--node-ip-address", ADDRESS, "--num-cpus", "1"]
    with Path(folder, "log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "raykube", "machine", *flags, "--gcs-storage-dir", f"{folder}/gcs"],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def runs(log: Path, lives: int, timeout_s: float) -> None:
    """Waits for the start of Ray's so many-th life; says what the keeper said when it does not come."""
    try:
        until(f"life {lives} of Ray", lambda: log.read_text().count("Ray runtime started") == lives, timeout_s)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from None


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_ray_is_started_again_after_a_crash_and_not_after_its_end(
    machine: Machine,
) -> None:
    process, log, gcs_address = machine
    runs(log, 1, 120)
    (first,) = departure.raylets(ADDRESS, gcs_address)
    assert departure.raylets(ADDRESS, f"{ADDRESS}:1") == [], "that would be another's"
    os.kill(first, signal.SIGKILL)
    runs(log, 2, 180)
    assert departure.raylets(ADDRESS, gcs_address) not in ([], [first])
    departure.end_ray(ADDRESS, gcs_address)
    assert process.wait(60) == 0
    assert departure.raylets(ADDRESS, gcs_address) == []


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_who_is_started_after_a_kill_takes_over_from_the_killed_one(machine: Machine) -> None:
    """As a service unit does after `kill -9`, or the kernel's OOM killer: it leaves Ray's processes alone."""
    process, log, gcs_address = machine
    runs(log, 1, 120)
    process.kill()
    process.wait(10)
    (first,) = departure.raylets(ADDRESS, gcs_address)
    again = started(str(log.parent), int(gcs_address.rpartition(":")[2]))
    try:
        runs(log, 2, 180)
        (second,) = departure.raylets(ADDRESS, gcs_address)
        assert second != first
    finally:
        again.terminate()
        assert again.wait(60) == 0
    try:
        # Ray's agents may outlive a raylet that ends while they begin; they hold nothing that another Ray wants.
        until("no Ray is left", lambda: not set(VITAL) & set(running(str(log.parent).encode()).values()), 20)
    finally:
        for pid in running(str(log.parent).encode()):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_an_end_in_the_middle_of_the_start_leaves_nothing(machine: Machine) -> None:
    process, log, _ = machine
    folder = str(log.parent).encode()
    until("its first process runs", lambda: any(name == "gcs_server" for name in running(folder).values()), 120)
    assert "Ray runtime started" not in log.read_text()
    process.terminate()
    process.wait(60)
    left = running(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}


def running(folder: bytes) -> dict[int, str]:
    """The processes that have `folder` in their environment: names by id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found
