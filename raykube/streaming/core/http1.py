"""The heads of an upgrade: HTTP/1.1 request and response, as bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

HEAD_BYTES_MAX = 64 * 1024
Headers = list[tuple[str, str]]

# What says how the two hops of a proxied upgrade agree; everything else is of one hop, or the client's secret.
_UPGRADE_HEADERS = ("connection", "upgrade", "x-stream-protocol-version", "content-length")


class HeadError(Exception):
    """What came is no HTTP response head."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    status: int
    reason: str
    headers: Headers

    def get(self, name: str) -> str:
        """The first header of this name, "" for none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


def request_head(method: str, target: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def response_head(head: ResponseHead) -> bytes:
    lines = [f"HTTP/1.1 {head.status} {head.reason}", *(f"{name}: {value}" for name, value in head.headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def parse_response_head(data: bytes) -> ResponseHead:
    """`data` ends with the empty line. Raises HeadError."""
    first, *lines = data.decode("utf-8", "surrogateescape").removesuffix("\r\n\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not code.isascii() or not code.isdigit():
        raise HeadError(f"no HTTP response begins with {first[:80]!r}")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HeadError(f"{line[:80]!r} is no header")
        headers.append((name, value.strip()))
    return ResponseHead(int(code), reason, headers)


def upgrade_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers of a client's upgrade that the next hop needs, WebSocket's own included."""
    return [
        (name, value)
        for name, value in headers
        if name.lower() in _UPGRADE_HEADERS or name.lower().startswith("sec-websocket-")
    ]


def spdy_headers(protocol: str) -> Headers:
    """The headers by which a hop of ours asks the next one for SPDY."""
    return [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", protocol),
        ("Content-Length", "0"),
    ]
