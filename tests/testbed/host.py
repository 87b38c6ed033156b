"""One host: its processes and the way into them."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.kit.require import require_program
from tests.testbed import cgroups, record

BOOT_TIMEOUT_S = 30
SHM_BYTES = 1 << 30
INIT = Path(__file__).with_name("init.py")
# Into the host's control groups, which a namespace alone does not do; then the rest of the arguments.
JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"'


class BootError(Exception):
    """A host does not run; the message says why."""


@dataclass
class Host:
    """A host, running or not."""

    name: str
    address: str
    port: str  # of the switch
    mac: str
    folder: Path
    groups: list[str]  # control groups, made at each boot
    shared: list[str]  # of the outside, shown read-only at the same path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    pid: int = 0  # of its PID 1, as the outside counts
    doors: list[str] = field(default_factory=list, repr=False)  # into its control groups

    @property
    def disk(self) -> Path:
        """Its /etc, /root and /var, as the outside sees them."""
        return self.folder / "disk"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Starts PID 1, up to the point where it needs its network. Raises BootError."""
        root = self.folder / "rootfs"
        root.mkdir(exist_ok=True)
        cgroups.make(self.groups)
        spec = {
            "name": self.name,
            "root": str(root),
            "disk": str(self.disk),
            "shared": self.shared,
            "shm_bytes": SHM_BYTES,
            "environment": dict(self.environment),
        }
        command = [
            *("/bin/sh", "-c", JOIN, "join", *(f"{group}/cgroup.procs" for group in self.groups), "--"),
            *(require_program("unshare"), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"),
            *("--propagation", "private", "--fork", "--kill-child"),
            *(sys.executable, "-I", "-S", "-B", str(INIT), json.dumps(spec)),
        ]
        with (self.folder / "boot.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={},
                cwd="/",
            )
        self._expect("sealed")
        self.doors = cgroups.settle(self.groups)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.pid = int(children[0])

    def finish(self) -> None:
        """Boots to the end. Raises BootError."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self.process is not None
        output: IO[bytes] | None = self.process.stdout
        assert output is not None
        line = output.readline().decode().strip()
        if line != word:
            raise BootError(f"{self.name}: {line or (self.folder / 'boot.log').read_text()[-2000:]}")

    def processes(self) -> list[tuple[int, int]]:
        """Whose end is the host's end."""
        pids = [self.pid] if self.process is None else [self.pid, self.process.pid]
        return [each for pid in pids if pid and (each := record.identity(pid))]

    def power_off(self) -> None:
        """Ends every process of the host at once, as a power cut does."""
        record.end(self.processes())
        if self.process is not None:
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
        for group in self.groups:
            cgroups.remove(group)
        self.process, self.pid = None, 0

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on the host."""
        if not self.running:
            raise BootError(f"{self.name} is off")
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        enter = [require_program("nsenter"), f"--target={self.pid}", *spaces]
        # What runs here on the tester's behalf ends with it; what is to stay starts a process of its own.
        return ["/bin/sh", "-c", JOIN, "join", *self.doors, "--", *enter, "--", *command]

    def run(
        self, command: Sequence[str] | str, *, check: bool = True, timeout_s: float = 60, stdin: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command (a string: in bash) on the host as root, in /; `more`: further environment.

        Raises AssertionError with its output if it fails and `check` is set.
        """
        words = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        done = subprocess.run(
            self.command(words),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            input=stdin,
            env={**self.environment, **more},
            check=False,
            cwd="/",
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: {command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def at_boot(self, line: str) -> None:
        """Adds a line of sh to what the host does at each boot, and does it now if the host runs."""
        path = self.disk / "etc" / "rc.local"
        if not path.exists():
            path.touch(mode=0o755)
            path.write_text("#!/bin/sh\n")
        with path.open("a") as script:
            script.write(f"{line}\n")
        if self.running:
            self.run(["/bin/sh", "-c", f"{{ {line}\n}} </dev/null >>/var/log/rc.local.log 2>&1"])

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on the host; it is killed when the Popen is, and when the host is."""
        tied = [require_program("setpriv"), "--pdeathsig", "KILL", "--", *command]
        return subprocess.Popen(self.command(tied), env=dict(self.environment), cwd="/", **options)

    def wait_for(self, command: Sequence[str] | str, timeout_s: float = 30) -> None:
        """Runs a command until it succeeds. Raises AssertionError at the time-out."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = self.run(command, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: {command}: not within {timeout_s} s\n{done.stdout}{done.stderr}")
            time.sleep(0.05)
