"""The testbed: hosts on one switch, made together, removed together."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.kit.require import missing, require_program
from tests.testbed import cgroups, disk, record
from tests.testbed.host import Host

OUTSIDE = "outside"  # a host without cluster software, to send packets from
NETWORK = "10.77.0"  # every testbed's: no two of them, nor the machine, are connected
GATEWAY = f"{NETWORK}.1"
OUTSIDE_ADDRESS = f"{NETWORK}.200"
HOSTS_MAX = 100
PROGRAMS = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "setpriv", "mount")
CHECKOUT = Path(__file__).parents[2]

_number = itertools.count(1)


def require_hosts() -> None:
    """Skips the test (fails it in CI) where hosts cannot be made."""
    if os.geteuid() != 0:
        missing("needs root: hosts are made of namespaces")
    for name in PROGRAMS:
        require_program(name)
    if not os.access("/usr/sbin/sshd", os.X_OK):
        missing("needs sshd: apt-get install openssh-server")


def _shared_paths() -> list[str]:
    """What hosts run of the outside, wherever it lies: the checkout, the Python and its environment, kubectl."""
    kubectl = shutil.which("kubectl")
    found = [CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)]
    if kubectl:
        found.append(Path(kubectl).parent)
    paths = sorted({str(path.resolve()) for path in found})
    return [path for path in paths if not any(path.startswith(other + "/") for other in paths)]


def _environment() -> dict[str, str]:
    kubectl = shutil.which("kubectl")
    folders = [f"{sys.prefix}/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    if kubectl and str(Path(kubectl).parent) not in folders:
        folders.append(str(Path(kubectl).parent))
    return {
        "HOME": "/root",
        "USER": "root",
        "LANG": "C.UTF-8",
        "PATH": ":".join(folders),
        "PYTHONDONTWRITEBYTECODE": "1",  # it could not write it
    }


class Testbed:
    """`hosts` hosts (host1, host2 …) and one named "outside" on a switch of their own.

    `folder` holds their disks, and is removed at the end; by default a new one under the folder for temporary files.
    """

    __test__ = False  # no test class of pytest's

    def __init__(self, hosts: int = 4, folder: Path | None = None) -> None:
        assert 1 <= hosts <= HOSTS_MAX
        self.name = f"raykube-testbed-{os.getpid()}-{next(_number)}"
        names = [f"host{index}" for index in range(1, hosts + 1)]
        self.addresses = {name: f"{NETWORK}.{10 + index}" for index, name in enumerate(names, 1)}
        self.addresses[OUTSIDE] = OUTSIDE_ADDRESS
        self.environment = _environment()
        tester = record.identity(os.getpid())
        assert tester is not None
        self._record = record.Record(self.name, tester)
        self._parent = folder
        self._keeper: subprocess.Popen[str] | None = None
        self.folder = Path()
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> "Testbed":
        require_hosts()
        record.sweep()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self) -> None:
        where = cgroups.parents()
        self.folder = (self._parent or Path(tempfile.gettempdir())) / self.name
        self._record.folder = str(self.folder)
        for name in self.addresses:
            self._record.groups += cgroups.paths(f"{self.name}-{name}", where)
        self._record.save()
        self.folder.mkdir(mode=0o700)
        self._start_keeper()
        keys = disk.Keys(self.folder / "ssh")
        shared = _shared_paths()
        for name, address in self.addresses.items():
            last = int(address.rpartition(".")[2])
            self.hosts[name] = Host(
                name=name,
                address=address,
                port=f"port{last}",
                mac=f"02:00:0a:4d:00:{last:02x}",
                folder=self.folder / name,
                groups=cgroups.paths(f"{self.name}-{name}", where),
                shared=shared,
                environment=self.environment,
            )
            disk.make(self.hosts[name].disk, name, self.addresses, keys, self.environment)
        self.boot(*self.hosts)

    def _start_keeper(self) -> None:
        command = [require_program("unshare"), "--net", sys.executable, "-m", "tests.testbed.keeper"]
        self._keeper = subprocess.Popen(
            [*command, str(self._record.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "ready\n":
            raise OSError(f"the switch did not start: {self._keeper.communicate()[1]}")
        self._record.keeper = record.identity(self._keeper.pid)
        self._record.save()
        self._switch(
            "link set lo up",
            "link add br0 type bridge stp_state 0",
            f"addr add {GATEWAY}/24 dev br0",
            "link set br0 up",
        )

    def _network(self, pid: int, *lines: str) -> None:
        """Runs lines of `ip` in a process's network."""
        command = [require_program("nsenter"), f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"ip: {'; '.join(lines)}: {done.stderr.strip()}")

    def _switch(self, *lines: str) -> None:
        assert self._keeper is not None
        self._network(self._keeper.pid, *lines)

    def boot(self, *names: str) -> None:
        """Switches hosts on that are off, with the disks they had. Raises BootError."""
        hosts = [self.hosts[name] for name in names]
        for host in hosts:
            assert not host.running, f"{host.name} runs"
            host.launch()
            self._record.processes += host.processes()
            self._record.save()
            self._switch(
                f"link add {host.port} type veth peer name eth0 address {host.mac} netns {host.pid}",
                f"link set {host.port} master br0",
                f"link set {host.port} up",
            )
            self._network(
                host.pid,
                "link set lo up",
                f"addr add {host.address}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {GATEWAY}",
            )
        for host in hosts:
            host.finish()

    def kill(self, *names: str) -> None:
        """Cuts hosts' power: all their processes end at once. Their disks stay."""
        for host in [self.hosts[name] for name in names]:
            assert host.running, f"{host.name} is off"
            gone = host.processes()
            self._switch(f"link del {host.port}")  # the kernel would, a moment later
            host.power_off()
            self._record.processes = [each for each in self._record.processes if each not in gone]
            self._record.save()

    def cut(self, *names: str) -> None:
        """Pulls hosts' network cables."""
        self._switch(*(f"link set {self.hosts[name].port} down" for name in names))

    def mend(self, *names: str) -> None:
        """Plugs hosts' network cables in again."""
        self._switch(*(f"link set {self.hosts[name].port} up" for name in names))

    def run(self, host: str, command: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host: see Host.run."""
        return self.hosts[host].run(command, **options)

    def ssh(self, source: str, target: str, command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command on `target` over ssh from `source`."""
        return self.run(source, ["ssh", "-o", "BatchMode=yes", target, command], **options)

    def close(self) -> None:
        """Removes everything. Raises OSError if something is left."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            _, complaint = keeper.communicate()  # closes its stdin
            if keeper.returncode != 0 and self._record.path.exists():
                sys.stderr.write(f"testbed: the keeper failed, removing what is left: {complaint}\n")
        if self._record.path.exists():
            record.clean(self._record)
        for host in self.hosts.values():
            host.power_off()  # its processes are dead: collects them
        self.hosts.clear()
