"""Single attempts of what probes and hooks do: HTTP requests, TCP connections, commands, gRPC health checks."""

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from multidict import CIMultiDict

from raykube.kubelet.core.pod import Object
from raykube.kubelet.cri import Cri
from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel

BODY_BYTES_MAX = 10 * 1024
HEADER_BYTES_MAX = 1024 * 1024
REDIRECTS_MAX = 10
_REDIRECTS = (301, 302, 303, 307, 308)
SERVING = 1
_HEALTH = {0: "UNKNOWN", SERVING: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


@dataclass(frozen=True, slots=True)
class Outcome:
    success: bool
    message: str = ""
    doubtful: bool = False  # a success that somebody should look at: `message` says why


def resolve_port(port: Any, spec: Object) -> int:
    """A number, or the container port of that name. Raises ValueError."""
    if isinstance(port, int):
        return port
    if str(port).isdigit():
        return int(port)
    for one in spec.get("ports") or ():
        if one.get("name") == port:
            return int(one["containerPort"])
    raise ValueError(f'couldn\'t find port: {port} in container "{spec["name"]}"')


def _unverified() -> ssl.SSLContext:
    """Pods serve certificates that nobody here can check; a probe asks for life, not for identity."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Handlers:
    def __init__(self, cri: Cri, version: str) -> None:
        self._cri = cri
        self._agent = version
        self._tls = _unverified()

    async def run(
        self, action: Object, spec: Object, container_id: str, pod_ip: str, timeout_s: float, hook: bool = False
    ) -> Outcome:
        """One attempt of a probe or a hook (of which an HTTP server may think what it likes).

        Never raises but for cancellation.
        """
        try:
            async with asyncio.timeout(timeout_s + 1):  # each attempt has its own, better worded one
                if "exec" in action:
                    return await self._execute(action["exec"], container_id, timeout_s)
                if "httpGet" in action:
                    return await self._http(action["httpGet"], spec, pod_ip, timeout_s, hook)
                if "tcpSocket" in action:
                    return await self._tcp(action["tcpSocket"], spec, pod_ip, timeout_s)
                if "grpc" in action:
                    return await self._grpc(action["grpc"], pod_ip, timeout_s)
                if "sleep" in action:
                    await asyncio.sleep(float(action["sleep"].get("seconds") or 0))
                    return Outcome(True)
        except (ValueError, OSError, TimeoutError) as error:
            return Outcome(False, str(error) or type(error).__name__)
        return Outcome(False, "the handler has no action")

    async def _execute(self, action: Object, container_id: str, timeout_s: float) -> Outcome:
        command = list(action.get("command") or ())
        try:
            code, output = await self._cri.execute(container_id, command, max(int(timeout_s), 1))
        except RpcError as error:
            if error.code is Code.DEADLINE_EXCEEDED:
                return Outcome(False, f"command timed out: {' '.join(command)!r} timed out after {timeout_s:g}s")
            return Outcome(False, error.message)
        text = output[:BODY_BYTES_MAX].decode(errors="replace")
        return Outcome(code == 0, text)

    async def _http(self, action: Object, spec: Object, pod_ip: str, timeout_s: float, hook: bool) -> Outcome:
        port = resolve_port(action["port"], spec)
        scheme = (action.get("scheme") or "HTTP").lower()
        host = action.get("host") or pod_ip
        path = action.get("path") or "/"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path if path.startswith('/') else '/' + path}"
        place = url
        headers = CIMultiDict((one["name"], one.get("value") or "") for one in action.get("httpHeaders") or ())
        agent = "kube-lifecycle" if hook else "kube-probe"
        for name, value in (("User-Agent", f"{agent}/{self._agent}"), ("Accept", "*/*"), ("Connection", "close")):
            headers.setdefault(name, value)
        limits = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=limits, max_field_size=HEADER_BYTES_MAX) as session:
                for _ in range(REDIRECTS_MAX):
                    async with session.get(place, headers=headers, ssl=self._tls, allow_redirects=False) as response:
                        following = urljoin(place, response.headers.get("Location", ""))
                        at_home = urlsplit(following).hostname == urlsplit(url).hostname
                        if response.status in _REDIRECTS and at_home:
                            place = following
                            continue
                        if hook:  # it was told; what it answers is its own affair
                            return Outcome(True)
                        body = (await response.content.read(BODY_BYTES_MAX)).decode(errors="replace")
                        if 300 <= response.status < 400:
                            return Outcome(True, f"Probe terminated redirects, Response body: {body}", doubtful=True)
                        if 200 <= response.status < 300:
                            return Outcome(True, body)
                        return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")
            return Outcome(False, f'Get "{place}": stopped after {REDIRECTS_MAX} redirects')
        except TimeoutError:
            return Outcome(
                False,
                f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)',
            )
        except aiohttp.ClientConnectorError as error:
            if hook and scheme == "https" and "WRONG_VERSION_NUMBER" in str(error):
                # The server speaks no TLS. Upstream tells it all the same, and keeps the password to itself.
                told = [one for one in action.get("httpHeaders") or () if one["name"].lower() != "authorization"]
                return await self._http(action | {"scheme": "HTTP", "httpHeaders": told}, spec, pod_ip, timeout_s, hook)
            return Outcome(False, f'Get "{url}": dial tcp {host}:{port}: connect: {_reason(error.os_error)}')
        except aiohttp.ClientError as error:
            return Outcome(False, f'Get "{url}": {error}')

    async def _tcp(self, action: Object, spec: Object, pod_ip: str, timeout_s: float) -> Outcome:
        port = resolve_port(action["port"], spec)
        host = action.get("host") or pod_ip
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return Outcome(False, f"dial tcp {host}:{port}: i/o timeout")
        except OSError as error:
            return Outcome(False, f"dial tcp {host}:{port}: connect: {_reason(error)}")
        writer.close()
        return Outcome(True)

    async def _grpc(self, action: Object, pod_ip: str, timeout_s: float) -> Outcome:
        address = f"{pod_ip}:{action['port']}"
        service = action.get("service") or ""
        channel = Channel(address)
        try:
            stub: Any = channel.stub(HEALTH)
            request = GetMessageClass(HEALTH.methods_by_name["Check"].input_type)(service=service)
            answer = await stub.Check(request, timeout=timeout_s)
        except RpcError as error:
            if error.code is Code.DEADLINE_EXCEEDED and not channel.connected:
                return Outcome(False, f'timeout: failed to connect service "{address}" within {timeout_s:g}s')
            if error.code is Code.DEADLINE_EXCEEDED:
                return Outcome(False, f"timeout: health rpc did not complete within {timeout_s:g}s")
            if error.code is Code.UNIMPLEMENTED:
                words = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                return Outcome(False, f"{words}: {error.message}")
            if error.code is Code.UNAVAILABLE:
                return Outcome(False, f'error: failed to connect service at "{address}": {error.message}')
            return Outcome(False, f"error: health rpc probe failed: {error.message}")
        finally:
            await channel.close()
        if answer.status == SERVING:
            return Outcome(True, "service healthy")
        return Outcome(False, f'service unhealthy (responded with "{_HEALTH.get(answer.status, answer.status)}")')


def _reason(error: OSError) -> str:
    """In the system's words: asyncio puts its own and the address in their place."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()


def _health_service() -> Any:
    """grpc.health.v1.Health, as far as a probe needs it."""
    file = descriptor_pb2.FileDescriptorProto(
        name="raykube/kubelet/health.proto", package="grpc.health.v1", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto
    file.message_type.add(name="HealthCheckRequest").field.add(
        name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
    )
    file.message_type.add(name="HealthCheckResponse").field.add(
        name="status", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL
    )
    file.service.add(name="Health").method.add(
        name="Check", input_type=".grpc.health.v1.HealthCheckRequest", output_type=".grpc.health.v1.HealthCheckResponse"
    )
    pool = descriptor_pool.DescriptorPool()  # its own: another module of the process may know the real file
    pool.Add(file)
    return pool.FindServiceByName("grpc.health.v1.Health")


HEALTH = _health_service()
