"""The client side: a channel to one address, and stubs with an attribute per method."""

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from aiohappyeyeballs import start_connection
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError

from raykube.base.encoded import Encoded
from raykube.rpc.answers import StreamedAnswer, UnaryAnswer
from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.heads import Metadata
from raykube.rpc.errors import Code, RpcError, Unprocessed
from raykube.rpc.link import Link, Timing, pump
from raykube.rpc.listen import split_address
from raykube.rpc.methods import Method, methods_of
from raykube.rpc.pushed import OnFinished, OnMessage, PushedCall
from raykube.rpc.tls import Tls, client_context

__all__ = ["Channel", "Stub", "Timing", "once"]

ATTEMPTS_MAX = 3  # of one call that no handler saw
CLOSE_S = 0.5  # for TLS to say farewell
NEXT_ADDRESS_S = 0.25  # a name's next address is tried beside one that has not answered yet (RFC 8305)
SHORT_LIVED_S = 1.0  # a connection that has to be made anew within this time, and gave no answer, counts as a failure


class _Callable:
    """What both shapes of answers share: how a call begins."""

    def __init__(self, channel: "Channel", method: Method) -> None:
        self._channel = channel
        self._path = method.path
        self._is_stream = method.client_streaming
        self._serialize = method.request_type.SerializeToString
        self._parse_bytes = method.response_type.FromString

    def _parse(self, message: bytes) -> Any:
        try:
            return self._parse_bytes(message)
        except DecodeError as error:
            raise RpcError(Code.INTERNAL, f"the answer is no {self._path}: {error}") from None

    def _encode(self, request: Any) -> bytes:
        return request.data if isinstance(request, Encoded) else self._serialize(request)

    def _send(self, link: Link, number: int, request: Any) -> "asyncio.Task[None] | None":
        """Sends the request, or begins to send the stream of requests."""
        if not self._is_stream:
            link.send(number, request, end=True)
            return None
        return self._channel.spawn(pump(link, number, request, self._encode))


class _UnaryAnswer(_Callable):
    async def __call__(self, request: Any, timeout: float | None = None) -> Any:
        channel, loop = self._channel, asyncio.get_running_loop()
        if not self._is_stream:
            request = self._encode(request)
        if timeout == math.inf:
            timeout = None
        deadline = None if timeout is None else loop.time() + timeout
        for attempt in range(1, ATTEMPTS_MAX + 1):
            link = channel.link
            if link is None or not link.is_free or (timeout is not None and timeout <= 0):
                link, timeout = await channel.connect(deadline)
            answer = UnaryAnswer(loop)
            number = link.open(self._path, None if timeout is None else _coarse(timeout), answer)
            pumping = self._send(link, number, request)
            timer = None if deadline is None else loop.call_at(deadline, _expire, link, number)
            try:
                return self._parse(await answer.future)
            except asyncio.CancelledError:
                link.cancel(number)
                raise
            except Unprocessed:
                if self._is_stream or attempt == ATTEMPTS_MAX:
                    raise
            finally:
                if timer is not None:
                    timer.cancel()
                if pumping is not None:
                    pumping.cancel()
        raise AssertionError("unreachable")


class _StreamedAnswer(_Callable):
    async def __call__(self, request: Any, timeout: float | None = None, metadata: Metadata = ()) -> AsyncIterator[Any]:
        channel, loop = self._channel, asyncio.get_running_loop()
        if not self._is_stream:
            request = self._encode(request)
        if timeout == math.inf:
            timeout = None
        deadline = None if timeout is None else loop.time() + timeout
        for attempt in range(1, ATTEMPTS_MAX + 1):
            link, timeout = await channel.connect(deadline)
            answer = StreamedAnswer(loop)
            number = link.open(self._path, None if timeout is None else _coarse(timeout), answer, metadata)
            pumping = self._send(link, number, request)
            timer = None if deadline is None else loop.call_at(deadline, _expire, link, number)
            try:
                while True:
                    while answer.messages:
                        message = answer.messages.popleft()
                        link.taken(number, message)
                        yield self._parse(message)
                    if answer.is_finished:
                        break
                    await answer.wait()
            finally:
                link.cancel(number)
                if timer is not None:
                    timer.cancel()
                if pumping is not None:
                    pumping.cancel()
            if answer.error is None:
                return
            if not isinstance(answer.error, Unprocessed) or self._is_stream or attempt == ATTEMPTS_MAX:
                raise answer.error

    async def open(self, on_message: OnMessage, on_finished: OnFinished) -> PushedCall:
        """Begins a call whose requests are pushed: see `PushedCall`. Raises RpcError."""
        assert self._is_stream, f"{self._path} takes one request"
        link, _ = await self._channel.connect(None)
        return PushedCall(link, self._path, self._parse, on_message, on_finished)


