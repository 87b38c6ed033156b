"""Containers of pods."""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from raykube.cridocker.core import answers, labels, logs, requests
from raykube.cridocker.core.requests import Host, Refused
from raykube.cridocker.engine import PIECE_BYTES, Engine, EngineError
from raykube.cridocker.logs import Logs
from raykube.cridocker.sandboxes import Sandboxes, write_resolver
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError

Object = dict[str, Any]

OUTPUT_BYTES_MAX = 16 * 1024 * 1024  # of a command whose output is answered in one message


class Containers:
    """`folder`: where resolv.conf files lie."""

    def __init__(self, engine: Engine, sandboxes: Sandboxes, followers: Logs, folder: Path, host: Host) -> None:
        self._engine = engine
        self._sandboxes = sandboxes
        self._logs = followers
        self._folder = folder
        self._host = host
        self._references: dict[str, str] = {}  # image id → what a container's status calls it

    async def recover(self) -> None:
        """Goes on with the logs of all that ran."""
        for row in await self.rows():
            if row["State"] != "created":
                found = row["Labels"]
                config = labels.container_config(found)
                self._logs.follow(row["Id"], found.get(labels.LOG, ""), terminal=config.tty)

    async def create(self, sandbox_id: str, config: cri_pb2.ContainerConfig, sandbox: cri_pb2.PodSandboxConfig) -> str:
        """Raises RpcError."""
        parent = await self._sandboxes.inspect(sandbox_id)
        sandbox_id = parent["Id"]
        path = ""
        if sandbox.log_directory and config.log_path:
            path = str(Path(sandbox.log_directory) / config.log_path)
        mounts = list(config.mounts)
        try:
            if sandbox.HasField("dns_config") and all(one.container_path != "/etc/resolv.conf" for one in mounts):
                resolver = write_resolver(self._folder, sandbox_id, sandbox.dns_config)
                mounts.append(cri_pb2.Mount(container_path="/etc/resolv.conf", host_path=str(resolver)))
            host = replace(self._host, profiles=_profiles(config))
            request = requests.container(sandbox_id, config, path, mounts, host)
        except OSError as error:
            raise RpcError(Code.UNKNOWN, f"cannot write resolv.conf: {error}") from None
        except Refused as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
        request["HostConfig"]["CgroupParent"] = self._host.cgroup_parent(
            sandbox.linux.cgroup_parent or parent["HostConfig"]["CgroupParent"]
        )
        request["HostConfig"]["Runtime"] = parent["HostConfig"].get("Runtime") or ""
        pod = labels.sandbox_config(parent["Config"]["Labels"]).metadata
        name = labels.name(config.metadata.name, pod, config.metadata.attempt)
        return str((await self._engine.post("/containers/create", request, name=name))["Id"])

    async def inspect(self, container_id: str) -> Object:
        """Raises RpcError, NOT_FOUND for what is no container of ours."""
        found: Object = await self._engine.get(f"/containers/{container_id}/json")
        if (found["Config"].get("Labels") or {}).get(labels.TYPE) != labels.IS_CONTAINER:
            raise RpcError(Code.NOT_FOUND, f"No such container: {container_id}")
        return found

    async def running(self, container_id: str) -> Object:
        """Raises RpcError."""
        found = await self.inspect(container_id)
        if not found["State"]["Running"]:
            state = cri_pb2.ContainerState.Name(answers.container_status(found, "").state)
            raise RpcError(Code.FAILED_PRECONDITION, f"container is in {state} state")
        return found

    async def rows(self, selector: dict[str, str] | None = None, sandbox_id: str = "", **query: Any) -> list[Object]:
        filters = {"label": labels.wanted(labels.IS_CONTAINER, selector or {}, sandbox_id)}
        found: list[Object] = await self._engine.get("/containers/json", all=True, filters=filters, **query)
        return found

    async def start(self, container_id: str) -> None:
        found = await self.inspect(container_id)
        await self._engine.post(f"/containers/{found['Id']}/start")
        path = found["Config"]["Labels"].get(labels.LOG, "")
        self._logs.follow(found["Id"], path, terminal=found["Config"]["Tty"])

    async def stop(self, container_id: str, grace_s: int) -> None:
        found = await self.inspect(container_id)
        if found["State"]["Running"]:
            await self._engine.post(f"/containers/{found['Id']}/stop", t=max(grace_s, 0))

    async def remove(self, container_id: str) -> None:
        """Again is fine. Raises RpcError."""
        try:
            found = await self.inspect(container_id)
            await self._engine.delete(f"/containers/{found['Id']}", force=True, v=True)
        except RpcError as error:
            if error.code is not Code.NOT_FOUND and "is already in progress" not in error.message:
                raise
            return
        self._logs.forget(found["Id"])

    async def listed(self, wanted: cri_pb2.ContainerFilter) -> list[cri_pb2.Container]:
        rows = await self.rows(dict(wanted.label_selector), wanted.pod_sandbox_id)
        items = [answers.container_item(row, await self._reference(row["ImageID"])) for row in rows]
        return [
            item
            for item in items
            if item.id.startswith(wanted.id) and (not wanted.HasField("state") or item.state == wanted.state.state)
        ]

    async def _reference(self, image_id: str) -> str:
        if image_id not in self._references:
            try:
                found = answers.image(await self._engine.get(f"/images/{image_id}/json"))
            except EngineError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                return image_id
            self._references[image_id] = found.repo_digests[0] if found.repo_digests else image_id
        return self._references[image_id]

    def forget_image(self) -> None:
        """Images came or went: names may have changed."""
        self._references.clear()

    async def status(self, container_id: str) -> tuple[cri_pb2.ContainerStatus, Object]:
        found = await self.inspect(container_id)
        status = answers.container_status(found, await self._reference(found["Image"]))
        if status.state == cri_pb2.CONTAINER_EXITED:
            await self._logs.drained(found["Id"])
        return status, found

    async def update(self, container_id: str, wanted: cri_pb2.LinuxContainerResources) -> None:
        found = await self.inspect(container_id)
        try:
            await self._engine.post(f"/containers/{found['Id']}/update", requests.resources(wanted))
        except Refused as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None

    # -- commands in containers

    async def new_exec(self, container_id: str, command: list[str], **streams: bool) -> str:
        """The id of an exec; `streams`: stdin, stdout, stderr, tty. Raises RpcError."""
        found = await self.running(container_id)
        body = {
            "Cmd": command,
            "AttachStdin": streams.get("stdin", False),
            "AttachStdout": streams.get("stdout", False),
            "AttachStderr": streams.get("stderr", False) and not streams.get("tty", False),
            "Tty": streams.get("tty", False),
        }
        return str((await self._engine.post(f"/containers/{found['Id']}/exec", body))["Id"])

    async def execute(self, container_id: str, command: list[str], timeout_s: int) -> cri_pb2.ExecSyncResponse:
        """Raises RpcError, DEADLINE_EXCEEDED at the time-out: then the command is killed. 0: there is none."""
        exec_id = await self.new_exec(container_id, command, stdout=True, stderr=True)
        connection = await self._engine.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": False})
        outputs = {1: bytearray(), 2: bytearray()}
        try:
            async with asyncio.timeout(timeout_s or None):
                buffer = bytearray()
                while piece := await connection.reader.read(PIECE_BYTES):
                    buffer += piece
                    for stream, payload in logs.frames(buffer):
                        output = outputs.get(stream, outputs[1])
                        output += payload[: OUTPUT_BYTES_MAX - len(output)]
        except TimeoutError:
            await self.kill_exec(exec_id)
            message = f"command {' '.join(command)!r} timed out after {timeout_s}s"
            raise RpcError(Code.DEADLINE_EXCEEDED, message) from None
        except BaseException:
            await asyncio.shield(self.kill_exec(exec_id))
            raise
        finally:
            connection.close()
        code = await self.exit_code(exec_id)
        return cri_pb2.ExecSyncResponse(stdout=bytes(outputs[1]), stderr=bytes(outputs[2]), exit_code=code)

    async def exit_code(self, exec_id: str) -> int:
        """Of a command whose streams have ended; docker may learn of its end a moment later."""
        while True:
            found = await self._engine.get(f"/exec/{exec_id}/json")
            if not found["Running"]:
                return int(found["ExitCode"] or 0)
            await asyncio.sleep(0.02)

    async def kill_exec(self, exec_id: str) -> None:
        """The Engine API cannot end a command: its process is killed, if it still runs."""
        with suppress(RpcError, OSError):
            found = await self._engine.get(f"/exec/{exec_id}/json")
            if found["Running"] and found["Pid"]:
                os.kill(found["Pid"], signal.SIGKILL)


def _profiles(config: cri_pb2.ContainerConfig) -> dict[str, str]:
    """The content of the seccomp profile that is named; docker takes the text, not the path."""
    profile = config.linux.security_context.seccomp
    if profile.profile_type != cri_pb2.SecurityProfile.Localhost:
        return {}
    with suppress(OSError, UnicodeDecodeError):
        return {profile.localhost_ref: Path(profile.localhost_ref).read_text()}
    return {}
