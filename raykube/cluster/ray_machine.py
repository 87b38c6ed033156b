"""`raykube machine`: Ray on this host, with the settings that a cluster on it wants, for as long as it should be there.

`ray start` again after the raylet crashed, or was declared dead and learned of it; an end when somebody ended it on
purpose, with `ray stop` or a signal. It is what a service unit runs, or a shell in the background.

The head keeps what Ray knows, its actors above all, on disk or in a Redis elsewhere: a head that comes back at the same
address finds the other machines' actors as it left them, and they go on without it meanwhile. With Redis it may come
back on another host, which takes the address over.
"""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raykube.cluster import ray_nodes, settings

log = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36
RAY_FOLDER = b"/site-packages/ray/"
LIFE_VARIABLE = "RAYKUBE_LIFE"  # in the environment of Ray's processes: of which Ray they are, on which machine
AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")  # their titles lie over their command lines
ORPHAN_LOOKS = 2  # what began while the first was at work
VITAL = ("raylet", "gcs_server")  # without one of them there is no Ray here
TOLD_CODES = (0, signal.SIGTERM, -signal.SIGTERM, 128 + signal.SIGTERM)  # of a process that somebody asked to end
GCS_PORT = 6379
# A raylet that was declared dead ends when it hears of it, and takes its actors with it. A head that is cut off
# declares all others dead, so it does that late: after more than a switch or a rebooting head takes. Whether a Node is
# ready, and where pods go, is decided by leases in the API meanwhile.
PATIENCE = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "30",
}
PAUSE_S = 2.0
PAUSE_MAX_S = 30.0
END_TIMEOUT_S = 10.0
STEADY_S = 60.0  # after so long, a crash is no sign that it cannot start


class Config(BaseModel):
    """The flags of `raykube machine`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: bool = Field(False, description="this is the head of the Ray cluster")
    address: str = Field("", description="host:port of the head, on any other machine")
    node_ip_address: str = Field("", description="address of this machine [default: as Ray finds it]")
    port: int = Field(GCS_PORT, ge=1, le=65535, description="port of the head")
    labels: str = Field("", description="Ray labels of this machine: key=value,…")
    num_cpus: int | None = Field(None, ge=0, description="CPUs for Ray's tasks [default: all]")
    autoscaling_config: str = Field("", description="file that `ray up` left on the head")
    gcs_storage: Literal["disk", "redis", "memory"] = Field("disk", description="where the head keeps what Ray knows")
    gcs_storage_dir: Path = Field(Path("/var/lib/raykube/ray"), description="folder for --gcs-storage=disk")
    redis_address: str = Field("", description="host:port of the Redis for --gcs-storage=redis")
    redis_password_file: Path | None = Field(
        None, description="file with its password, which Ray passes on in command lines of the head's processes"
    )
    auth_token_file: Path = Field(settings.RAY_TOKEN_FILE, description="Ray's token, the same on all machines")
    insecure_ray: bool = Field(False, description=settings.INSECURE_RAY)

    @model_validator(mode="after")
    def _one_role(self) -> "Config":
        if self.head == bool(self.address):
            raise ValueError("give either --head or --address")
        if (self.gcs_storage == "redis") != bool(self.redis_address):
            raise ValueError("--gcs-storage=redis and --redis-address go together")
        return self

    @property
    def life(self) -> str:
        """Which of Ray's nodes on this machine is meant: tests, and some people, have several."""
        return f"{self.node_ip_address or 'any'}-{self.address or self.port}"


def command(config: Config) -> list[str]:
    """The arguments of `ray start`. Raises OSError when the password cannot be read."""
    arguments = [
        "start", "--disable-usage-stats", "--include-log-monitor=false",
        f"--object-store-memory={ray_nodes.OBJECT_STORE_BYTES}",
        # Workers listen at random ports: by default among the kubelets' and schedulers'.
        f"--min-worker-port={ray_nodes.WORKER_PORTS[0]}",
        f"--max-worker-port={ray_nodes.WORKER_PORTS[1]}",
    ]  # fmt: skip
    if config.head:
        arguments += ["--head", f"--port={config.port}", "--include-dashboard=false"]
        if config.autoscaling_config:
            arguments.append(f"--autoscaling-config={config.autoscaling_config}")
        else:
            arguments.append("--no-monitor")
        if config.redis_password_file is not None:
            arguments.append(f"--redis-password={config.redis_password_file.read_text().strip()}")
    else:
        arguments.append(f"--address={config.address}")
    for flag, value in (
        ("node-ip-address", config.node_ip_address), ("labels", config.labels), ("num-cpus", config.num_cpus),
    ):  # fmt: skip
        if value not in ("", None):
            arguments.append(f"--{flag}={value}")
    return arguments


