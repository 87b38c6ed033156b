"""Ray nodes of a local cluster: started as child sessions, each with an address in 127.0.0.0/8, found by label."""

import contextlib
import secrets
import socket
import subprocess
import sys
from pathlib import Path

from raykube.cluster import processes, settings
from raykube.cluster.state import ClusterState, Machine

MACHINE_LABEL = "raykube.io/machine"
OBJECT_STORE_BYTES = 80_000_000  # Ray's minimum is 75 MB; no object of ours goes through it
START_TIMEOUT_S = 90
WORKER_PORTS = (20000, 29999)  # between Kubernetes' own ports and NodePorts

# A dead machine is noticed in about 10 s instead of 15; one that a busy computer holds up for a moment is not taken for
# dead. Raylets and actors outlive a dead GCS.
RAY_TUNING = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def token_path(data_dir: Path) -> Path:
    return data_dir / "ray" / "token"


def ensure_token(data_dir: Path) -> Path:
    """The file with Ray's authentication token, made if there is none: 256 random bits, mode 0600."""
    path = token_path(data_dir)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path


def ray_environment(data_dir: Path) -> dict[str, str]:
    """Ray's settings for every process of the cluster and for those who connect to it."""
    return RAY_TUNING | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path(data_dir))}


def free_port(address: str) -> int:
    """A TCP port that nothing on `address` listens on now."""
    return free_ports(address, 1)[0]


def free_ports(address: str, count: int) -> list[int]:
    """So many different ones: asked one after the other, the kernel may name one twice."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((address, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _start(
    state: ClusterState, machine: Machine, data_dir: Path, arguments: list[str], agent_port: int, metrics_port: int
) -> subprocess.Popen[bytes]:
    environment = settings.process_environment(
        ray_environment(data_dir) | processes.marker(state.id, machine.name, processes.ROLE_RAY)
    )
    log_path = data_dir / "machines" / machine.name / "logs" / "ray-start.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "raykube.cluster.ray_start", "start", *arguments,
        f"--node-ip-address={machine.address}",
        f"--node-name={machine.name}",
        f"--labels={MACHINE_LABEL}={machine.name}",
        f"--temp-dir={state.scratch_dir / machine.name}",  # in a shared one, nodes that start together race for sockets
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--num-cpus=1",
        "--include-log-monitor=false",
        # Workers listen on all addresses, at random ports: by default among the kubelets' and schedulers'.
        f"--min-worker-port={WORKER_PORTS[0]}",
        f"--max-worker-port={WORKER_PORTS[1]}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--metrics-export-port={metrics_port}",
        "--disable-usage-stats",
    ]  # fmt: skip
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle, not Ray's
            cwd="/",
        )


def _finish(process: subprocess.Popen[bytes], machine: Machine, data_dir: Path) -> None:
    log_path = data_dir / "machines" / machine.name / "logs" / "ray-start.log"
    try:
        code = process.wait(START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise OSError(f"Ray did not start on {machine.name} within {START_TIMEOUT_S} s: see {log_path}") from None
    if code != 0:
        raise OSError(f"Ray did not start on {machine.name} (exit code {code}): see {log_path}")


def start_head(state: ClusterState, data_dir: Path) -> str:
    """Starts the first machine's Ray node as head; returns the GCS address. Raises OSError."""
    machine = state.machines[0]
    port, *others = free_ports(machine.address, 3)
    arguments = [
        "--head", f"--port={port}", "--include-dashboard=false", "--no-monitor",
    ]  # fmt: skip
    _finish(_start(state, machine, data_dir, arguments, *others), machine, data_dir)
    return f"{machine.address}:{port}"


def start_workers(state: ClusterState, machines: list[Machine], data_dir: Path) -> None:
    """Starts Ray nodes for `machines`, all at once. Raises OSError."""
    arguments = [f"--address={state.gcs_address}"]
    started = [
        (_start(state, machine, data_dir, arguments, *free_ports(machine.address, 2)), machine) for machine in machines
    ]
    for process, machine in started:
        _finish(process, machine, data_dir)


def answers(address: str, timeout_s: float = 2.0) -> bool:
    """Whether something accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_s):
            return True
    except (OSError, ValueError):
        return False
