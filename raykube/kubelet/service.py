"""The kubelet as a service: its life, from the check of its flags to the end of its last task."""

import asyncio
import logging
import socket
from collections.abc import Coroutine
from typing import Any

from raykube.kubelet import configfile, leaving
from raykube.kubelet.config import Config
from raykube.kubelet.parts import Parts
from raykube.kubelet.runtimefacts import PROCESS_RUNTIME
from raykube.kubelet.settings import Settings, settings_of
from raykube.kubelet.workers import Workers
from raykube.rpc.folder_lock import FolderLock

log = logging.getLogger(__name__)


class Service:
    """Pods run on while it is stopped; a new one on the same directory and runtime takes them over."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = (config.hostname_override or socket.gethostname()).lower()
        self._settings: Settings | None = None
        self._workers = Workers(self._spawn)
        self._parts: Parts | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None
        self._lock: FolderLock | None = None

    async def start(self) -> None:
        config = self._config = configfile.merged(self._config)
        self._settings = settings_of(config, self._name)
        self._failed = asyncio.get_running_loop().create_future()
        self._lock = FolderLock(config.root_dir, 0o755, "kubelet", "--root-dir")
        try:
            self._make_directory()
            parts = self._parts = Parts(config, self._settings, self._workers)
            await parts.start()
        except BaseException:
            await self.stop()
            raise
        for work in (*parts.background(), parts.follow_pods()):
            self._spawn(work)

    def _make_directory(self) -> None:
        directory = self._config.root_dir / "pods"
        try:
            directory.mkdir(exist_ok=True)
            directory.chmod(0o750)  # pods' Secrets lie below, readable for whatever user a container has
        except OSError as error:
            raise OSError(f"cannot make {directory}: {error.strerror}; choose another --root-dir") from None

    async def wait(self) -> None:
        assert self._failed is not None, "start first"
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.shutdown.on_stop()
        self._workers.close()
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if parts is not None:
            await parts.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    async def clear(self) -> None:
        """Ends all pods of this node and takes its volumes off: the machine is no node any more. Needs no start.

        Raises RuntimeError when some may still run; those keep their volumes.
        """
        tools = self._workers.tools
        ends_pods = tools is not None and tools.facts.runtime_name == PROCESS_RUNTIME
        await leaving.end_pods(self._config, self._name, ends_pods)

    def status(self) -> dict[str, object]:
        parts, settings = self._parts, self._settings
        port = parts.server.port if parts is not None else 0
        return {
            "role": "",
            "healthy": parts is not None and parts.node.healthy and parts.node.registered.is_set(),
            "detail": f"node {self._name}, {len(self._workers)} pods",
            "addresses": {"https": f"{settings.address}:{port}"} if settings is not None and port else {},
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        log.critical("the kubelet failed", exc_info=task.exception())
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError("unknown"))
