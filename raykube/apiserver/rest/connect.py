"""Streams that come from a pod's kubelet: logs."""

from aiohttp import web

from raykube.api.errors import ApiError
from raykube.apiserver.core import options
from raykube.apiserver.kubelets import Kubelets
from raykube.apiserver.measures import Measures
from raykube.apiserver.rest.context import Context

_BOOLEANS = ("follow", "previous", "timestamps")
_NUMBERS = ("tailLines", "sinceSeconds", "limitBytes")


class Connects:
    """Handlers of streaming subresources."""

    def __init__(self, kubelets: Kubelets, measures: Measures) -> None:
        self._kubelets = kubelets
        self._measures = measures

    async def log(self, context: Context) -> web.StreamResponse:
        """GET pods/NAME/log."""
        info = context.info
        query = _log_query(context)
        labels = ("CONNECT", "", "v1", "pods")
        async with self._kubelets.logs(info.namespace, info.name, query) as log:
            response = web.StreamResponse(headers=context.headers("text/plain"))
            response.enable_chunked_encoding()
            await response.prepare(context.request)
            self._measures.long_running.add(labels)
            try:
                async for chunk in log:
                    await response.write(chunk)
            finally:
                self._measures.long_running.add(labels, -1)
            await response.write_eof()
            return response


def _log_query(context: Context) -> dict[str, str]:
    """The checked parameters of a log request, as the kubelet reads them."""
    query = {key: value for key, value in context.query.items() if key in ("container", "sinceTime")}
    for name in _BOOLEANS:
        if options.flag(context.query, name):
            query[name] = "true"
    for name in _NUMBERS:
        value = options.number(context.query, name)
        if value is not None:
            if value < 0 or (name != "tailLines" and value == 0):
                raise ApiError.bad_request(
                    f"{name} must be greater than {'or equal to ' if name == 'tailLines' else ''}0"
                )
            query[name] = str(value)
    if "sinceSeconds" in query and "sinceTime" in query:
        raise ApiError.bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")
    return query
