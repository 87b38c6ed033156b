"""PID 1 of a test host. Runs by itself (`python -I -S -B init.py SPEC`), in namespaces of its own.

    outside, read-only            private, on the host's disk      private, gone at power-off
    /  and all that is below      /etc /root /var                  /tmp /run /dev /dev/shm /proc /sys

It makes that tree, enters it, tries to write to everything that came from outside and refuses to boot if it can. Then:

    stdout "sealed"      the tree stands; stdin's first line tells that the network does, too
    stdout "ready"       sshd answers, /etc/rc.local was started
    stdout "refused: …"  why not

From there on it reaps. Machine-global sysctls are read-only; those of its own network can be written.
"""

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MNT_DETACH = 2
KEPT_FLAGS = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
ON_DISK = ("/etc", "/root", "/var")
IN_MEMORY = ("/tmp", "/run", "/dev", "/proc", "/sys")
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
DEVICE_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
SSHD_TIMEOUT_S = 20

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """This host must not run."""


class Mount(NamedTuple):
    path: str
    options: list[str]
    kind: str
    super_options: list[str]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    answer = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(answer, f"mount {source} on {target}")


def mounts(below: str = "/") -> Iterator[Mount]:
    """What is mounted at or below a folder, in order of mounting."""
    prefix = below.rstrip("/")
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, _, right = line.rstrip("\n").partition(" - ")
            path, options = left.split(" ")[4:6]
            kind, _, super_options = right.split(" ")[:3]
            path = path.replace(r"\040", " ")
            if path == (prefix or "/") or path.startswith(prefix + "/"):
                yield Mount(path, options.split(","), kind, super_options.split(","))


def bind_read_only(source: str, target: str) -> None:
    """Shows a folder or file of the outside at `target`, read-only."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    mount(source, target, flags=MS_BIND)
    mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def _within(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def build(root: str, disk: str, shared: list[str], shm_bytes: int) -> None:
    """Makes the host's tree at `root`, an empty folder of the outside."""
    hierarchies = [each for each in mounts("/sys/fs/cgroup") if each.kind in ("cgroup", "cgroup2")]
    mount("/", root, flags=MS_BIND | MS_REC)
    outside = list(mounts(root))
    for each in reversed(outside):
        inside = each.path[len(root) :]
        if _within(inside, ON_DISK + IN_MEMORY):
            _check(_libc.umount2(each.path.encode(), MNT_DETACH), f"umount {each.path}")
        else:
            kept = sum(flag for name, flag in KEPT_FLAGS.items() if name in each.options)
            mount("none", each.path, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)
    for folder in ON_DISK:
        mount(disk + folder, root + folder, flags=MS_BIND)
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=4g")
    mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1g")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _devices(f"{root}/dev", shm_bytes)
    _system(f"{root}/sys", hierarchies)
    for path in shared:
        if _within(path, ON_DISK + IN_MEMORY):
            bind_read_only(path, root + path)
    _seal_kernel(f"{root}/proc")


def _devices(folder: str, shm_bytes: int) -> None:
    mount("tmpfs", folder, "tmpfs", MS_NOSUID, "mode=0755,size=1m")
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"{folder}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        os.chmod(f"{folder}/{name}", 0o666)
    for name, target in DEVICE_LINKS.items():
        os.symlink(target, f"{folder}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{folder}/{name}")
    mount("devpts", f"{folder}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    mount("tmpfs", f"{folder}/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={shm_bytes}")
    mount("mqueue", f"{folder}/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _system(folder: str, hierarchies: list[Mount]) -> None:
    """A /sys that shows this network's devices, and the control groups below this host's own."""
    mount("sysfs", folder, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    groups = f"{folder}/fs/cgroup"
    if any(each.kind == "cgroup" for each in hierarchies):
        mount("tmpfs", groups, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755")
    for each in hierarchies:
        target = folder + each.path[len("/sys") :]
        os.makedirs(target, exist_ok=True)
        wanted = [option for option in each.super_options if option not in ("rw", "ro", "xattr")]
        if each.kind == "cgroup2":
            mount("cgroup2", target, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        else:
            names = ["none", *wanted] if any(option.startswith("name=") for option in wanted) else wanted
            mount("cgroup", target, "cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, ",".join(names))
    mount("none", folder, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _seal_kernel(proc: str) -> None:
    """Read-only: the sysctls of the whole machine. Those of this host's network stay its own."""
    mount(f"{proc}/sys", f"{proc}/sys", flags=MS_BIND)
    mount(f"{proc}/sys/net", f"{proc}/sys/net", flags=MS_BIND)
    mount("none", f"{proc}/sys", flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
    if os.path.exists(f"{proc}/sysrq-trigger"):
        bind_read_only(f"{proc}/sysrq-trigger", f"{proc}/sysrq-trigger")


def enter(root: str) -> None:
    """Makes `root` this namespace's /, and forgets the old one."""
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount the outside")
    os.chdir("/")


def writable(paths: list[str]) -> list[str]:
    """Those of `paths` (folders and files) that can be written. Tries, and leaves nothing behind."""
    return [path for path in paths if _can_write(path)]


def _can_write(path: str) -> bool:
    try:
        if not os.path.isdir(path):
            os.close(os.open(path, os.O_WRONLY))
            return True
        trace = os.path.join(path, f".written-by-a-test-host-{os.getpid()}")
        os.close(os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(trace)
    except OSError:
        return False
    return True


def check_sealed(shared: list[str]) -> None:
    """Raises Refused if anything from outside can be written from here."""
    outside = [each.path for each in mounts() if not _within(each.path, ON_DISK + IN_MEMORY)]
    found = writable(list(dict.fromkeys([*outside, *shared, "/usr", "/usr/bin", "/proc/sys/kernel/hostname"])))
    if found:
        raise Refused(f"{', '.join(found)} of the outside can be written")


def start_sshd() -> None:
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with open("/var/log/sshd.log", "ab") as log:
        process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + SSHD_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", 22), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                with open("/var/log/sshd.log") as written:
                    raise Refused(f"sshd: {written.read()[-500:]}") from None
            time.sleep(0.01)
        else:
            return


def start_local() -> None:
    """What the host's operator wants at every boot, as Debian's rc-local.service does it."""
    if not os.access("/etc/rc.local", os.X_OK):
        return
    with open("/var/log/rc.local.log", "ab") as log:
        subprocess.Popen(["/etc/rc.local"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def boot(spec: dict[str, Any]) -> None:
    socket.sethostname(spec["name"])
    build(spec["root"], spec["disk"], spec["shared"], spec["shm_bytes"])
    enter(spec["root"])
    check_sealed(spec["shared"])
    say("sealed")
    if os.read(0, 16) != b"go\n":
        raise Refused("who boots this host went away")
    os.environ.clear()
    os.environ.update(spec["environment"])
    start_sshd()
    start_local()


def reap() -> NoReturn:
    """What PID 1 is for."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def main(boot: Callable[[dict[str, Any]], None] = boot) -> NoReturn:
    try:
        boot(json.loads(sys.argv[1]))
    except (OSError, Refused) as error:
        say(f"refused: {error}")
        sys.exit(1)
    say("ready")
    quiet = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it ends pause()
    reap()


if __name__ == "__main__":
    main()
