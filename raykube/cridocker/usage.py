"""What containers and sandboxes use, as docker counts it."""

import asyncio
import time
from typing import Any

from raykube.cridocker.containers import Containers
from raykube.cridocker.core import answers, labels
from raykube.cridocker.engine import Engine, EngineError
from raykube.cridocker.sandboxes import Sandboxes
from raykube.pb import cri_pb2
from raykube.rpc import Code

Object = dict[str, Any]

ASKED_AT_ONCE = 16  # docker reads a container's control groups for each


class Usage:
    def __init__(self, engine: Engine, containers: Containers, sandboxes: Sandboxes) -> None:
        self._engine = engine
        self._containers = containers
        self._sandboxes = sandboxes
        self._room = asyncio.Semaphore(ASKED_AT_ONCE)

    async def _stats(self, container_id: str) -> Object | None:
        """None: it is gone."""
        async with self._room:
            try:
                query: Object = {"stream": False, "one-shot": True}
                found: Object = await self._engine.get(f"/containers/{container_id}/stats", **query)
            except EngineError as error:
                if error.code is Code.NOT_FOUND:
                    return None
                raise
        return found

    async def _of(self, row: Object) -> cri_pb2.ContainerStats | None:
        stats = await self._stats(row["Id"])
        if stats is None:
            return None
        return answers.container_stats(row, stats, time.time_ns(), self._engine.info["DockerRootDir"])

    async def containers(
        self, container_id: str = "", sandbox_id: str = "", selector: dict[str, str] | None = None
    ) -> list[cri_pb2.ContainerStats]:
        """Of containers that run."""
        rows = await self._containers.rows(selector, sandbox_id, size=True)
        wanted = [row for row in rows if row["State"] == "running" and row["Id"].startswith(container_id)]
        return [one for one in await asyncio.gather(*(self._of(row) for row in wanted)) if one is not None]

    async def sandboxes(
        self, sandbox_id: str = "", selector: dict[str, str] | None = None
    ) -> list[cri_pb2.PodSandboxStats]:
        """Of sandboxes that run, with their containers."""
        rows = [
            row
            for row in await self._sandboxes.rows(selector or {})
            if row["State"] == "running" and row["Id"].startswith(sandbox_id)
        ]
        members: dict[str, list[Object]] = {}
        for row in await self._containers.rows(size=True):
            if row["State"] == "running":
                members.setdefault(row["Labels"][labels.SANDBOX], []).append(row)
        shown = await asyncio.gather(*(self._pod(row, members.get(row["Id"], [])) for row in rows))
        return [one for one in shown if one is not None]

    async def _pod(self, row: Object, members: list[Object]) -> cri_pb2.PodSandboxStats | None:
        own = await self._stats(row["Id"])
        if own is None:
            return None
        found = await asyncio.gather(*(self._of(one) for one in members))
        return answers.sandbox_stats(row, own, [one for one in found if one is not None], time.time_ns())
