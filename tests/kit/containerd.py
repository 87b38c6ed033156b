"""A containerd of a test's own, in namespaces of its own: no process, mount, link or rule of it is the machine's.

    with Containerd() as containerd:                    # images busybox and pause are there
        containerd.ctr("-n", "k8s.io", "tasks", "ls")
        subprocess.run([*containerd.network, "ip", "addr"])     # in the network that a kubelet of it must live in
        with containerd.entered():                      # this thread (and threads and sockets that it makes)
            ...

Its first process holds a network, a mount and a PID namespace; the end of it ends containerd, shims and containers, and
takes their mounts, bridge and rules along. What is on disk lies in `folder`: give a kubelet its --root-dir below that
(mounts made there from outside reach the containers), and `cgroup_root` as its --cgroup-root, which is removed too.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType

from tests.kit import images
from tests.kit.require import missing, require_program

CNI_PLUGINS = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
TIMEOUT_S = 30.0
POD_CIDR = "10.77.0.0/24"  # the network is this containerd's own, so all may use the same addresses
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)

# PID 1 of the namespaces: nobody's exit is left unreaped, and it does nothing else.
_HOLD = """
mount --make-shared "$1"
mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /var/lib
ip link set lo up
trap '' CHLD
echo ready
exec sleep 2147483647
"""


def configuration(
    *, root: Path, state: Path, socket: Path, networks: Path, plugins: Mapping[str, str] = MappingProxyType({})
) -> str:
    """A containerd's configuration; `networks`: the folder of CNI files; `plugins`: more TOML for tables, by name."""
    tables = {
        "grpc": f'address = "{socket}"',
        'plugins."io.containerd.grpc.v1.cri"': "\n".join(
            [
                f'sandbox_image = "{images.PAUSE}"',
                "restrict_oom_score_adj = true",  # root may lack CAP_SYS_RESOURCE
                "disable_apparmor = true",
                "netns_mounts_under_state_dir = true",
                'stream_server_address = "127.0.0.1"',
                'stream_server_port = "0"',
            ]
        ),
        'plugins."io.containerd.grpc.v1.cri".cni': f'bin_dir = "{CNI_PLUGINS}"\nconf_dir = "{networks}"',
        'plugins."io.containerd.grpc.v1.cri".containerd': 'snapshotter = "overlayfs"',
        # The handler "second" is there for a RuntimeClass to name.
        **{
            f'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}': "\n".join(
                ['runtime_type = "io.containerd.runc.v2"', 'pod_annotations = ["raykube.test/*"]']
            )
            for name in ("runc", "second")
        },
    }
    for name, text in plugins.items():
        tables[name] = "\n".join(filter(None, [tables.get(name), text]))
    text = f'version = 2\nroot = "{root}"\nstate = "{state}"\n'
    return text + "".join(f"[{name}]\n{body}\n" for name, body in tables.items())


