"""What header blocks mean to gRPC, and how it writes them (PROTOCOL-HTTP2.md, "Requests" and "Responses")."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from raykube.rpc.core.fields import Field
from raykube.rpc.core.frames import ErrorCode, StreamFault
from raykube.rpc.core.headers import METHOD_POST, SCHEME, STATUS_200, encode
from raykube.rpc.core.status import code_of_http, code_of_text, decode_message, decode_timeout, encode_message
from raykube.rpc.core.status import encode_timeout as _timeout
from raykube.rpc.errors import Code

CONTENT_TYPE = b"application/grpc"
USER_AGENT = b"raykube"

_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_RESPONSE_PSEUDO = frozenset((b":status",))
_OF_A_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_ENDS_A_LINE = re.compile(rb"[\0\r\n]")

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is answered by the core itself: an HTTP status, and a gRPC status when it is HTTP's 200."""

    http_status: int
    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A call's head: its method's path (`/package.Service/Method`), deadline and metadata (lower-case names).

    `is_compressed`: its messages may be, each with gzip.
    """

    path: str
    timeout_s: float | None
    metadata: Mapping[str, str]
    refusal: Refusal | None = None
    is_compressed: bool = False


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer, its trailers, or both in one. `code` None: no status in it.

    `flaw`: why it is no head of a gRPC answer, with the status that HTTP's maps to.
    """

    status: str | None
    code: Code | None
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    flaw: tuple[Code, str] | None = None


def _sorted_out(headers: list[Field], pseudo: frozenset[bytes]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Pseudo-headers and others, repeated ones joined by commas. Raises StreamFault (RFC 9113 section 8.2, 8.3)."""
    first: dict[bytes, bytes] = {}
    others: dict[bytes, bytes] = {}
    for name, value in headers:
        if name[:1] == b":":
            if name not in pseudo or name in first or others:
                raise _malformed(f"pseudo-header {_shown(name)} is unknown, twice or late")
            first[name] = value
            continue
        if not name or name != name.lower() or name in _OF_A_CONNECTION:
            raise _malformed(f"header {_shown(name)} is not allowed in HTTP/2")
        if _ENDS_A_LINE.search(value) or _ENDS_A_LINE.search(name):
            raise _malformed(f"header {_shown(name)} holds the end of a line")
        others[name] = others[name] + b"," + value if name in others else value
    return first, others


def _malformed(reason: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, reason)


def _shown(name: bytes) -> str:
    return repr(name[:64].decode("latin-1"))


def _metadata(headers: dict[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers.items()
        if not name.startswith(b"grpc-") and name not in (b"content-type", b"te")
    }


def _is_grpc(content_type: bytes) -> bool:
    return content_type.startswith(CONTENT_TYPE) and content_type[len(CONTENT_TYPE) :][:1] in (b"", b"+", b";")


def parse_request(headers: list[Field]) -> RequestHead:
    """Raises StreamFault when it is no request of HTTP/2."""
    first, others = _sorted_out(headers, _REQUEST_PSEUDO)
    method, path = first.get(b":method"), first.get(b":path")
    if not method or not path or not first.get(b":scheme"):
        raise _malformed(":method, :scheme and :path are needed")
    if others.get(b"te", b"trailers").strip().lower() != b"trailers":
        raise _malformed("te can only be 'trailers'")
    refusal: Refusal | None = None
    timeout_s: float | None = None
    encoding = others.get(b"grpc-encoding", b"identity")
    if method != b"POST":
        refusal = Refusal(405, Code.INTERNAL, "gRPC is POST")
    elif not _is_grpc(others.get(b"content-type", b"")):
        refusal = Refusal(415, Code.INTERNAL, "the content-type is not application/grpc")
    elif encoding not in (b"identity", b"gzip"):
        refusal = Refusal(200, Code.UNIMPLEMENTED, f"grpc-encoding {_shown(encoding)} is not supported; use gzip")
    elif b"grpc-timeout" in others:
        try:
            timeout_s = decode_timeout(others[b"grpc-timeout"])
        except ValueError as error:
            refusal = Refusal(200, Code.INTERNAL, str(error))
    return RequestHead(path.decode("latin-1"), timeout_s, _metadata(others), refusal, encoding == b"gzip")


def parse_response(headers: list[Field]) -> ResponseHead:
    """A head or trailers. Raises StreamFault when it is no block of HTTP/2."""
    first, others = _sorted_out(headers, _RESPONSE_PSEUDO)
    status = first[b":status"].decode("latin-1") if b":status" in first else None
    message = decode_message(others.get(b"grpc-message", b""))
    code = code_of_text(others[b"grpc-status"].decode("latin-1")) if b"grpc-status" in others else None
    flaw: tuple[Code, str] | None = None
    if status is not None and status[:1] != "1" and code is None:
        encoding = others.get(b"grpc-encoding", b"identity")
        if status != "200":
            flaw = code_of_http(status), f"the server answered with HTTP status {status}"
        elif not _is_grpc(others.get(b"content-type", b"")):
            flaw = Code.UNKNOWN, "the server's answer is not gRPC"
        elif encoding != b"identity":
            flaw = Code.INTERNAL, f"the server's answer is encoded with {_shown(encoding)}, which was not offered"
    return ResponseHead(status, code, message, _metadata(others), flaw)


@lru_cache(maxsize=1024)
def request_block(path: str, authority: str, scheme: str, timeout_s: float | None, metadata: Metadata) -> bytes:
    """The header block of a request. `metadata` names are made lower-case."""
    headers = [
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"content-type", CONTENT_TYPE),
        (b"te", b"trailers"),
        (b"user-agent", USER_AGENT),
    ]
    if timeout_s is not None:
        headers.append((b"grpc-timeout", _timeout(timeout_s)))
    headers += [(name.lower().encode(), value.encode()) for name, value in metadata]
    return METHOD_POST + SCHEME[scheme] + encode(headers)


ANSWER_BLOCK = STATUS_200 + encode([(b"content-type", CONTENT_TYPE)])
TRAILERS_OK = encode([(b"grpc-status", b"0")])


def trailers_block(code: Code, message: str) -> bytes:
    """Trailers that end a streamed answer."""
    if code is Code.OK and not message:
        return TRAILERS_OK
    headers = [(b"grpc-status", str(int(code)).encode())]
    if message:
        headers.append((b"grpc-message", encode_message(message)))
    return encode(headers)


def refusal_block(refusal: Refusal) -> bytes:
    """An answer of a status only, not necessarily HTTP's 200."""
    status = STATUS_200 if refusal.http_status == 200 else encode([(b":status", str(refusal.http_status).encode())])
    accepted = encode([(b"grpc-accept-encoding", b"identity,gzip")]) if refusal.code is Code.UNIMPLEMENTED else b""
    return status + ANSWER_BLOCK[1:] + trailers_block(refusal.code, refusal.message) + accepted
