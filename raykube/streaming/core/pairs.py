"""Port-forward over SPDY: each connection to a port is a pair of streams that carry the same request ID.

The client opens an error stream, then a data stream, both with the headers `port`, `requestid` and `streamtype`. Very
old clients send no request ID: their error stream is followed at once by its data stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raykube.streaming.core import channels

PROTOCOL = "portforward.k8s.io"
TUNNEL_PREFIX = "SPDY/3.1+"  # of a WebSocket's protocol whose messages are an upgraded connection's bytes
TUNNEL = TUNNEL_PREFIX + PROTOCOL


@dataclass(frozen=True, slots=True)
class Pair:
    """One connection to a port of the pod."""

    port: int
    error: int
    data: int


class PairError(Exception):
    """A stream that belongs to no pair; the message says why."""


def request_headers(kind: str, port: int, request_id: int) -> dict[str, str]:
    """The headers of a stream that a client opens; `kind` is error or data."""
    return {"streamtype": kind, "port": str(port), "requestid": str(request_id)}


class Pairs:
    """The halves that wait for their other half."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, int]] = {}
        self._ports: dict[str, int] = {}

    def on_opened(self, stream: int, headers: Mapping[str, str]) -> Pair | None:
        """The pair that this stream completes. Raises PairError."""
        kind = headers.get("streamtype", "")
        if kind not in ("error", "data"):
            raise PairError(f'invalid stream type "{kind}"' if kind else '"streamType" header is required')
        if "port" not in headers:
            raise PairError('"port" header is required')
        try:
            port = channels.port(headers["port"])
        except channels.ChannelError as error:
            raise PairError(str(error)) from None
        request = headers.get("requestid") or str(stream if kind == "error" else stream - 2)
        halves = self._waiting.setdefault(request, {})
        if kind in halves:
            raise PairError(f"{kind} stream already assigned")
        if self._ports.setdefault(request, port) != port:
            raise PairError("both streams of a request must name the same port")
        halves[kind] = stream
        if len(halves) < 2:
            return None
        del self._waiting[request], self._ports[request]
        return Pair(port, halves["error"], halves["data"])

    def forget(self, stream: int) -> None:
        """A stream ended before its other half came."""
        for request, halves in list(self._waiting.items()):
            if stream in halves.values():
                del self._waiting[request], self._ports[request]

    @property
    def waiting(self) -> int:
        """How many streams have no other half yet."""
        return len(self._waiting)
