"""Listening sockets, with errors that tell the user what to do."""

import errno
import ipaddress
import os
import resource
import socket
import stat
from contextlib import suppress
from pathlib import Path

BACKLOG = 1024


def allow_many_files() -> None:
    """Raises this process' limit of open files as far as it may: the usual one of 1024 is for programs that `select`.

    At the limit clients are not let in, and worse, files cannot be opened.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """`host:port` or `[v6]:port` → (host, port). Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if default_port is not None and (not separator or text.endswith("]")):
        host, port = text, str(default_port)
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """(host, port) → `host:port`, v6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(
    host: str,
    port: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    shared: bool = False,
    dual: bool = False,
) -> socket.socket:
    """A bound socket (TCP: listening), not blocking. `shared`: other processes of this user may hold it too. `dual`:
    `::` takes IPv4 as well, as it does for programs in Go; then `0.0.0.0` cannot be bound beside it.

    Raises OSError with a line that says what to do; its errno is the system's.
    """
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise OSError(errno.EINVAL, f"cannot listen on {host!r}: give an IP address") from None
    found = socket.socket(family, kind)
    try:
        if kind is socket.SOCK_STREAM:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual))
        found.bind((host, port))
        if kind is socket.SOCK_STREAM:
            found.listen(BACKLOG)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise OSError(error.errno, _advice(error, host, port)) from None
    return found


def _advice(error: OSError, host: str, port: int) -> str:
    address = join_address(host, port)
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {address}: it is in use; find by whom with `ss -lntup 'sport = :{port}'`"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: it is no address of this machine"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"cannot listen on {address}: ports below the limit need root; "
            f"`sysctl -w net.ipv4.ip_unprivileged_port_start={port}` lets everybody, or choose a higher port"
        )
    return f"cannot listen on {address}: {error.strerror or error}"


def socket_folder_flaw(folder: Path) -> str:
    """Why another user could put a socket of theirs into `folder`; "" when only this user and root can."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "is a link, not a folder" if stat.S_ISLNK(found.st_mode) else "is not a folder"
    if found.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        return "can be written by other users"
    return ""
