"""What every handler of the REST API has at hand: the server's parts, and the request it answers."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.requestinfo import RequestInfo
from raykube.apiserver.core.users import UserInfo

BODY_BYTES_MAX = 3 * 1024 * 1024
JSON_TYPE = "application/json"


@dataclass(slots=True)
class Context:
    """One request."""

    request: web.BaseRequest
    info: RequestInfo
    user: UserInfo
    resource: Resource | None = None
    warnings: list[str] = field(default_factory=list)
    audit_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    @property
    def target(self) -> Resource:
        """The resource of a resource request."""
        assert self.resource is not None
        return self.resource

    def headers(self, content_type: str = JSON_TYPE) -> dict[str, str]:
        """The headers of an answer to this request, without those that repeat."""
        return {
            "Audit-Id": self.audit_id,
            "Cache-Control": "no-cache, private",
            "Content-Type": content_type,
        }

    def answer(self, body: bytes, code: int = 200, content_type: str = JSON_TYPE) -> web.Response:
        """A complete answer."""
        response = web.Response(body=body, status=code, headers=self.headers(content_type))
        self.warn(response)
        return response

    def warn(self, response: web.StreamResponse) -> None:
        for warning in dict.fromkeys(self.warnings):
            text = warning.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
            response.headers.add("Warning", f'299 - "{text}"')

    def document(self, body: Any, code: int = 200) -> web.Response:
        """An answer of a Python object as JSON."""
        pretty = self.query.get("pretty") in ("1", "true", "True")
        return self.answer(orjson.dumps(body, option=orjson.OPT_INDENT_2 if pretty else 0), code)

    async def body(self) -> bytes:
        """The whole body. Raises ApiError 413 for one over 3 MiB."""
        declared = self.request.content_length
        if declared is not None and declared > BODY_BYTES_MAX:
            raise ApiError.too_large(f"limit is {BODY_BYTES_MAX}")
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.request.content.iter_any():
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise ApiError.too_large(f"limit is {BODY_BYTES_MAX}")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def status_answer(error: ApiError, audit_id: str = "") -> web.Response:
    """An error as its Status object."""
    status = error.status()
    response = web.Response(
        body=orjson.dumps(status),
        status=error.code,
        headers={"Content-Type": JSON_TYPE, "Cache-Control": "no-cache, private"},
    )
    if audit_id:
        response.headers["Audit-Id"] = audit_id
    if error.code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    retry_after = (status.get("details") or {}).get("retryAfterSeconds")
    if retry_after:
        response.headers["Retry-After"] = str(retry_after)
    return response
