"""Sandboxes: containers of the pause image."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from raykube.cridocker.core import answers, labels, requests
from raykube.cridocker.core.requests import Host
from raykube.cridocker.engine import Engine, EngineError
from raykube.cridocker.logs import Logs
from raykube.cridocker.network import NetworkError, Networks
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

Object = dict[str, Any]

RESOLVER = ".resolv.conf"


class Sandboxes:
    """`networks` is None where pods are on Docker's own bridge; `folder`: where resolv.conf files lie."""

    def __init__(
        self, engine: Engine, networks: Networks | None, logs: Logs, image: str, folder: Path, host: Host
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._logs = logs
        self._image = image
        self._folder = folder
        self._host = host

    async def recover(self) -> None:
        """Takes back what is left of sandboxes that are gone: networks and files."""
        there = {row["Id"] for row in await self.rows({})}
        for path in self._folder.glob(f"*{RESOLVER}"):
            if path.name.removesuffix(RESOLVER) not in there:
                path.unlink(missing_ok=True)
        if self._networks is None:
            return
        for sandbox_id in self._networks.known():
            if sandbox_id not in there:
                try:
                    await self._networks.remove(sandbox_id, "")
                except NetworkError as error:
                    log.error("the network of sandbox %s is left behind: %s", sandbox_id, error)

    async def run(self, config: cri_pb2.PodSandboxConfig, handler: str = "") -> str:
        """`handler`: one of dockerd's runtimes, for the pod's containers too. Raises RpcError; then nothing is left."""
        if handler and handler not in (self._engine.info.get("Runtimes") or {}):
            raise RpcError(Code.UNKNOWN, f"failed to get sandbox runtime: no runtime for {handler!r} is configured")
        plugin = "bridge" if self._networks is None else "cni"
        request = requests.sandbox(config, self._image, plugin, self._host)
        if handler:
            request["HostConfig"]["Runtime"] = handler
        name = labels.name(labels.SANDBOX_NAME, config.metadata, config.metadata.attempt)
        await self._need_image()
        sandbox_id = str((await self._engine.post("/containers/create", request, name=name))["Id"])
        try:
            await self._engine.post(f"/containers/{sandbox_id}/start")
            if self._networks is not None and not answers.is_on_host(config):
                await self._networks.add(sandbox_id, await self._namespace(sandbox_id), config)
        except BaseException as error:
            await asyncio.shield(self._undo(sandbox_id))
            if isinstance(error, NetworkError):
                message = f'failed to set up network for sandbox "{sandbox_id}": {error}'
                raise RpcError(Code.UNKNOWN, message) from None
            raise
        return sandbox_id

    async def _need_image(self) -> None:
        try:
            await self._engine.get(f"/images/{self._image}/json")
        except EngineError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            name, tag = answers.split_reference(self._image)
            async for told in self._engine.lines("POST", "/images/create", fromImage=name, tag=tag):
                if "error" in told:
                    raise RpcError(
                        Code.UNKNOWN, f"failed to get sandbox image {self._image!r}: {told['error']}"
                    ) from None

    async def _namespace(self, sandbox_id: str) -> str:
        """Path of its network namespace; "" when it does not run."""
        try:
            state = (await self._engine.get(f"/containers/{sandbox_id}/json"))["State"]
        except EngineError as error:
            if error.code is Code.NOT_FOUND:
                return ""
            raise
        return f"/proc/{state['Pid']}/ns/net" if state["Running"] and state["Pid"] else ""

    async def _undo(self, sandbox_id: str) -> None:
        with suppress(RpcError):
            await self.stop(sandbox_id)
            await self.remove(sandbox_id)

    async def inspect(self, sandbox_id: str) -> Object:
        """Raises RpcError, NOT_FOUND for what is no sandbox of ours."""
        found: Object = await self._engine.get(f"/containers/{sandbox_id}/json")
        if (found["Config"].get("Labels") or {}).get(labels.TYPE) != labels.IS_SANDBOX:
            raise RpcError(Code.NOT_FOUND, f"No such sandbox: {sandbox_id}")
        return found

    async def rows(self, selector: dict[str, str], **query: Any) -> list[Object]:
        filters = {"label": labels.wanted(labels.IS_SANDBOX, selector)}
        found: list[Object] = await self._engine.get("/containers/json", all=True, filters=filters, **query)
        return found

    async def _members(self, sandbox_id: str) -> list[Object]:
        filters = {"label": labels.wanted(labels.IS_CONTAINER, {}, sandbox_id)}
        found: list[Object] = await self._engine.get("/containers/json", all=True, filters=filters)
        return found

    def _connected(self, sandbox_id: str, config: cri_pb2.PodSandboxConfig) -> bool:
        if self._networks is None or answers.is_on_host(config):
            return True
        return self._networks.addresses(sandbox_id) is not None

    def addresses(self, inspected: Object) -> list[str]:
        if self._networks is None:
            return answers.bridge_addresses(inspected)
        return self._networks.addresses(inspected["Id"]) or []

    async def status(self, sandbox_id: str) -> cri_pb2.PodSandboxStatus:
        inspected = await self.inspect(sandbox_id)
        config = labels.sandbox_config(inspected["Config"]["Labels"])
        connected = self._connected(inspected["Id"], config)
        return answers.sandbox_status(inspected, self.addresses(inspected), connected)

    async def listed(self, wanted: cri_pb2.PodSandboxFilter) -> list[cri_pb2.PodSandbox]:
        rows = await self.rows(dict(wanted.label_selector))
        items = [
            answers.sandbox_item(row, self._connected(row["Id"], labels.sandbox_config(row["Labels"]))) for row in rows
        ]
        return [
            item
            for item in items
            if item.id.startswith(wanted.id) and (not wanted.HasField("state") or item.state == wanted.state.state)
        ]

    async def stop(self, sandbox_id: str) -> None:
        """Ends its containers, then its network, then itself; again is fine. Raises RpcError."""
        try:
            found = await self.inspect(sandbox_id)
        except RpcError as error:
            if error.code is Code.NOT_FOUND:
                return
            raise
        sandbox_id = found["Id"]
        running = [row["Id"] for row in await self._members(sandbox_id) if row["State"] == "running"]
        await asyncio.gather(*(self._kill(one) for one in running))
        if self._networks is not None:
            try:
                await self._networks.remove(sandbox_id, await self._namespace(sandbox_id))
            except NetworkError as error:
                message = f'failed to destroy network for sandbox "{sandbox_id}": {error}'
                raise RpcError(Code.UNKNOWN, message) from None
        await self._kill(sandbox_id)

    async def _kill(self, container_id: str) -> None:
        try:
            await self._engine.post(f"/containers/{container_id}/stop", t=0)
        except EngineError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def remove(self, sandbox_id: str) -> None:
        """With all containers in it; again is fine. Raises RpcError."""
        try:
            found = await self.inspect(sandbox_id)
        except RpcError as error:
            if error.code is Code.NOT_FOUND:
                return
            raise
        sandbox_id = found["Id"]
        await self.stop(sandbox_id)
        for row in await self._members(sandbox_id):
            self._logs.forget(row["Id"])
            await self._delete(row["Id"])
        await self._delete(sandbox_id)
        (self._folder / f"{sandbox_id}{RESOLVER}").unlink(missing_ok=True)

    async def _delete(self, container_id: str) -> None:
        try:
            await self._engine.delete(f"/containers/{container_id}", force=True, v=True)
        except EngineError as error:
            if error.code is not Code.NOT_FOUND and "is already in progress" not in error.message:
                raise


def write_resolver(folder: Path, sandbox_id: str, dns: cri_pb2.DNSConfig) -> Path:
    """A pod's resolv.conf, in a file that lives as long as anybody has it mounted. Raises OSError."""
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {one}" for one in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = folder / f"{sandbox_id}{RESOLVER}"
    text = "".join(f"{line}\n" for line in lines)
    if not path.exists() or path.read_text() != text:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(path)
    return path
