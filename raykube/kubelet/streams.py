"""Exec, attach and port-forward at the kubelet: finds the container, asks the runtime for a stream, and joins both.

SPDY passes through byte by byte; WebSockets are translated, for runtimes speak SPDY (raykube/streaming).
"""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from raykube.api.errors import ApiError
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.cri import Cri, failure
from raykube.rpc import Code, RpcError
from raykube.streaming import translate, wire
from raykube.streaming.core import channels, http1, pairs
from raykube.streaming.failures import dial_failure
from raykube.streaming.splice import splice

_STATUS = {Code.NOT_FOUND: (404, "NotFound"), Code.RESOURCE_EXHAUSTED: (429, "TooManyRequests")}
_EXEC, _ATTACH, _FORWARD = "executing command in container", "attaching to container", "forwarding ports"


class Refusal(Exception):
    """Why there is no stream: an HTTP status and upstream's words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Streams:
    """The handlers; `idle_s`: how long a connection may carry nothing, 0 for ever."""

    def __init__(self, cri: Cri, list_pods: Callable[[], list[Object]], idle_s: float) -> None:
        self._cri = cri
        self._list_pods = list_pods
        self._idle_s = idle_s

    def routes(self) -> list[web.RouteDef]:
        found = []
        for path, handler, doing in (
            ("/exec/{namespace}/{pod}/{container}", self._exec, _EXEC),
            ("/exec/{namespace}/{pod}/{uid}/{container}", self._exec, _EXEC),
            ("/attach/{namespace}/{pod}/{container}", self._attach, _ATTACH),
            ("/attach/{namespace}/{pod}/{uid}/{container}", self._attach, _ATTACH),
            ("/portForward/{namespace}/{pod}", self._port_forward, _FORWARD),
            ("/portForward/{namespace}/{pod}/{uid}", self._port_forward, _FORWARD),
        ):
            found += [web.route(method, path, _answering(handler, doing)) for method in ("GET", "POST")]
        return found

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        wanted = _streams(request)
        container = await self._container(request)
        command = request.query.getall("command", [])
        return await self._remote_command(request, wanted, await self._cri.exec_url(container, command, wanted))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        wanted = _streams(request)
        container = await self._container(request)
        return await self._remote_command(request, wanted, await self._cri.attach_url(container, wanted))

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        observed = await self._cri.observe(pods.uid(pod))
        sandbox = observed.ready_sandbox
        if sandbox is None:
            raise Refusal(404, f'pod not found ("{pods.name(pod)}_{pods.namespace(pod)}")')
        if not translate.is_websocket(request):
            return await self._pass(request, await self._cri.port_forward_url(sandbox.id))
        offered = translate.offered(request)
        if pairs.TUNNEL in offered:
            answer = await self._dial(await self._cri.port_forward_url(sandbox.id), pairs.PROTOCOL)
            return await translate.tunnel(request, answer, self._idle_s)
        socket = translate.Socket(_negotiated(offered, channels.PORT_FORWARD))
        try:
            ports = channels.ports([*request.query.getall("port", []), *request.query.getall("ports", [])])
        except channels.ChannelError as error:
            raise Refusal(400, str(error)) from None
        answer = await self._dial(await self._cri.port_forward_url(sandbox.id), pairs.PROTOCOL)
        return await translate.port_forward(request, socket, answer, ports, self._idle_s)

    async def _remote_command(
        self, request: web.Request, wanted: Sequence[channels.Channel], url: str
    ) -> web.StreamResponse:
        if not translate.is_websocket(request):
            return await self._pass(request, url)
        socket = translate.Socket(_negotiated(translate.offered(request), channels.REMOTE_COMMAND))
        answer = await self._dial(url, channels.V4)
        return await translate.remote_command(request, socket, answer, wanted, self._idle_s)

    # -- the runtime's side

    async def _dial(self, url: str, protocol: str) -> wire.Wire:
        answer = await _dialled(url, "POST", http1.spdy_headers(protocol))
        if answer.wire is None:
            raise Refusal(answer.head.status, answer.body.decode(errors="replace"))
        return answer.wire

    async def _pass(self, request: web.Request, url: str) -> web.StreamResponse:
        """Hands the client's own upgrade on, and then every byte."""
        if request.headers.get("Upgrade", "").lower() != "spdy/3.1":
            raise Refusal(400, "unable to upgrade: missing upgrade headers in request")
        answer = await _dialled(url, request.method, http1.upgrade_headers(request.headers.items()))
        if answer.wire is None:
            raise Refusal(answer.head.status, answer.body.decode(errors="replace"))
        try:
            client = wire.take_over(request, answer.head)
        except OSError:
            answer.wire.close()
            raise
        await splice(client, answer.wire, self._idle_s)
        return wire.Takeover()

    # -- what is meant

    def _pod(self, request: web.Request) -> Object:
        names = request.match_info
        for one in self._list_pods():
            named = (pods.namespace(one), pods.name(one)) == (names["namespace"], names["pod"])
            if named and names.get("uid", "") in ("", pods.uid(one)):
                return one
        raise Refusal(404, "pod does not exist")

    async def _container(self, request: web.Request) -> str:
        """The id of the running container that a request names."""
        pod, name = self._pod(request), request.match_info["container"]
        observed = await self._cri.observe(pods.uid(pod))
        found = next((one for one in observed.running if one.name == name), None)
        if found is None:
            raise Refusal(500, f'container not found ("{name}")')
        return found.id


def _answering(handler: Handler, doing: str) -> Handler:
    """The handler with its refusals as answers; `doing`: what failed when the runtime refuses."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return web.Response(status=refusal.code, text=str(refusal))
        except RpcError as error:
            code, reason = _STATUS.get(error.code, (500, "InternalError"))
            message = f"error {doing}: {failure(error)}"
            return _failed(ApiError(code, reason, message) if code != 500 else ApiError.internal(message))
        except ApiError as error:
            return _failed(error)

    return answer


def _failed(error: ApiError) -> web.Response:
    """A Status: clients take plain text for YAML, and show nothing of `key: value`."""
    return web.json_response(error.status(), status=error.code)


async def _dialled(url: str, method: str, headers: http1.Headers) -> wire.Answer:
    """What the runtime's streaming server answers. Raises ApiError."""
    try:
        return await wire.dial(url, method, headers)
    except OSError as error:
        raise ApiError.internal(f"error dialing backend: {dial_failure(url, error)}") from None


def _streams(request: web.Request) -> tuple[channels.Channel, ...]:
    """Which streams a request asks for. Raises Refusal."""
    stdin, stdout, stderr, tty = (
        request.query.get(name, "").lower() in ("1", "t", "true") for name in ("input", "output", "error", "tty")
    )
    if not (stdin or stdout or stderr):
        raise Refusal(400, "you must specify at least 1 of stdin, stdout, stderr")
    return channels.streams(stdin, stdout, stderr, tty)


def _negotiated(offered: list[str], served: Sequence[str]) -> str:
    protocol = channels.negotiate(offered, served)
    if not protocol:
        message = f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {served}"
        raise Refusal(403, message)
    return protocol
