"""The kubelet's HTTPS server: logs for the apiserver, health, pods, metrics, statistics.

Every client shows a certificate of the cluster's CA; only the apiserver's client and administrators get further.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from raykube.base.clock import parse_rfc3339
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedContainer, State
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.podlog import LogOptions
from raykube.kubelet.cri import Cri
from raykube.kubelet.logreader import LogReader
from raykube.kubelet.reports import Reports
from raykube.kubelet.streams import Streams
from raykube.rpc import RpcError, Tls
from raykube.rpc.tls import server_context

log = logging.getLogger(__name__)

ALLOWED_USERS = {"kube-apiserver-kubelet-client"}
ALLOWED_GROUPS = {"system:masters"}
# Why there is no log, where that is told in other words than the reason.
_WAITING = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}


def _names(certificate: object) -> tuple[str, set[str]]:
    """Common name and organizations of a peer's certificate, as ssl shows it."""
    user, groups = "", set()
    if isinstance(certificate, dict):
        for entry in certificate.get("subject", ()):
            for key, value in entry:
                if key == "commonName":
                    user = value
                elif key == "organizationName":
                    groups.add(value)
    return user, groups


@web.middleware
async def _authorize(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
    if request.path != "/healthz":
        transport = request.transport
        user, groups = _names(transport.get_extra_info("peercert") if transport else None)
        if user not in ALLOWED_USERS and not groups & ALLOWED_GROUPS:
            return web.Response(status=403, text=f'Forbidden (user="{user}", verb=get, resource=nodes)')
    response = handler(request)
    return await response  # type: ignore[misc,no-any-return]  # aiohttp's Handler


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("1", "t", "true")


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} must be a number") from None
    if value < 0:
        raise web.HTTPBadRequest(text=f"{name} must be greater than or equal to 0")
    return value


def log_options(request: web.Request) -> LogOptions:
    """Raises HTTPBadRequest."""
    since: float | None = None
    seconds = _number(request, "sinceSeconds")
    if seconds is not None:
        since = time.time() - seconds
    if request.query.get("sinceTime"):
        try:
            since = parse_rfc3339(request.query["sinceTime"])
        except ValueError:
            raise web.HTTPBadRequest(text="sinceTime must be an RFC 3339 time") from None
    return LogOptions(
        follow=_flag(request, "follow"),
        tail_lines=_number(request, "tailLines"),
        since=since,
        timestamps=_flag(request, "timestamps"),
        previous=_flag(request, "previous"),
        limit_bytes=_number(request, "limitBytes"),
    )


class KubeletServer:
    def __init__(
        self,
        cri: Cri,
        log_directory: Callable[[Object], Path],
        list_pods: Callable[[], list[Object]],
        healthy: Callable[[], bool],
        reports: Reports,
        streams: Streams,
    ) -> None:
        self._cri = cri
        self._log_directory = log_directory
        self._list_pods = list_pods
        self._healthy = healthy
        self._reports = reports
        self._streams = streams
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, address: str, port: int, certificate: Path, key: Path, client_ca: Path) -> None:
        """Raises OSError when the address is taken, ValueError when a file cannot be used."""
        context = server_context(Tls(certificate, key, client_ca))
        app = web.Application(middlewares=[_authorize])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/pods", self._pods),
                *self._reports.routes(),
                *self._streams.routes(),
                web.get("/containerLogs/{namespace}/{pod}/{container}", self._logs),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address, port, ssl_context=context, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok") if self._healthy() else web.Response(status=500, text="runtime is not ready")

    async def _pods(self, _request: web.Request) -> web.Response:
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._list_pods()}
        return web.json_response(body)

    # -- logs

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        options = log_options(request)
        pod = next(
            (
                one
                for one in self._list_pods()
                if pods.namespace(one) == names["namespace"] and pods.name(one) == names["pod"]
            ),
            None,
        )
        if pod is None:
            return web.Response(status=404, text=f'pod "{names["pod"]}" not found')
        if pods.container(pod, names["container"]) is None:
            message = f'container "{names["container"]}" is not found in pod "{names["pod"]}"'
            return web.Response(status=404, text=message)
        try:
            observed = await self._cri.observe(pods.uid(pod))
        except RpcError as error:
            return web.Response(status=503, text=f"the container runtime does not answer: {error.message}")
        history = [run for run in observed.history(names["container"]) if run.state is not State.CREATED]
        index = 1 if options.previous else 0
        if len(history) <= index:
            return web.Response(status=400, text=_no_log(pod, names["container"], options.previous))
        run = history[index]
        path = self._log_directory(pod) / run.name / f"{run.attempt}.log"
        return await self._stream(request, pods.uid(pod), run, path, options)

    async def _stream(
        self, request: web.Request, uid: str, run: ObservedContainer, path: Path, options: LogOptions
    ) -> web.StreamResponse:
        async def alive() -> bool:
            with suppress(RpcError):
                found = await self._cri.observe(uid)
                return any(one.id == run.id for one in found.running)
            return False

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            async for chunk in LogReader(path, options, alive).read():
                await response.write(chunk)
        except FileNotFoundError:
            pass  # it ran and said nothing, or its log was cleaned away
        except (ConnectionError, asyncio.CancelledError):
            raise
        with suppress(ConnectionError):
            await response.write_eof()
        return response


def _no_log(pod: Object, container: str, previous: bool) -> str:
    if previous:
        return f'previous terminated container "{container}" in pod "{pods.name(pod)}" not found'
    status = pod.get("status") or {}
    for one in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        waiting = (one.get("state") or {}).get("waiting")
        if one.get("name") == container and waiting:
            reason = waiting.get("reason", "")
            words = _WAITING.get(reason, reason)
            return f'container "{container}" in pod "{pods.name(pod)}" is waiting to start: {words}'
    return f'container "{container}" in pod "{pods.name(pod)}" is not available'
