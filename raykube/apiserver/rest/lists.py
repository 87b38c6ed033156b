"""Answers that may be large: lists are sent as they are made, what is sent whole is packed where clients take it."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator

from aiohttp import web

from raykube.apiserver.core import continuation, options
from raykube.apiserver.core.negotiation import YAML, Form, takes_gzip
from raykube.apiserver.core.scan import Page
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.rest import render
from raykube.apiserver.rest.context import Context
from raykube.apiserver.turns import Turns

_WRITE_BYTES_MAX = 256 * 1024
_STREAM_BYTES_MIN = 1024 * 1024
_TURN_BYTES_MIN = 16 * 1024  # a piece of a list that took some time to make
_GZIP_BYTES_MIN = 128 * 1024
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 1  # the answer goes over a fast network: little CPU counts for more than few bytes


def metadata(page: Page) -> Object:
    """A list's metadata: its revision, and how to go on where it is a chunk."""
    found: Object = {"resourceVersion": str(page.revision)}
    if page.next_key:
        found["continue"] = continuation.encode(page.revision, page.next_key)
        if page.remaining is not None:
            found["remainingItemCount"] = page.remaining
    return found


async def answer(context: Context, pieces: Iterator[bytes], form: Form, turns: Turns) -> web.StreamResponse:
    """A list, in the pieces that `render.list_pieces` makes. Others have their turns meanwhile."""
    if _is_pretty(context) or form.media_type == YAML:
        return await complete(context, b"".join(pieces), form)
    first: list[bytes] = []
    size = 0
    for piece in pieces:
        first.append(piece)
        size += len(piece)
        if size >= _STREAM_BYTES_MIN:
            return await _stream(context, first, pieces, turns)
        if len(piece) >= _TURN_BYTES_MIN:
            await turns.next()
    return await complete(context, b"".join(first), form)


async def complete(context: Context, data: bytes, form: Form) -> web.Response:
    """An answer that is there as a whole."""
    body, content_type = render.pretty(data, form, _is_pretty(context))
    if len(body) < _GZIP_BYTES_MIN or not takes_gzip(context.request.headers.get("Accept-Encoding", "")):
        return context.answer(body, content_type=content_type)
    packed = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)
    response = context.answer(packed, content_type=content_type)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    return response


def _is_pretty(context: Context) -> bool:
    return "pretty" in context.query and options.parse_bool(context.query["pretty"])


async def _stream(context: Context, first: list[bytes], rest: Iterator[bytes], turns: Turns) -> web.StreamResponse:
    """A large list, JSON, as it is made: it is nowhere as a whole, and others have their turns between two pieces."""
    response = web.StreamResponse(headers=context.headers())
    context.warn(response)
    packer = None
    if takes_gzip(context.request.headers.get("Accept-Encoding", "")):
        packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WBITS)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"
    response.enable_chunked_encoding()
    await response.prepare(context.request)
    try:
        gathered, size = first, sum(map(len, first))
        for piece in rest:
            if size >= _WRITE_BYTES_MAX:
                await _send(response, gathered, packer)
                gathered, size = [], 0
            gathered.append(piece)
            size += len(piece)
            if len(piece) >= _TURN_BYTES_MIN:
                await turns.next()
        await _send(response, gathered, packer)
        if packer is not None:
            await response.write(packer.flush())
        await response.write_eof()
    except BaseException:
        # No status can be sent any more, and nobody may take a part for the whole.
        if context.request.transport is not None:
            context.request.transport.abort()
        raise
    return response


async def _send(response: web.StreamResponse, pieces: list[bytes], packer: "zlib._Compress | None") -> None:
    data = b"".join(pieces)
    if packer is not None:
        data = await asyncio.to_thread(packer.compress, data)
    if data:
        await response.write(data)