def environment(config: Config) -> Mapping[str, str]:
    """Ray's settings for this machine."""
    values = ray_nodes.RAY_TUNING | PATIENCE | settings.ray_authentication(config.auth_token_file)
    values |= {LIFE_VARIABLE: config.life}
    if config.head and config.gcs_storage == "disk":
        values |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(config.gcs_storage_dir)}
    if config.head and config.gcs_storage == "redis":
        values |= {"RAY_REDIS_ADDRESS": config.redis_address}
    return values


class _Told(Exception):
    """A signal asked this process to end. It is no OSError, which code on the way may ignore."""


def keep(config: Config) -> None:
    """Runs Ray until it is ended on purpose. Raises OSError."""
    if not config.insecure_ray and not settings.has_ray_authentication(config.auth_token_file):
        raise PermissionError(settings.NO_TOKEN)
    if config.head and config.gcs_storage == "disk":
        config.gcs_storage_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    _adopt_orphans()
    for _ in range(ORPHAN_LOOKS):
        _end(_orphans(config.life))
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        if not stopping:  # a second signal does not end the clean-up after the first
            stopping = True
            raise _Told

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    pause_s = PAUSE_S
    while not stopping:
        began = time.monotonic()
        daemons: dict[int, str] = {}
        try:
            problem = _run(config, daemons)
            if not problem:
                return
            pause_s = PAUSE_S if time.monotonic() - began > STEADY_S else min(PAUSE_MAX_S, pause_s * 2)
            log.warning("%s: Ray is started again in %.0f s", problem, pause_s)
            _end(daemons)
            time.sleep(pause_s)
        except _Told:
            # In the middle of `ray start`, which is dead now, it has left its first daemons to this process.
            _end(daemons | _children())


def _adopt_orphans() -> None:
    """Makes Ray's daemons, which `ray start` leaves behind, children of this process: it learns how they ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot look after Ray's processes")


def _run(config: Config, daemons: dict[int, str]) -> str:
    """One life of Ray; returns why it ended, "" when it was told to. `daemons`: filled with its processes."""
    done = subprocess.run(
        [sys.executable, "-m", "raykube.cluster.ray_start", *command(config)],
        # Unlike `process_environment`, this leaves what `ray up` set for its own processes.
        env={**os.environ, **environment(config)},
        stdin=subprocess.DEVNULL,
        check=False,
        cwd="/",
    )
    daemons |= _children()
    if done.returncode != 0:
        return f"'ray start' failed with exit code {done.returncode}"
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return "Ray's processes are gone"
        if daemons.pop(pid, "") in VITAL:
            code = os.waitstatus_to_exitcode(status)
            if code in TOLD_CODES:
                _end(daemons)
                return ""
            return f"a process of Ray's ended with code {code}"


def _children() -> dict[int, str]:
    """Those of this process's children that are Ray's, and what they run. Of a Ray that ended, others may be left to
    it: containers of plain processes, which go on."""
    found = {}
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(OSError):
            name = (process := Path("/proc", pid)).joinpath("comm").read_text().strip()
            if name in VITAL or _is_daemon(process):  # one that ended already has no command line
                found[int(pid)] = name
    return found


def _orphans(life: str) -> dict[int, str]:
    """What is left of a Ray of this machine whose keeper was killed: nobody would start it again."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or not _is_daemon(entry):
                continue
            variables = (entry / "environ").read_bytes().split(b"\0")
            if f"{LIFE_VARIABLE}={life}".encode() in variables and not _is_keeper(_parent_of(entry)):
                found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found


def _is_daemon(process: Path) -> bool:
    """Whether it is a program of Ray's own. Containers of plain processes inherit its environment too, and go on."""
    words = (process / "cmdline").read_bytes().split(b"\0")
    return words[0] in AGENTS or any(RAY_FOLDER in word for word in words[:2])


def _parent_of(process: Path) -> Path:
    return process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])


def _is_keeper(process: Path) -> bool:
    words = (process / "cmdline").read_bytes().split(b"\0")
    return b"machine" in words and any(word.endswith(b"raykube") for word in words)


def _end(daemons: dict[int, str]) -> None:
    """Ends what is left of Ray, the raylet first: its workers end with it."""
    pids = sorted(daemons, key=lambda pid: daemons[pid] != "raylet")
    deadline = time.monotonic() + END_TIMEOUT_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while pids and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            pids = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
            time.sleep(0.1)
    for pid in _children():  # agents that a raylet left to this process when it ended
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