def _expire(link: Link, number: int) -> None:
    link.cancel(number, RpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))


class Stub:
    """One service at the other end: `await stub.Range(request, timeout=5)`, `async for r in stub.Watch(requests)`."""

    def __init__(self, channel: "Channel", service: ServiceDescriptor) -> None:
        for method in methods_of(service):
            setattr(self, method.name, channel.method(method))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Channel:
    """A connection to `host:port` or `unix:/path`, made when first used and remade when lost.

    Calls fail with `RpcError`; UNAVAILABLE means that the peer is not there now, and `Unprocessed` that it has not seen
    the call either. After an attempt to connect failed, calls fail at once until the time for another has come; a peer
    that greets and leaves again and again is none the better. All addresses of a name are tried. With `tls`, the peer
    must prove the host's name or address and speak HTTP/2.

    Raises ValueError when the certificates cannot be read; with a context, which many channels may share, they were.
    """

    def __init__(self, address: str, tls: Tls | ssl.SSLContext | None = None, timing: Timing | None = None) -> None:
        self.address = address
        self.attempts = 0  # to connect
        self.link: Link | None = None  # takes calls, or is spent
        self._timing = timing or Timing()
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = client_context(tls) if isinstance(tls, Tls) else tls
            self._context.set_alpn_protocols(["h2"])
        self._connecting: asyncio.Task[Link] | None = None
        self._failures = 0  # attempts in a row
        self._retry_at = 0.0  # by the loop's clock
        self._problem = ""  # of the last attempt
        self._links: set[Link] = set()  # all that are open, spent ones too
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def stub(self, service: ServiceDescriptor) -> Stub:
        return Stub(self, service)

    def method(self, method: Method) -> Any:
        """The callable behind one attribute of a stub."""
        return (_StreamedAnswer if method.server_streaming else _UnaryAnswer)(self, method)

    @property
    def connected(self) -> bool:
        """Whether a call would find a connection."""
        return self.link is not None and not self.link.is_spent

    async def close(self) -> None:
        """Ends the calls under way with UNAVAILABLE, and the connections. Idempotent."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        links, self.link = list(self._links), None
        for link in links:
            link.close("the channel was closed during the call")
        for task in self._tasks:
            task.cancel()
        if links:
            await asyncio.wait([link.closed for link in links], timeout=CLOSE_S)
            for link in links:
                link.abort()

    async def connect(self, deadline: float | None) -> tuple[Link, float | None]:
        """A link that takes a call at once, and the seconds left until `deadline` (the loop's clock).

        Raises RpcError: Unprocessed (UNAVAILABLE), DEADLINE_EXCEEDED.
        """
        loop = asyncio.get_running_loop()
        left_s = None if deadline is None else deadline - loop.time()
        if left_s is not None and left_s <= 0:
            raise RpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        try:
            async with asyncio.timeout_at(deadline):
                link = await self._free_link(loop)
        except TimeoutError:
            text = f"{self.address} took no call before the deadline"
            raise RpcError(Code.DEADLINE_EXCEEDED, f"{text}: {self._problem}" if self._problem else text) from None
        return link, None if deadline is None else deadline - loop.time()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """A task that ends with the channel."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _free_link(self, loop: asyncio.AbstractEventLoop) -> Link:
        while not self._is_closed:
            link = self.link
            if link is not None and not link.is_spent:
                if link.is_free or await link.slot():
                    return link
                continue
            if self._connecting is None:
                if link is not None:
                    self._judge(link)
                if loop.time() < self._retry_at:
                    raise Unprocessed(Code.UNAVAILABLE, self._problem)
                self._connecting = asyncio.create_task(self._attempt(loop))
                self._connecting.add_done_callback(self._on_attempted)
            await asyncio.wait((self._connecting,))
            if not self.connected and not self._is_closed:
                raise Unprocessed(Code.UNAVAILABLE, self._problem or f"{self.address} closed the connection at once")
        raise Unprocessed(Code.UNAVAILABLE, "the channel is closed")

    def _on_attempted(self, attempt: "asyncio.Task[Link]") -> None:
        self._connecting = None
        if attempt.cancelled():
            return
        error = attempt.exception()
        if error is None:
            self.link, self._problem = attempt.result(), ""
            return
        self._failures += 1
        self._retry_at = attempt.get_loop().time() + self._timing.backoff.delay_s(self._failures)
        self._problem = error.message if isinstance(error, RpcError) else f"cannot connect to {self.address}: {error!r}"

    def _judge(self, link: Link) -> None:
        """Whether the connection that is spent was a good one; once for each."""
        self.link = None
        if link.was_useful(SHORT_LIVED_S):
            self._failures = 0
        else:
            if self._failures:  # once may be a server that is just about to stop
                self._retry_at = link.ready_at + self._timing.backoff.delay_s(self._failures)
                self._problem = f"{self.address} closed the connection at once"
            self._failures += 1

    async def _attempt(self, loop: asyncio.AbstractEventLoop) -> Link:
        """A ready link. Raises RpcError."""
        self.attempts += 1
        link: Link | None = None
        try:
            async with asyncio.timeout(self._timing.connect_s):
                link = await self._open(loop)
                await asyncio.shield(link.ready)
                return link
        except TimeoutError:
            reason = f"no answer in {self._timing.connect_s:g} s"
        except ssl.SSLError as error:
            reason = error.strerror or str(error)
        except OSError as error:
            # In the system's words: asyncio puts its own and the address in their place.
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        except ValueError as error:
            reason = str(error)
        except RpcError as error:
            reason = error.message
        finally:
            if link is not None and (not link.ready.done() or link.ready.exception() is not None):
                link.abort()
        raise RpcError(Code.UNAVAILABLE, f"cannot connect to {self.address}: {reason}")

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Link:
        if self.address.startswith("unix:"):
            path = self.address.removeprefix("unix:").removeprefix("//")
            # The kernel tells when such a peer is gone, and servers of others take pings amiss.
            timing = replace(self._timing, keepalive_s=0)
            link = self._new_link("localhost", timing)
            with _told(link):
                await loop.create_unix_connection(lambda: link, path)
            return link
        host, port = split_address(self.address)
        link = self._new_link(self.address, self._timing)
        sock = await _connected(loop, host, port)
        with _told(link):
            transport, _ = await loop.create_connection(
                lambda: link, sock=sock, ssl=self._context, server_hostname=host if self._context is not None else None
            )
        found = transport.get_extra_info("ssl_object")
        if found is not None and found.selected_alpn_protocol() != "h2":
            transport.abort()
            raise ValueError("it did not agree to speak HTTP/2")
        return link

    def _new_link(self, authority: str, timing: Timing) -> Link:
        core = ClientConnection(authority, "http" if self._context is None else "https")
        return Link(self.address, core, timing, self._links, self._on_too_many_pings)

    def _on_too_many_pings(self) -> None:
        self._timing = replace(self._timing, keepalive_s=self._timing.keepalive_s * 2)


async def _connected(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A socket to the first of a name's addresses that answers.

    The loop itself would try them one after another: behind one that swallows what it is sent, none had its turn.
    Raises OSError.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:  # no literal
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=loop)


@contextlib.contextmanager
def _told(link: Link) -> Iterator[None]:
    """Connecting for `link`: when it is given up, the link is told so. uvloop closes a transport that stands already
    without a word to its protocol."""
    try:
        yield
    except BaseException:
        link.connection_lost(None)
        raise


@lru_cache(maxsize=1024)
def _coarse(timeout_s: float) -> float:
    """Up to three significant digits: time-outs that are counted down then look alike on the wire, and a server that
    remembers header blocks need not decode them. Our own deadline is exact."""
    microseconds = max(1, math.ceil(timeout_s * 1e6 - 1e-3))
    step = int(10 ** max(0, len(str(microseconds)) - 3))
    return -(-microseconds // step) * step / 1e6


async def once(message: Any) -> AsyncIterable[Any]:
    """A request stream of a single message."""
    yield message
