"""Tells when routes or links of this machine change, whoever changes them: a route that somebody removed comes back."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger(__name__)

GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP: links, IPv4 addresses and routes, IPv6 addresses and routes
READ_BYTES_MAX = 65536


class RouteWatch:
    """Calls `on_change` in the event loop; what changed is not looked at."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Raises OSError where the kernel has no netlink."""
        found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        found.bind((0, GROUPS))
        self._socket = found
        asyncio.get_running_loop().add_reader(found, self._read)

    def _read(self) -> None:
        assert self._socket is not None
        with suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(READ_BYTES_MAX)
                except BlockingIOError:
                    raise
                except OSError as error:  # ENOBUFS: more news than the kernel keeps, which is news enough
                    log.debug("news of the kernel were lost: %s", error)
        self._on_change()

    def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
