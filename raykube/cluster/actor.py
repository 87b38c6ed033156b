"""The one actor class: a process on a machine that hosts a component.

The component's services run in a thread with an event loop of their own, so that no call over Ray can stall them and
they stall no call. The thread starts when the actor is made, which Ray does again after a crash: a restarted actor
needs nobody to tell it to serve. A service that ends by itself ends the process, and Ray makes a new one.
"""

import asyncio
import importlib
import logging
import logging.handlers
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import uvloop
from pydantic import BaseModel, ConfigDict

from raykube.base import collector
from raykube.cluster import processes

log = logging.getLogger("raykube.actor")

RETRY_S = 0.3
RESTART_PAUSE_S = 1.0
CONTAINER_GRACE_S = 2.0
ASK_TIMEOUT_S = 10.0
CLEAR_TIMEOUT_S = 50.0
LOG_BYTES_MAX = 10_000_000


class HostSpec(BaseModel):
    """Everything an actor needs, wherever it lands: no path of the computer that sent it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # "apiserver-raykube-1"
    services: list[tuple[str, dict[str, Any]]]  # (package, flags) in boot order; each is a raykube.<component>
    files: dict[str, bytes]  # absolute path → content, mode 0600: certificates and keys
    log_file: str
    spec_file: str = ""  # where it is kept, so that a newer one counts when the actor is made again
    generation: int = 0  # of the cluster's record that it was made from
    dated: float = 0.0  # when `files` were read, Unix seconds: of two specs, the later one's certificates count
    cluster: str = ""  # id
    containers_of: tuple[str, str] = ("", "")  # (cluster id, machine) of the containers that go when it is stopped
    start_timeout_s: float = 120.0


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner reads, atomically; an equal file is left alone."""
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def write_files(spec: HostSpec) -> None:
    """Puts the certificates and keys of `spec` where its services read them."""
    for path, content in spec.files.items():
        write_private(Path(path), content)


async def clear_up(service: Any) -> None:
    """Takes away what a service that does not run left on this machine on purpose: containers, network rules.

    Services that leave something have a coroutine method `clear`, which needs no `start` before.
    """
    if hasattr(service, "clear"):
        await service.clear()


async def clear_all(spec: HostSpec, services: Iterable[Any]) -> str:
    """Clears up after the services of `spec`; returns why not all went, "" if it did. Then the spec goes too.

    While its spec lies there, a machine has something that is to be taken away from it: see `leftovers`.
    """
    failures = []
    for service in services:
        try:
            await clear_up(service)
        except Exception as error:  # keeps no other service from it
            log.exception("%s: not all is taken away from this machine", spec.name)
            failures.append(f"{error}" or type(error).__name__)
    if not failures:
        Path(spec.spec_file).unlink(missing_ok=True)
    return "; ".join(failures)


def newest(given: HostSpec) -> HostSpec:
    """What this actor is to be: Ray makes an actor again as it was made first, but the control plane may have moved,
    and certificates were renewed."""
    if not given.spec_file:
        return given
    path = Path(given.spec_file)
    try:
        kept = HostSpec.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        kept = given
    if kept.cluster != given.cluster:
        kept = given
    spec = kept if kept.generation > given.generation else given
    later = kept if kept.dated > given.dated else given
    files = {name: later.files.get(name, content) for name, content in spec.files.items()}
    spec = spec.model_copy(update={"files": files, "dated": later.dated})
    write_private(path, spec.model_dump_json().encode())
    return spec


