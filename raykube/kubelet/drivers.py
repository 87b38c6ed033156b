"""Drivers of devices on this machine: who put a socket into the registration directory, and how each is called.

    <root dir>/plugins_registry/NAME.sock ──GetInfo──► type, name, endpoint ──► Driver, until its socket is gone
                                          ◄──NotifyRegistrationStatus──

The directory is looked at once a second: its time tells whether anything came or went. A socket that does not answer is
asked again, less and less often. Of drivers that are gone for half a minute, also while this kubelet did not run, the
ResourceSlices are deleted: nobody should be sent here for them.
"""

import asyncio
import logging
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.client.api import ApiClient
from raykube.kubelet.cri import failure
from raykube.pb import dra_pb2, dra_v1beta1_pb2, registration_pb2
from raykube.rpc import RpcError
from raykube.rpc import channel as rpc

log = logging.getLogger(__name__)

SLICES = builtin("resource.k8s.io/v1", "ResourceSlice")
KIND = "DRAPlugin"
LOOK_S = 1.0
TIMEOUT_S = 10.0
GONE_S = 30.0
ASK = Backoff(initial_s=0.5, max_s=120.0)
REGISTRATION = registration_pb2.DESCRIPTOR.services_by_name["Registration"]
# The services of drivers, the one that is preferred first.
VERSIONS = {
    "v1.DRAPlugin": dra_pb2.DESCRIPTOR.services_by_name["DRAPlugin"],
    "v1beta1.DRAPlugin": dra_v1beta1_pb2.DESCRIPTOR.services_by_name["DRAPlugin"],
}


@dataclass(slots=True)
class Driver:
    """A registered driver."""

    name: str
    channel: rpc.Channel
    stub: Any


@dataclass(slots=True)
class _Socket:
    inode: int
    driver: str = ""  # "": not registered
    failures: int = 0
    ask_at: float = 0.0


class Drivers:
    """`on_registered` is called when one came."""

    def __init__(self, root: Path, client: ApiClient, node: str, on_registered: Callable[[], None]) -> None:
        self._directory = root / "plugins_registry"
        self._client = client
        self._node = node
        self._on_registered = on_registered
        self._drivers: dict[str, Driver] = {}
        self._sockets: dict[Path, _Socket] = {}
        self._seen = -1  # when the directory changed last, ns
        self._gone: dict[str, float] = {}  # drivers that left, and when
        self._began = time.monotonic()

    def get(self, name: str) -> Driver | None:
        return self._drivers.get(name)

    async def run(self) -> None:
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        wiped = False
        while True:
            try:
                await self._look()
            except OSError as error:
                log.warning("cannot look for drivers in %s: %s", self._directory, error.strerror)
            now = time.monotonic()
            late = {name for name, since in self._gone.items() if now - since >= GONE_S}
            first = not wiped and now - self._began >= GONE_S
            if (late or first) and await self._wipe(late, first):
                wiped = wiped or first
                for name in late:
                    del self._gone[name]
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        for driver in self._drivers.values():
            await driver.channel.close()
        self._drivers.clear()

    async def _look(self) -> None:
        """Raises OSError."""
        changed = self._directory.stat().st_mtime_ns
        if changed != self._seen:
            await self._take_in({path: path.stat() for path in self._directory.iterdir()})
            self._seen = changed
        now = time.monotonic()
        for path, one in list(self._sockets.items()):
            if not one.driver and one.ask_at <= now:
                await self._register(path, one)

    async def _take_in(self, there: dict[Path, Any]) -> None:
        sockets = {
            path: found.st_ino
            for path, found in there.items()
            if stat.S_ISSOCK(found.st_mode) and not path.name.startswith(".")
        }
        for path, one in list(self._sockets.items()):
            if sockets.get(path) != one.inode:
                del self._sockets[path]
                if one.driver and not any(other.driver == one.driver for other in self._sockets.values()):
                    await self._forget(one.driver)
        for path, inode in sockets.items():
            if path not in self._sockets:
                self._sockets[path] = _Socket(inode)

    async def _forget(self, name: str) -> None:
        log.info("driver %s is gone", name)
        self._gone[name] = time.monotonic()
        driver = self._drivers.pop(name, None)
        if driver is not None:
            await driver.channel.close()

    async def _register(self, path: Path, one: _Socket) -> None:
        channel = rpc.Channel(f"unix:{path}")
        try:
            stub: Any = channel.stub(REGISTRATION)
            info = await stub.GetInfo(registration_pb2.InfoRequest(), timeout=TIMEOUT_S)
            problem = _refusal(info)
            if not problem:
                await self._add(info, path)
                one.driver = info.name
            answer = registration_pb2.RegistrationStatus(plugin_registered=not problem, error=problem)
            await stub.NotifyRegistrationStatus(answer, timeout=TIMEOUT_S)
        except RpcError as error:
            problem = failure(error)
        finally:
            await channel.close()
        if problem and not one.driver:
            one.failures += 1
            one.ask_at = time.monotonic() + ASK.delay_s(one.failures)
            log.warning("%s is no driver yet: %s", path, problem)

    async def _add(self, info: registration_pb2.PluginInfo, path: Path) -> None:
        old = self._drivers.get(info.name)
        if old is not None:
            await old.channel.close()  # another instance of it, which takes over
        channel = rpc.Channel(f"unix:{info.endpoint or path}")
        version = next(name for name in VERSIONS if name in info.supported_versions)
        self._drivers[info.name] = Driver(info.name, channel, channel.stub(VERSIONS[version]))
        self._gone.pop(info.name, None)
        log.info("driver %s is registered", info.name)
        self._on_registered()

    async def _wipe(self, late: Collection[str], unknown: bool) -> bool:
        """Deletes this node's slices of drivers that left long ago and, where they are meant, of those that never came.

        Answers whether it is known that none is left. One that left just now may be back in a moment.
        """
        try:
            found, _ = await self._client.list(SLICES, field_selector=f"spec.nodeName={self._node}")
            for one in found:
                driver = one["spec"]["driver"]
                never_came = driver not in self._drivers and driver not in self._gone
                if driver in late or (unknown and never_came):
                    meta = one["metadata"]
                    await self._client.delete(SLICES, "", meta["name"], uid=meta["uid"])
        except ApiError as error:
            log.debug("slices of drivers that are gone stay for now: %s", error)
            return error.code == 404
        return True


def _refusal(info: registration_pb2.PluginInfo) -> str:
    """Why somebody cannot be a driver here; "" when it can."""
    if info.type != KIND:
        return f"no handler registered for plugin type: {info.type} at socket"
    if not VERSIONS.keys() & set(info.supported_versions):
        offered = ", ".join(info.supported_versions)
        return f"none of the versions [{offered}] is supported: {', '.join(VERSIONS)} are"
    return "" if info.name else "the driver has no name"
