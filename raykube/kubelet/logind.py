"""systemd's login manager, over D-Bus: delays a shutdown of the machine, and hears of it before it begins.

A *delay lock* is a file descriptor: while it is open, systemd waits with the shutdown, at most InhibitDelayMaxSec.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

LOGIN = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
DELAY_FILE = Path("/etc/systemd/logind.conf.d/99-kubelet.conf")
TIMEOUT_S = 5.0
RELOAD_LOOKS = 20  # until the login manager shows its new configuration


class NoLogind(OSError):
    """There is no login manager to talk to, or it refuses; the message says why."""


class Logind:
    def __init__(self, bus_address: str | None = None, delay_file: Path = DELAY_FILE) -> None:
        """`bus_address`: the system's bus when None."""
        self._address = bus_address
        self._delay_file = delay_file
        self._bus: MessageBus | None = None
        self._lock = -1
        self._signals: asyncio.Queue[bool] = asyncio.Queue()

    async def connect(self) -> None:
        """Raises NoLogind."""
        try:
            bus = MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
            async with asyncio.timeout(TIMEOUT_S):
                self._bus = await bus.connect()
            bus.add_message_handler(self._hear)
            rule = f"type='signal',interface='{LOGIN[2]}',member='PrepareForShutdown',path='{LOGIN[1]}'"
            daemon = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
            await self._call(daemon, "AddMatch", "s", [rule])
        except (OSError, DBusError, TimeoutError, ValueError) as error:
            raise NoLogind(f"no system bus: {error or type(error).__name__}") from None

    def _hear(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "PrepareForShutdown" and message.body:
            self._signals.put_nowait(bool(message.body[0]))

    async def shutdowns(self) -> AsyncIterator[bool]:
        """True when the machine is about to shut down, False when that was called off."""
        while True:
            yield await self._signals.get()

    async def delay_lock(self) -> None:
        """Takes the lock, unless it is held. Raises NoLogind."""
        if self._lock >= 0:
            return
        words = ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"]
        answer = await self._call(LOGIN, "Inhibit", "ssss", words)
        if not answer.unix_fds:
            raise NoLogind("the login manager gave no lock")
        self._lock = answer.unix_fds[answer.body[0]]

    def release(self) -> None:
        """Lets the shutdown go on."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def ensure_delay(self, seconds: int) -> None:
        """Makes the login manager wait so long for its locks. Raises NoLogind."""
        if await self._delay_s() >= seconds:
            return
        try:
            self._delay_file.parent.mkdir(parents=True, exist_ok=True)
            self._delay_file.write_text(f"# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n")
        except OSError as error:
            raise NoLogind(f"cannot write {self._delay_file}: {error.strerror}") from None
        await self._call(SYSTEMD, "KillUnit", "ssi", ["systemd-logind.service", "all", 1])
        for _ in range(RELOAD_LOOKS):
            if await self._delay_s() >= seconds:
                return
            await asyncio.sleep(0.1)
        raise NoLogind(f"it waits for less than {seconds} s: set InhibitDelayMaxSec in logind.conf")

    async def _delay_s(self) -> float:
        answer = await self._call(
            (*LOGIN[:2], "org.freedesktop.DBus.Properties"), "Get", "ss", [LOGIN[2], "InhibitDelayMaxUSec"]
        )
        value = answer.body[0]
        return float(value.value if isinstance(value, Variant) else value) / 1e6

    async def _call(self, place: tuple[str, str, str], member: str, signature: str, body: list[Any]) -> Message:
        assert self._bus is not None, "connect first"
        name, path, interface = place
        request = Message(
            destination=name, path=path, interface=interface, member=member, signature=signature, body=body
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._bus.call(request)
        except (OSError, DBusError, TimeoutError, EOFError) as error:
            raise NoLogind(f"{member}: {error or type(error).__name__}") from None
        if answer is None or answer.message_type is MessageType.ERROR:
            raise NoLogind(f"{member}: {answer.body[0] if answer is not None and answer.body else 'refused'}")
        return answer

    def close(self) -> None:
        self.release()
        if self._bus is not None:
            with suppress(OSError):
                self._bus.disconnect()
            self._bus = None
