"""A Ray cluster that somebody else started: nodes on this computer, each with an address of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykube.cluster import ray_nodes

MARKER = "PLAIN_RAY"


class RayCluster:
    """Nodes at 127.SUBNET.0.2 (the head), .3, …"""

    def __init__(self, subnet: int, folder: Path) -> None:
        self.subnet = subnet
        self.folder = folder
        self.gcs_address = f"{self.address(1)}:{ray_nodes.free_port(self.address(1))}"

    def address(self, number: int) -> str:
        return f"127.{self.subnet}.0.{number + 1}"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | ray_nodes.RAY_TUNING | {"RAY_AUTH_MODE": "disabled"}

    def start(self, number: int, *flags: str) -> None:
        """Starts node `number`; 1 is the head."""
        place = self.folder / str(number)
        where = ["--head", f"--port={self.gcs_address.rpartition(':')[2]}", "--include-dashboard=false", "--no-monitor"]
        command = [sys.executable, "-m", "raykube.cluster.ray_start", "start", "--num-cpus=1", f"--temp-dir={place}"]
        command += where if number == 1 else [f"--address={self.gcs_address}"]
        command += [f"--node-ip-address={self.address(number)}", "--include-log-monitor=false", *flags]
        command += [f"--object-store-memory={ray_nodes.OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        command += ["--min-worker-port=20000", "--max-worker-port=29999"]
        done = subprocess.run(
            command,
            env=self.environment | {MARKER: str(place)},
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self, number: int) -> None:
        """Ends all processes of a node at once, whatever they started included."""
        mark = f"{MARKER}={self.folder / str(number)}\0".encode()
        place = f"{self.folder / str(number)}/".encode()
        while pids := [pid for pid in _pids() if _has(pid, mark, place)]:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _has(pid: int, mark: bytes, place: bytes) -> bool:
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        return mark in Path(f"/proc/{pid}/environ").read_bytes() or place in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def ray_cluster(subnet: int, nodes: int) -> Iterator[RayCluster]:
    """A Ray cluster of `nodes` nodes; ended at the end, whatever happened."""
    # Not pytest's folder: Ray puts sockets there, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="plain-ray-"))
    made = RayCluster(subnet, folder)
    try:
        for number in range(1, nodes + 1):
            made.start(number)
        yield made
    finally:
        for place in folder.iterdir():
            made.kill(int(place.name))
        shutil.rmtree(folder, ignore_errors=True)