def conflist(ipam: Path, pod_cidr: str) -> str:
    """A CNI network: a bridge with addresses of `pod_cidr`, remembered in the folder `ipam`; and host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(ipam),
            "ranges": [[{"subnet": pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": plugins})


class Containerd:
    def __init__(self, *, pod_cidr: str = POD_CIDR, plugins: dict[str, str] | None = None) -> None:
        """`plugins`: more TOML for tables of the configuration, by name."""
        if os.geteuid() != 0:
            missing("needs root, for containerd")
        for program in ("containerd", "ctr", "runc", "unshare", "nsenter", "setpriv", "ip"):
            require_program(program)
        if not (CNI_PLUGINS / "bridge").exists():
            missing(f"needs the CNI plugins in {CNI_PLUGINS}")
        self.folder = Path(tempfile.mkdtemp(prefix=f"rkc-{os.getpid()}-"))  # short: sockets lie below
        self.folder.chmod(0o755)
        self.cgroup_root = f"/{self.folder.name}"
        self.socket = self.folder / "containerd.sock"
        self.pod_cidr = pod_cidr
        self._plugins = plugins or {}
        self._holder: subprocess.Popen[str] | None = None
        self._first_pid = 0
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Containerd":
        try:
            self._hold()
            self._write_configuration()
            self.start()
            for image in (images.pause(), images.busybox()):
                self.import_image(image)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- namespaces

    def _hold(self) -> None:
        subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True)
        subprocess.run(["mount", "--make-private", str(self.folder)], check=True)
        subprocess.run(["mount", "--make-shared", str(self.folder)], check=True)
        namespaces = ["--net", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, "sh", "-ec", _HOLD, "sh", str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n", "the namespaces were not made"
        self._first_pid = _children(self._holder.pid)[0]

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def network(self) -> list[str]:
        """Prefix of a command that is to run in the network namespace (and is the same process)."""
        return ["nsenter", f"--net=/proc/{self._first_pid}/ns/net"]

    @property
    def inside(self) -> list[str]:
        """Prefix of a command that is to run in all namespaces (as a child of the prefix)."""
        return ["nsenter", f"--target={self._first_pid}", "--net", "--mount", "--pid"]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, the threads that it starts and the sockets that it makes are in the network namespace."""
        with open("/proc/thread-self/ns/net") as before:
            with open(f"/proc/{self._first_pid}/ns/net") as own:
                _set_network(own.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())

    # -- containerd

    def _write_configuration(self) -> None:
        (self.folder / "config.toml").write_text(
            configuration(
                root=self.folder / "root",
                state=self.folder / "state",
                socket=self.socket,
                networks=self.folder / "net.d",
                plugins=self._plugins,
            )
        )
        (self.folder / "net.d").mkdir()
        (self.folder / "net.d" / "10-pods.conflist").write_text(conflist(self.folder / "ipam", self.pod_cidr))

    def start(self) -> None:
        """Starts the daemon; containers that ran while it was away are taken over."""
        with (self.folder / "containerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*self.inside, "containerd", "--config", str(self.folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + TIMEOUT_S
        while not self._serves():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"containerd does not serve:\n{self.log()[-4000:]}")
            time.sleep(0.05)

    def _serves(self) -> bool:
        return self._ctr("plugins", "ls", "id==cri").stdout.rstrip().endswith(b"ok")

    def kill(self, number: int = 9) -> None:
        """Ends the daemon alone; its shims and containers go on."""
        assert self._daemon is not None
        for pid in _children(self._daemon.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        self._daemon.wait(TIMEOUT_S)
        self._daemon = None

    def signal(self, number: int) -> None:
        """Signals the daemon: SIGSTOP makes it hang, SIGCONT go on."""
        assert self._daemon is not None
        for pid in _children(self._daemon.pid):
            os.kill(pid, number)
        if number == signal.SIGCONT:
            self._daemon.send_signal(number)  # nsenter stopped together with its child

    def log(self) -> str:
        return (self.folder / "containerd.log").read_text(errors="replace")

    def _ctr(self, *arguments: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        command = [*self.inside, "ctr", "--address", str(self.socket), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=TIMEOUT_S)

    def ctr(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Runs ctr; returns its output. To `ctr run` give `--cgroup=CGROUP_ROOT/NAME`: what lies there is removed."""
        done = self._ctr(*arguments, stdin=stdin)
        assert done.returncode == 0, f"ctr {' '.join(arguments)}: {done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode()

    def run(self, *command: str) -> str:
        """Runs a command in all namespaces, where containers' process ids are those of `tasks`; returns its output."""
        return subprocess.run([*self.inside, *command], capture_output=True, text=True, check=True).stdout

    def import_image(self, image: images.Image) -> None:
        self.ctr("-n", "k8s.io", "images", "import", "-", stdin=image.archive())

    def tasks(self, namespace: str = "k8s.io") -> dict[str, int]:
        """The process ids (as containerd sees them) of running containers and sandboxes, by id."""
        rows = [line.split() for line in self.ctr("-n", namespace, "tasks", "ls").splitlines()[1:]]
        return {row[0]: int(row[1]) for row in rows if row[2] == "RUNNING"}

    # -- the end

    def close(self) -> None:
        """Ends everything, and removes what it left on disk and among the control groups."""
        if self._daemon is not None:
            self._daemon.kill()  # the namespace is gone when all are reaped; nsenter may be stopped
        if self._holder is not None:
            if self._first_pid:
                with suppress(ProcessLookupError):
                    os.kill(self._first_pid, 9)  # the kernel ends all others of the namespace before it
            else:
                self._holder.kill()
            self._holder.wait(TIMEOUT_S)
            assert self._holder.stdout is not None
            self._holder.stdout.close()
            self._holder = None
        if self._daemon is not None:
            self._daemon.wait(TIMEOUT_S)
            self._daemon = None
        for place in _mounts_below(self.folder):
            subprocess.run(["umount", "--lazy", place], check=True)
        shutil.rmtree(self.folder)
        _remove_cgroups(self.cgroup_root)


def _set_network(handle: int) -> None:
    if _libc.setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _mounts_below(folder: Path) -> list[str]:
    """Mount points in and at `folder`, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4].encode().decode("unicode_escape")
        if Path(place).is_relative_to(folder):
            found.append(place)
    return found[::-1]


def _remove_cgroups(name: str) -> None:
    """Removes a control group and those in it, in every hierarchy; their processes have ended."""
    for root in [CGROUPS, *CGROUPS.iterdir()]:
        top = root / name.lstrip("/")
        if not top.is_dir() or not (top / "cgroup.procs").exists():
            continue
        for path, _, _ in os.walk(top, topdown=False):
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                try:
                    os.rmdir(path)
                    break
                except OSError:
                    assert time.monotonic() < deadline, f"{path} is still in use"
                    time.sleep(0.02)
