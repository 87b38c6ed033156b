"""Where members and clients run: each in a network namespace of its own, joined by the switch; or all on loopback.

Namespaces, their devices and mounts have no names. They live as long as this process and what it started, so that
nothing can be left behind, however it ends; the host's own network and mounts are not touched. It needs root, or a
kernel that lets users make namespaces. Both kinds of network look the same from outside:

    network = Namespaces(["m1", "m2", "m3"])
    network.host("m1")                      # its address
    network.command("m1", ["raykube", …])   # the command that runs there
    network.set_rules(blocked=[("m1", "m2")])
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x80, 0x00020000, 0x10000000, 0x40000000
MS_REMOUNT, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20, 0x4000, 0x40000, 2
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFMTU, SIOCSIFNETMASK = 0x8914, 0x8916, 0x8922, 0x891C
IFF_UP, IFF_RUNNING = 0x1, 0x40
MTU_BYTES = 16_000  # few large packets: the switch is a Python program
CLIENT = "client"

_libc = ctypes.CDLL(None, use_errno=True)


class Impossible(Exception):
    """This system does not let us make namespaces."""


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise Impossible(f"{name}: {os.strerror(number)}")


class Loopback:
    """All on 127.0.0.1, with nothing between them."""

    has_rules = False

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        ports: list[socket.socket] = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * len(self._names))]
        self._ports = [each.getsockname()[1] for each in ports]
        for each in ports:
            each.close()

    def client_address(self, name: str) -> str:
        """`host:port` that the member listens on for clients."""
        return f"127.0.0.1:{self._ports[2 * self._names.index(name)]}"

    def peer_address(self, name: str) -> str:
        """`host:port` that the member listens on for other members."""
        return f"127.0.0.1:{self._ports[2 * self._names.index(name) + 1]}"

    def command(self, name: str, command: list[str]) -> list[str]:
        """What to execute so that `command` runs at the member's place, and ends with this process."""
        return ["setpriv", "--pdeathsig=KILL", *command]

    def set_rules(self, **rules: object) -> None:
        raise Impossible("loopback has no partitions")

    def shift_clock(self, seconds: float) -> None:
        """What is started after this has a monotonic clock that is ahead by so much; where that is possible."""

    def close(self) -> None:
        pass


class Namespaces:
    """A namespace for each member; this process moves into the clients' own."""

    has_rules = True

    def __init__(self, names: Iterable[str], seed: int = 0) -> None:
        """Must be called in a process with one thread. Raises Impossible."""
        self._addresses = {name: f"10.77.0.{number}" for number, name in enumerate([CLIENT, *names], 1)}
        _become_root_of_namespaces()
        self._spaces: dict[str, int] = {}
        devices: dict[str, int] = {}
        for name, address in self._addresses.items():
            _call("unshare", CLONE_NEWNET)
            self._spaces[name] = os.open("/proc/self/ns/net", os.O_RDONLY)
            try:
                devices[address] = _open_tunnel(address)
            except OSError as error:
                raise Impossible(f"a tunnel device: {error}") from None
        _call("setns", self._spaces[CLIENT], CLONE_NEWNET)
        self._switch = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig=KILL",
                sys.executable,
                "-m",
                "tests.robustness.switch",
                json.dumps(devices),
                str(seed),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=list(devices.values()),
        )
        for device in devices.values():
            os.close(device)
        self.set_rules()

    def client_address(self, name: str) -> str:
        return f"{self._addresses[name]}:2379"

    def peer_address(self, name: str) -> str:
        return f"{self._addresses[name]}:2380"

    def command(self, name: str, command: list[str]) -> list[str]:
        space = f"/proc/{os.getpid()}/fd/{self._spaces[name]}"
        return ["setpriv", "--pdeathsig=KILL", "nsenter", f"--net={space}", *command]

    def set_rules(self, *, blocked: Iterable[tuple[str, str]] = (), **rules: object) -> None:
        """These rules hold from now on, in place of the others; see the switch. `blocked` names members, or CLIENT."""
        pairs = [(self._addresses[one], self._addresses[other]) for one, other in blocked]
        assert self._switch.stdin is not None and self._switch.stdout is not None
        self._switch.stdin.write(json.dumps({"blocked": pairs, **rules}).encode() + b"\n")
        self._switch.stdin.flush()
        assert self._switch.stdout.readline() == b"ok\n", "the switch is gone"

    def shift_clock(self, seconds: float) -> None:
        _call("unshare", CLONE_NEWTIME)
        offset = f"{int(seconds)} {int(seconds % 1 * 1e9)}"
        Path("/proc/self/timens_offsets").write_text(f"monotonic {offset}\nboottime {offset}\n")

    def close(self) -> None:
        assert self._switch.stdin is not None
        self._switch.stdin.close()
        self._switch.wait(10)
        for space in self._spaces.values():
            os.close(space)


def mount_memory(folder: Path, size_bytes: int) -> None:
    """A file system of its own at `folder`, in memory, with room for `size_bytes`. Raises Impossible."""
    folder.mkdir(parents=True, exist_ok=True)
    _call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size_bytes}".encode())


def resize_memory(folder: Path, size_bytes: int) -> None:
    """Gives what `mount_memory` mounted another size, not below what is used. Raises Impossible."""
    _call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", MS_REMOUNT, f"size={size_bytes}".encode())


def unmount(folder: Path) -> None:
    """Ends what `mount_memory` began."""
    _call("umount2", str(folder).encode(), MNT_DETACH)


def _become_root_of_namespaces() -> None:
    """New namespaces for the network and the mounts, and for users when we are not root."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWNET | CLONE_NEWNS | (CLONE_NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    # What is mounted here is not to be seen outside.
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def _open_tunnel(address: str) -> int:
    """The descriptor of a tunnel device with `address`, in the present namespace; loopback is up as well."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", b"tun0", IFF_TUN | IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _set(control, SIOCSIFADDR, b"tun0", _socket_address(address))
        _set(control, SIOCSIFNETMASK, b"tun0", _socket_address("255.255.255.0"))
        _set(control, SIOCSIFMTU, b"tun0", struct.pack("i", MTU_BYTES))
        for interface in (b"tun0", b"lo"):
            _set(control, SIOCSIFFLAGS, interface, struct.pack("H", IFF_UP | IFF_RUNNING))
    return device


def _set(control: socket.socket, what: int, interface: bytes, value: bytes) -> None:
    fcntl.ioctl(control, what, struct.pack("16s24s", interface, value))


def _socket_address(address: str) -> bytes:
    return struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address))
