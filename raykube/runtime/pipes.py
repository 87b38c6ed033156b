"""Pipes and terminals on the event loop: one reader or writer each, with back-pressure, nothing buffered."""

import asyncio
import os
from collections.abc import Callable

READ_BYTES = 64 * 1024


async def _ready(fd: int, add: Callable[..., None], remove: Callable[[int], object]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, wake)
    try:
        await ready
    finally:
        remove(fd)


async def read(fd: int, bytes_max: int = READ_BYTES) -> bytes:
    """What is there, once something is; nothing at the end, which for a terminal is an error of its own."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    while True:
        try:
            return os.read(fd, bytes_max)
        except BlockingIOError:
            await _ready(fd, loop.add_reader, loop.remove_reader)
        except OSError:
            return b""


async def write(fd: int, data: bytes) -> None:
    """Raises OSError when nobody reads any more."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            await _ready(fd, loop.add_writer, loop.remove_writer)
