"""Ray on hosts, as an operator's start commands run it: token authentication, raykube's tuning, started at each boot.

A raylet that was declared dead ends when it hears of it, so each is started again in a loop, as systemd would. The
head keeps its state on its disk, so that it comes back as the same Ray.
"""

import secrets
import shlex
from collections.abc import Mapping

from raykube.cluster.ray_nodes import OBJECT_STORE_BYTES, RAY_TUNING, WORKER_PORTS
from tests.testbed.host import Host

PORT = 6379
TOKEN = "/root/.ray-token"
ENVIRONMENT: dict[str, str] = RAY_TUNING | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": TOKEN}
HEAD_STORAGE: dict[str, str] = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": "/var/lib/ray-gcs"}
START_TIMEOUT_S = 120


def address(head: Host) -> str:
    """What `raykube up --address` takes."""
    return f"{head.address}:{PORT}"


def start(head: Host, *workers: Host) -> None:
    """Starts a Ray node on each of the running hosts, and returns when the head knows all of them."""
    token = secrets.token_hex(32)
    for host in (head, *workers):
        path = host.disk / "root" / TOKEN.removeprefix("/root/")
        path.touch(mode=0o600)
        path.write_text(token)
        role = ["--head", f"--port={PORT}", "--include-dashboard=false", "--no-monitor"]
        if host is not head:
            role = [f"--address={address(head)}"]
        _start_node(host, role, ENVIRONMENT | HEAD_STORAGE if host is head else ENVIRONMENT)
    wait(head, 1 + len(workers))


def _start_node(host: Host, role: list[str], environment: Mapping[str, str]) -> None:
    command = [
        *("env", *(f"{name}={value}" for name, value in environment.items())),
        *("python", "-m", "raykube.cluster.ray_start", "start", "--block", *role),
        f"--node-ip-address={host.address}",
        f"--node-name={host.name}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--num-cpus=1",
        "--include-log-monitor=false",
        f"--min-worker-port={WORKER_PORTS[0]}",
        f"--max-worker-port={WORKER_PORTS[1]}",
        "--disable-usage-stats",
    ]
    loop = f"while :; do {shlex.join(command)}; sleep 1; done"
    host.at_boot(f"setsid sh -c {shlex.quote(loop)} >>/var/log/ray.log 2>&1 </dev/null &")


def wait(head: Host, nodes: int) -> None:
    """Returns when the head knows so many live nodes."""
    count = "import ray; ray.init(address='auto', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    host_command = f'test "$(timeout 30 python -c {shlex.quote(count)} | tail -1)" -ge {nodes}'
    head.wait_for(f"export {shlex.join(f'{k}={v}' for k, v in ENVIRONMENT.items())}; {host_command}", START_TIMEOUT_S)
