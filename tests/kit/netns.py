"""Network namespaces without names: they live as long as this process holds them, and nothing can be left behind.

with Namespace() as left, Namespace() as right:
    left.ip("link set lo up")
    join(left, "eth0", right, "eth0")
    server = left.socket(socket.AF_INET, socket.SOCK_STREAM)   # usable from anywhere afterwards
    subprocess.run(left.command(["nft", "list", "ruleset"]), pass_fds=[left.fd])
"""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.kit.require import missing, require_program

CLONE_NEWNET = 0x40000000
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def require_network_namespaces() -> None:
    """Skips the test, or fails it in CI, where namespaces cannot be made."""
    if os.geteuid() != 0:
        missing("needs root to make network namespaces")
    for program in ("ip", "nsenter", "setpriv"):
        require_program(program)


def _in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread that ends after it: what it does to its own namespace is gone with it."""
    found: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return found[0]


class Namespace:
    """One network namespace, with its loopback up."""

    def __init__(self) -> None:
        def make() -> int:
            if _libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)

        self.fd = _in_thread(make)
        self.ip("link set lo up")

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go; the kernel ends it when nothing else is in it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile: sockets that it makes belong there for good."""
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        try:
            if _libc.setns(self.fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            if _libc.setns(home, CLONE_NEWNET) != 0:
                os._exit(70)  # a process that is lost in a namespace must do nothing more
            os.close(home)

    def socket(self, family: int, kind: int) -> socket.socket:
        """A socket that belongs to the namespace, not blocking."""
        with self.entered():
            found = socket.socket(family, kind)
        found.setblocking(False)
        return found

    def write(self, path: str, text: str) -> None:
        """Writes a file below /proc/sys/net of the namespace."""

        def work() -> None:
            with self.entered():
                Path(path).write_text(text)

        _in_thread(work)

    def command(self, command: list[str]) -> list[str]:
        """What to run, with `pass_fds=[fd]`, so that `command` is in the namespace and ends with this process."""
        return ["setpriv", "--pdeathsig=KILL", "nsenter", f"--net=/proc/self/fd/{self.fd}", *command]

    def run(self, *command: str, stdin: str = "") -> str:
        """The output of a program in the namespace; its failure is the test's."""
        ended = subprocess.run(
            self.command(list(command)), pass_fds=[self.fd], input=stdin, capture_output=True, text=True
        )
        assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr}"
        return ended.stdout

    def ip(self, *lines: str) -> None:
        """Commands of iproute2, without the `ip`."""
        self.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def join(left: Namespace, left_device: str, right: Namespace, right_device: str) -> None:
    """A cable between two namespaces, both ends up."""
    left.ip(f"link add {left_device} type veth peer name {right_device} netns {right.path}")
    left.ip(f"link set {left_device} up")
    right.ip(f"link set {right_device} up")
