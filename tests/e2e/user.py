"""Someone with kubectl in a namespace: what they type, what they read."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.controlplane import ControlPlane
from tests.kit.require import require_program

Object = dict[str, Any]
PATIENCE_S = 60.0


def until(what: str, look: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Looks until there is something true to see, and returns it."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.2)


@dataclass(frozen=True)
class User:
    plane: ControlPlane
    namespace: str

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.plane.kubectl_run("-n", self.namespace, *arguments, stdin=stdin)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """What a command that must succeed prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, manifest: str) -> str:
        return self("apply", "-f", "-", stdin=manifest)

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def items(self, kind: str, *arguments: str) -> list[Object]:
        found: list[Object] = json.loads(self("get", kind, "-o", "json", *arguments))["items"]
        return found

    def wait(self, goal: str, *names: str, timeout_s: float = PATIENCE_S) -> None:
        """`kubectl wait --for=GOAL`."""
        self("wait", f"--for={goal}", *names, f"--timeout={timeout_s:.0f}s")

    def wait_phase(self, phase: str, *pods: str) -> None:
        self.wait(f"jsonpath={{.status.phase}}={phase}", *(f"pod/{pod}" for pod in pods))

    def pod_when(self, name: str, what: str, holds: Callable[[Object], Any]) -> Object:
        """The pod, as soon as `holds` is true of it."""

        def look() -> Object | None:
            pod = self.get("pod", name)
            return pod if holds(pod) else None

        pod: Object = until(f"pod {name}: {what}", look)
        return pod

    def row(self, *arguments: str) -> dict[str, str]:
        """The only row of a table, by heading."""
        heading, row = self(*arguments).splitlines()
        columns = [(found.start(), found.group()) for found in re.finditer(r"\S+( \S+)*", heading)]
        ends = [start for start, _ in columns[1:]] + [len(row)]
        return {name: row[start:end].strip() for (start, name), end in zip(columns, ends, strict=True)}

    def watching(self, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """A kubectl that goes on, with what it prints in a file."""
        command = [require_program("kubectl"), f"--kubeconfig={self.plane.kubeconfig}", "-n", self.namespace]
        with output.open("wb") as file:
            return subprocess.Popen([*command, *arguments], stdout=file, stderr=file, stdin=subprocess.DEVNULL)


def container_pids(user: User, pod: str, container: str = "") -> list[int]:
    """The programs of a pod's containers on this computer, without their shims, by the marker of their runtime.

    The oldest comes first: by the time of its start, for process ids begin anew after the highest.
    """
    statuses = user.get("pod", pod)["status"].get("containerStatuses") or []
    ids = {
        one["containerID"].partition("://")[2]
        for one in statuses
        if "containerID" in one and container in ("", one["name"])
    }
    parents, starts = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if any(one.startswith(b"RAYKUBE_CONTAINER=") and one.partition(b"=")[2].decode() in ids for one in variables):
            parents[int(folder.name)], starts[int(folder.name)] = int(fields[1]), int(fields[19])
    return sorted((pid for pid, parent in parents.items() if parent in parents), key=starts.__getitem__)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


KILL = signal.SIGKILL
