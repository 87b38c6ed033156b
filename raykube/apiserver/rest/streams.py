"""Exec, attach and port-forward: the client's upgrade goes on to the pod's kubelet, and then every byte both ways.

The apiserver stays thin: it decides who may and where to, and reads nothing of what passes.
"""

from aiohttp import web

from raykube.api.errors import ApiError
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core import streamtargets
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.kubelets import Kubelets, container_of
from raykube.apiserver.measures import Measures
from raykube.apiserver.rest.context import Context
from raykube.streaming import wire
from raykube.streaming.core import http1
from raykube.streaming.failures import dial_failure
from raykube.streaming.splice import splice


class Streams:
    """Handlers of streaming subresources that clients upgrade."""

    def __init__(self, kubelets: Kubelets, authorization: Authorization, measures: Measures) -> None:
        self._kubelets = kubelets
        self._authorization = authorization
        self._measures = measures

    async def exec(self, context: Context) -> web.StreamResponse:
        """GET or POST pods/NAME/exec."""
        return await self._remote_command(context, "exec")

    async def attach(self, context: Context) -> web.StreamResponse:
        """GET or POST pods/NAME/attach."""
        return await self._remote_command(context, "attach")

    async def port_forward(self, context: Context) -> web.StreamResponse:
        """GET or POST pods/NAME/portforward."""
        self._check(context)
        info = context.info
        pod = await self._kubelets.pod(info.namespace, info.name)
        query = streamtargets.port_forward_query(context.request.query)
        url = f"{await self._kubelets.location(pod)}/portForward/{info.namespace}/{info.name}"
        return await self._pass(context, f"{url}?{query}" if query else url)

    async def _remote_command(self, context: Context, kind: str) -> web.StreamResponse:
        self._check(context)
        info = context.info
        query = streamtargets.remote_command_query(context.request.query, command=kind == "exec")
        pod = await self._kubelets.pod(info.namespace, info.name)
        container = container_of(pod, context.query.get("container", ""))
        base = await self._kubelets.location(pod)
        return await self._pass(context, f"{base}/{kind}/{info.namespace}/{info.name}/{container}?{query}")

    def _check(self, context: Context) -> None:
        """A WebSocket asks with GET for what POST means: it needs the right to create. Raises ApiError."""
        info = context.info
        if info.verb != "create":
            self._authorization.require(
                Attributes(
                    context.user,
                    "create",
                    info.group,
                    info.plural,
                    info.subresource,
                    info.name,
                    info.namespace,
                    info.path,
                )
            )
        if not is_upgrade(context.request):
            raise ApiError.bad_request("Upgrade request required")

    async def _pass(self, context: Context, url: str) -> web.StreamResponse:
        labels = ("CONNECT", "", "v1", context.info.plural)
        self._measures.long_running.add(labels)
        try:
            return await pass_upgrade(
                context, url, http1.upgrade_headers(context.request.headers.items()), self._kubelets
            )
        finally:
            self._measures.long_running.add(labels, -1)


def is_upgrade(request: web.BaseRequest) -> bool:
    connection = request.headers.get("Connection", "").lower()
    return "upgrade" in [part.strip() for part in connection.split(",")] and bool(request.headers.get("Upgrade"))


async def pass_upgrade(
    context: Context, url: str, headers: http1.Headers, kubelets: Kubelets | None
) -> web.StreamResponse:
    """Joins the client to the server at `url`, a kubelet or (`kubelets` None) something in a pod. Raises ApiError."""
    tls = kubelets.context() if kubelets is not None else wire.unverified()
    try:
        answer = await wire.dial(url, context.request.method, headers, tls)
    except OSError as error:
        raise ApiError(500, "", f"error dialing backend: {dial_failure(url, error)}") from None
    if answer.wire is None:
        kind = answer.head.get("content-type") or "text/plain; charset=utf-8"
        return context.answer(answer.body, answer.head.status, kind)
    try:
        client = wire.take_over(context.request, answer.head)
    except OSError:
        answer.wire.close()
        raise
    await splice(client, answer.wire)
    return wire.Takeover()