class ComponentHost:
    """Hosts the services of one placement. Methods may be called from any thread."""

    def __init__(self, spec_json: str) -> None:
        self._spec = newest(HostSpec.model_validate_json(spec_json))
        self._services: list[Any] = []
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._ended = asyncio.Event()  # all services are stopped
        self._failed = threading.Event()  # a service cannot start, or ended with an error
        self._error = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        write_files(self._spec)
        self._log_to_file()
        # Ray makes every new loop of its workers uvloop's, and that opens no netlink sockets, which pyroute2 wants.
        asyncio.set_event_loop_policy(None)
        self._thread = threading.Thread(target=self._run, name=self._spec.name, daemon=True)
        self._thread.start()

    def _log_to_file(self) -> None:
        path = Path(self._spec.log_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=2)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s %(message)s"))
        root = logging.getLogger("raykube")
        root.setLevel(logging.INFO)
        root.addHandler(handler)
        root.propagate = False

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve())
        except Exception:
            log.exception("%s ended", self._spec.name)
            self._failed.set()
        if not self._stopping.is_set():
            time.sleep(RESTART_PAUSE_S)
            os._exit(1)  # Ray makes a new actor process from the same spec

    async def _serve(self) -> None:
        made = []
        for package, flags in self._spec.services:
            config = importlib.import_module(f"{package}.config").Config(**flags)
            made.append((importlib.import_module(f"{package}.service").Service, config))
        collector.settle()
        for service_type, config in made:
            self._services.append(await self._start(service_type, config))
        self._error = ""
        self._started.set()
        log.info("%s serves", self._spec.name)
        endings = [asyncio.create_task(service.wait()) for service in self._services]
        done, _ = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if self._stopping.is_set():
            await self._ended.wait()

    async def _start(self, service_type: Any, config: Any) -> Any:
        """A started service. Tries again and again: what it depends on may not be there yet."""
        deadline = time.monotonic() + self._spec.start_timeout_s
        while True:
            service = service_type(config)  # a new one each time: one that failed to start is stopped for good
            try:
                await service.start()
                return service
            except ValueError as error:
                self._error = str(error)
                raise
            except Exception as error:
                self._error = f"{error}" or type(error).__name__
                log.info("%s cannot start yet: %s", self._spec.name, self._error)
                if time.monotonic() > deadline:
                    raise
                await service.stop()
            await asyncio.sleep(RETRY_S)

    async def _end(self, clear: bool) -> str:
        """Stops all, and with `clear` takes away what is left; returns why not all of that went, "" if it did."""
        try:
            for service in reversed(self._services):
                await service.stop()
            if clear and len(self._services) < len(self._spec.services):
                return self._error or "it had not started"
            return await clear_all(self._spec, reversed(self._services)) if clear else ""
        finally:
            self._ended.set()

    def ready(self, timeout_s: float) -> str:
        """Waits until the services serve; returns "" or why they do not."""
        deadline = time.monotonic() + timeout_s
        while not self._started.wait(0.02):
            if time.monotonic() > deadline or self._failed.is_set() or not self._thread.is_alive():
                return self._error or "it is still starting"
        return ""

    def status(self) -> dict[str, Any]:
        """The last service's status with the pid; unhealthy, with the reason, while it is not serving."""
        if not self._started.is_set():
            return {
                "pid": os.getpid(),
                "healthy": False,
                "role": "",
                "detail": self._error or "starting",
                "addresses": {},
            }
        merged: dict[str, Any] = {"pid": os.getpid(), "healthy": True, "role": "", "detail": "", "addresses": {}}
        for service in self._services:
            status = service.status()
            merged["healthy"] = merged["healthy"] and status["healthy"]
            merged["role"] = status["role"]
            merged["detail"] = ", ".join(filter(None, (merged["detail"], status["detail"])))
            merged["addresses"] |= status["addresses"]
        return merged

    def renew(self, spec_json: str) -> None:
        """Keeps a newer spec for the day when this actor is made again; what runs goes on as it is."""
        newest(HostSpec.model_validate_json(spec_json))

    def renew_files(self, spec_json: str) -> None:
        """Takes over the certificates of a spec, and nothing else of it: what runs reads them when they change."""
        given = HostSpec.model_validate_json(spec_json)
        write_files(newest(self._spec.model_copy(update={"files": given.files, "dated": given.dated})))

    def ask(self, question: str, argument: str) -> str:
        """The answer of the service that knows `question`, a coroutine method of its; "" while it does not serve."""
        service = next((service for service in self._services if hasattr(service, question)), None)
        if service is None or self._loop is None:
            return ""
        answer = asyncio.run_coroutine_threadsafe(getattr(service, question)(argument), self._loop)
        return str(answer.result(ASK_TIMEOUT_S))

    def stop(self, timeout_s: float = 5.0, clear: bool = False) -> str:
        """Stops the services in reverse order, gracefully. With `clear`, what they left on this machine goes too.

        Returns why something of that is still there, "" if nothing is.
        """
        self._stopping.set()
        loop = self._loop
        if loop is None or not self._thread.is_alive():
            return "it was not running" if clear else ""

        future = asyncio.run_coroutine_threadsafe(self._end(clear), loop)
        limit_s = timeout_s + (CLEAR_TIMEOUT_S if clear else 0.0)
        problem = ""
        try:
            problem = future.result(limit_s)
        except TimeoutError:
            problem = f"it did not end within {limit_s:.0f} s"
            log.warning("%s: %s", self._spec.name, problem)
        except Exception as error:
            problem = f"{error}" or type(error).__name__
            log.exception("%s did not stop cleanly", self._spec.name)
        cluster_id, machine = self._spec.containers_of
        if cluster_id:
            # Only this machine can find its containers; the operator's `down` may run on another one.
            processes.end(cluster_id, machine, role="", grace_s=CONTAINER_GRACE_S)
        return problem if clear else ""
