"""Shutdown of the machine: the order of pods, and a kubelet on a bus where a login manager says that it begins.

The bus is a real dbus-daemon of the test's own. A real systemd-logind would end this machine, so a small service stands
in for it: it hands out locks as pipes, and sees when they are closed.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from dbus_fast import PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusSignature, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from raykube.kubelet.core.shutdown import Group, assigned, groups
from raykube.kubelet.logind import Logind, NoLogind
from tests.kit.require import require_program
from tests.kit.waiting import until
from tests.kubelet.conftest import NODE, Node, running_node, shell

CRITICAL = 2_000_000_000


def test_two_periods_are_two_groups() -> None:
    assert groups(0, 0, {}) == ()
    assert groups(30, 10, {}) == (Group(0, 20), Group(CRITICAL, 10))
    assert groups(0, 0, {"100": "7", "-5": "3"}) == (Group(-5, 3), Group(100, 7))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((10, 20, {}), "must be at most --shutdown-grace-period"),
        ((0.5, 0, {}), "at least 1s"),
        ((10, 0, {"1": "1"}), "goes without"),
        ((0, 0, {"high": "1"}), "want PRIORITY=SECONDS"),
    ],
)
def test_flags_that_make_no_sense(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        groups(*given)


def test_pods_end_by_priority() -> None:
    def pod(priority: int) -> dict[str, Any]:
        return {"metadata": {"name": str(priority)}, "spec": {"priority": priority}}

    order = groups(0, 0, {"10": "1", "20": "2", "30": "3"})
    found = assigned(order, map(pod, (0, 10, 15, 20, 30, 99)))
    names = [[one["metadata"]["name"] for one in members] for _, members in found]
    assert names == [["0", "10", "15"], ["20"], ["30", "99"]]


class Login(ServiceInterface):
    """Stands in for org.freedesktop.login1.Manager."""

    def __init__(self, delay_us: int) -> None:
        super().__init__("org.freedesktop.login1.Manager")
        self.delay_us = delay_us
        self.locks: list[int] = []  # our ends of the pipes
        self.asked: list[tuple[str, str, str]] = []

    @dbus_method()
    def Inhibit(
        self,
        what: DBusStr,
        who: DBusStr,
        why: DBusStr,
        mode: DBusStr,
    ) -> Annotated[int, DBusSignature("h")]:
        self.asked.append((what, who, mode))
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self.locks.append(ours)
        asyncio.get_running_loop().call_later(1, os.close, theirs)  # by then it was sent
        return theirs

    @dbus_property(access=PropertyAccess.READ)
    def InhibitDelayMaxUSec(self) -> Annotated[int, DBusSignature("t")]:
        return self.delay_us

    @dbus_signal()
    def PrepareForShutdown(self, begins: bool) -> Annotated[bool, DBusSignature("b")]:
        return begins


class Systemd(ServiceInterface):
    """Stands in for org.freedesktop.systemd1.Manager: SIGHUP makes the login manager read its files."""

    def __init__(self, login: Login, delay_file: Path) -> None:
        super().__init__("org.freedesktop.systemd1.Manager")
        self._login = login
        self._delay_file = delay_file

    @dbus_method()
    def KillUnit(
        self,
        unit: DBusStr,
        whom: DBusStr,
        number: Annotated[int, DBusSignature("i")],
    ) -> None:
        assert (unit, whom, number) == ("systemd-logind.service", "all", 1)
        seconds = self._delay_file.read_text().rpartition("InhibitDelayMaxSec=")[2]
        self._login.delay_us = int(seconds) * 1_000_000


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[str]:
    program = require_program("dbus-daemon")
    address = f"unix:path={tmp_path}/bus"
    daemon = await asyncio.create_subprocess_exec(
        program, "--session", "--nofork", "--print-address", f"--address={address}", stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    await daemon.stdout.readline()  # it listens before it says where
    yield address
    daemon.terminate()
    await daemon.wait()


@pytest.fixture
async def login(bus: str, tmp_path: Path) -> AsyncIterator[Login]:
    login = Login(30_000_000)
    connection = await MessageBus(bus_address=bus, negotiate_unix_fd=True).connect()
    connection.export("/org/freedesktop/login1", login)
    connection.export("/org/freedesktop/systemd1", Systemd(login, tmp_path / "conf.d" / "99-kubelet.conf"))
    await connection.request_name("org.freedesktop.login1")
    await connection.request_name("org.freedesktop.systemd1")
    yield login
    connection.disconnect()
    for lock in login.locks:
        os.close(lock)


def is_released(lock: int) -> bool:
    """Whether nobody holds the other end any more."""
    try:
        return os.read(lock, 1) == b""
    except BlockingIOError:
        return False


@pytest.mark.integration
async def test_a_delay_that_is_too_short_is_raised(bus: str, login: Login, tmp_path: Path) -> None:
    logind = Logind(bus, tmp_path / "conf.d" / "99-kubelet.conf")
    await logind.connect()
    await logind.ensure_delay(20)
    assert not (tmp_path / "conf.d").exists()  # long enough as it is
    await logind.ensure_delay(45)
    assert login.delay_us == 45_000_000
    logind.close()


async def test_without_a_bus(tmp_path: Path) -> None:
    with pytest.raises(NoLogind, match="no system bus"):
        await Logind(f"unix:path={tmp_path}/none").connect()


def ready(node: Node) -> tuple[str, str]:
    shown = node.store.objects.get(("nodes", "", NODE), {"status": {"conditions": []}})["status"]["conditions"]
    return next(((one["status"], one["message"]) for one in shown if one["type"] == "Ready"), ("", ""))


@pytest.mark.integration
async def test_pods_end_before_the_machine(
    bus: str, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus)
    ends = tmp_path / "ends"

    def lingers(name: str, seconds: int) -> Any:
        return shell(f"trap 'sleep {seconds}; echo {name} >> {ends}; exit 0' TERM; while :; do sleep 0.05; done")

    async with running_node(shutdown_grace_period=20, shutdown_grace_period_critical_pods=5) as node:
        await node.pod("plain", lingers("plain", 1))
        await node.pod("critical", lingers("critical", 0), priority=CRITICAL)
        await node.phase("plain", "Running")
        await node.phase("critical", "Running")
        await until(lambda: login.locks, 20)
        assert login.asked == [("shutdown", "kubelet", "delay")]
        login.PrepareForShutdown(True)
        await until(lambda: is_released(login.locks[0]), 30, "the lock is released")
        assert ends.read_text().split() == ["plain", "critical"]
        for name in ("plain", "critical"):
            status = (await node.phase(name, "Failed"))["status"]
            assert status["reason"] == "Terminated"
            assert status["message"] == "Pod was terminated in response to imminent node shutdown."
            (target,) = [one for one in status["conditions"] if one["type"] == "DisruptionTarget"]
            assert target["reason"] == "TerminationByKubelet"
        await until(lambda: ready(node) == ("False", "node is shutting down"), 20)
        await node.event("NodeShutdown", "Shutdown manager detected shutdown event")
        await node.pod("late", shell("sleep 1000"))
        late = (await node.phase("late", "Failed"))["status"]
        assert (late["reason"], late["message"]) == ("NodeShutdown", "Pod was rejected as the node is shutting down.")
        # Called off: pods may come again, and the next shutdown waits again.
        login.PrepareForShutdown(False)
        await until(lambda: len(login.locks) == 2, 20)
        await until(lambda: ready(node)[0] == "True", 20)
        await node.pod("next", shell("sleep 1000"))
        await node.phase("next", "Running")
