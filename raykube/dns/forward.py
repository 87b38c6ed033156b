"""Asks upstream servers, and remembers what they said.

The first server gets HEDGE_S to answer before the next is asked too; whoever answers first is believed. Every query has
a socket of its own, so that its port is as hard to guess as its number. An answer that was cut is asked for again over
TCP. Queries for the same thing share one.
"""

import asyncio
import logging
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from raykube.base.clock import Clock
from raykube.dns.config import upstream
from raykube.dns.core.cache import Cache, CacheKey, Entry, cache_key
from raykube.dns.core.message import TTL_S_MAX, Message, encode, lifetime_s, read_answer
from raykube.dns.core.metrics import Metrics
from raykube.dns.core.responder import PROBE, PROBE_ANSWER
from raykube.dns.core.upstreams import DNS_PORT, Address, Upstreams, nameservers
from raykube.dns.core.wire import (
    CD,
    DNSSEC_OK,
    FORMERR,
    NOERROR,
    NXDOMAIN,
    RD,
    SERVFAIL,
    TXT,
    UDP_BYTES_MIN,
    Malformed,
    Query,
)
from raykube.rpc.listen import join_address

log = logging.getLogger(__name__)

HEDGE_S = 0.8
ATTEMPT_S = 2.0
TOTAL_S = 4.5  # a resolver of glibc asks the next server after 5 s
ROUNDS = 2  # how often each server is asked: datagrams get lost
REREAD_S = 5.0
PROBE_PAUSE_S = 300.0
PROBE_AGAIN_S = 30.0  # while a loop is known, or a server did not answer the probe
SERVFAIL_S = 5.0  # how long a failure is remembered (RFC 2308 section 7.1 allows 5 minutes)


class NoAnswer(OSError):
    """No upstream server answered."""


def message_for(query: Query, *, edns_size: int) -> bytes:
    """The message that asks upstream for `query`; without EDNS where the size is 0."""
    flags = RD | query.flags & CD
    head = secrets.token_bytes(2) + flags.to_bytes(2, "big") + b"\0\1\0\0\0\0" + (b"\0\1" if edns_size else b"\0\0")
    question = query.key + query.type.to_bytes(2, "big") + b"\0\1"
    if not edns_size:
        return head + question
    bits = DNSSEC_OK if query.dnssec_ok else 0
    opt = b"\0\0\x29" + edns_size.to_bytes(2, "big") + b"\0\0" + bits.to_bytes(2, "big") + b"\0\0"
    return head + question + opt


async def exchange_udp(address: Address, message: bytes, timeout_s: float) -> Message:
    """One datagram there, one back. Raises OSError (TimeoutError too) or Malformed."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    answered: asyncio.Future[Message] = loop.create_future()

    def on_readable() -> None:
        try:
            while not answered.done():
                data = found.recv(65535)
                if data[:2] == message[:2]:  # anything else is a guess of somebody's
                    answered.set_result(read_answer(data, message))
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, Malformed) as error:
            if not answered.done():
                answered.set_exception(error)

    with socket.socket(family, socket.SOCK_DGRAM) as found:
        found.setblocking(False)
        found.connect(address)
        loop.add_reader(found, on_readable)
        try:
            found.send(message)
            async with asyncio.timeout(timeout_s):
                return await answered
        finally:
            loop.remove_reader(found)


async def exchange_tcp(address: Address, message: bytes, timeout_s: float) -> Message:
    """One query over a connection of its own. Raises OSError (TimeoutError too) or Malformed."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(len(message).to_bytes(2, "big") + message)
            length = int.from_bytes(await reader.readexactly(2), "big")
            return read_answer(await reader.readexactly(length), message)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the connection ended before the answer") from None
        finally:
            writer.transport.abort()


class Forwarder:
    """The way to upstream's answers."""

    def __init__(
        self,
        servers: list[str],
        resolv_conf: Path,
        *,
        cache: Cache,
        cache_ttl_s: int,
        edns_size: int,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`servers` in place of those of `resolv_conf`."""
        self.upstreams = Upstreams()
        self._given = [upstream(text) for text in servers]
        self._resolv_conf = resolv_conf
        self._read: tuple[int, int, int] | None = None
        self._look_again_at = 0.0
        self._cache = cache
        self._cache_ttl_s = cache_ttl_s
        self._edns_size = edns_size
        self._metrics = metrics
        self._clock = clock
        self._running: dict[CacheKey, asyncio.Task[Entry]] = {}
        self._changed = asyncio.Event()

    # The list of servers

    def look(self, *, at_once: bool = False) -> None:
        """Reads the list of servers again if its file changed, at most every REREAD_S or `at_once`."""
        now = self._clock.monotonic()
        if now < self._look_again_at and not at_once:
            return
        self._look_again_at = now + REREAD_S
        if self._given:
            if not self.upstreams.addresses:
                self._set(self._given)
            return
        try:
            found = os.stat(self._resolv_conf)
            state = (found.st_mtime_ns, found.st_ino, found.st_size)
            if state == self._read:
                return
            text = self._resolv_conf.read_text(errors="replace")
        except OSError as error:
            if self._read != (0, 0, 0):
                log.warning("cannot read %s: %s; names outside the cluster get no answer", self._resolv_conf, error)
                self._read = (0, 0, 0)
            return
        self._read = state
        self._set([(address, DNS_PORT) for address in nameservers(text)])

    def _set(self, addresses: list[Address]) -> None:
        for address in self.upstreams.set(addresses):
            log.error("%s would forward to itself: %s", join_address(*address), self._advice())
        if not self.upstreams.addresses:
            log.warning("no upstream server: names outside the cluster get no answer; %s", self._advice())
        self._changed.set()

    def _advice(self) -> str:
        return "name other servers with --forward" if self._given else f"change {self._resolv_conf}, or use --forward"

    # Answers

    def cached(self, query: Query) -> Entry | None:
        """What was said before, while it holds."""
        return self._cache.get(cache_key(query), self._clock.monotonic())

    async def resolve(self, query: Query) -> Entry:
        """What upstream says; a failure is an Entry too, with SERVFAIL."""
        entry = self.cached(query)
        if entry is not None:
            return entry
        key = cache_key(query)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._resolve(query, key))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _resolve(self, query: Query, key: CacheKey) -> Entry:
        self.look()
        try:
            message = await self._ask(query)
        except NoAnswer as error:
            log.debug("no answer: %s", error)
            message = Message(SERVFAIL, False, False, (), (), ())
        now = self._clock.monotonic()
        holds_s: float = min(lifetime_s(message), self._cache_ttl_s)
        body = encode(query.key, message, ttl_s_max=self._cache_ttl_s or TTL_S_MAX)
        if message.rcode == SERVFAIL and self.upstreams.addresses:
            holds_s = min(SERVFAIL_S, self._cache_ttl_s)
        entry = Entry(message, body, now, now + holds_s)
        if holds_s > 0:
            self._cache.put(key, entry)
        self._metrics.cache_entries = len(self._cache)
        return entry

    async def _ask(self, query: Query) -> Message:
        """Asks server after server, the later ones beside the earlier ones. Raises NoAnswer."""
        order = self.upstreams.order(self._clock.monotonic()) * ROUNDS
        running: set[asyncio.Task[Message | None]] = set()
        refusal: Message | None = None
        try:
            async with asyncio.timeout(TOTAL_S):
                for address in order:
                    running.add(asyncio.get_running_loop().create_task(self._ask_one(address, query)))
                    message, refusal = await self._first(running, HEDGE_S, refusal)
                    if message is not None:
                        return message
                while running:
                    message, refusal = await self._first(running, None, refusal)
                    if message is not None:
                        return message
        except TimeoutError:
            pass
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if refusal is not None:
            return refusal
        raise NoAnswer("no upstream server answers" if order else "no upstream server is known")

    @staticmethod
    async def _first(
        running: set["asyncio.Task[Message | None]"], timeout_s: float | None, refusal: Message | None
    ) -> tuple[Message | None, Message | None]:
        """The first good answer within the time; a refusal ends the wait, as somebody else may know."""
        done, _ = await asyncio.wait(running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        running -= done
        for task in done:
            message = task.result()
            if message is None:
                continue
            if message.rcode in (NOERROR, NXDOMAIN):
                return message, refusal
            refusal = message
        return None, refusal

    async def _ask_one(self, address: Address, query: Query) -> Message | None:
        """One server's answer; None when it gave none."""
        server = join_address(*address)
        started = self._clock.monotonic()
        try:
            message = await self._exchange(address, query)
        except (OSError, Malformed) as error:
            log.debug("upstream %s: %s", server, error or type(error).__name__)
            self._metrics.upstream_failures[server] += 1
            self.upstreams.on_failure(address, self._clock.monotonic())
            return None
        self._metrics.on_upstream(server, message.rcode, self._clock.monotonic() - started)
        self.upstreams.on_answer(address)
        return message

    async def _exchange(self, address: Address, query: Query) -> Message:
        request = message_for(query, edns_size=self._edns_size)
        message = await exchange_udp(address, request, ATTEMPT_S)
        if message.rcode == FORMERR:  # a server older than EDNS (RFC 6891 section 6.2.2)
            request = message_for(query, edns_size=0)
            message = await exchange_udp(address, request, ATTEMPT_S)
        if message.truncated:
            message = await exchange_tcp(address, request, ATTEMPT_S)
        return message

    # Loops

    def probe_now(self) -> None:
        """Looks for loops now, not after the pause."""
        self._changed.set()

    async def watch_for_loops(self) -> None:
        """Asks every server for a name that only DNS servers of raykube answer; those that know it lead back here."""
        while True:
            self._changed.clear()
            self.look()
            settled = True
            for address in self.upstreams.addresses:
                settled &= await self._probe(address)
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_PAUSE_S if settled else PROBE_AGAIN_S):
                    await self._changed.wait()

    async def _probe(self, address: Address) -> bool:
        """Whether the server is known not to loop."""
        label = secrets.token_hex(16).encode()
        name = bytes((len(label),)) + label + PROBE
        query = Query(b"\0\0", RD, name, name, (), TXT, False, UDP_BYTES_MIN, False)
        try:
            message = await exchange_udp(address, message_for(query, edns_size=0), TOTAL_S)
        except (OSError, Malformed):
            return False  # nothing is known: it may be down
        loops = any(each.type == TXT and each.data == PROBE_ANSWER for each in message.answers)
        if self.upstreams.on_probe(address, loops):
            server = join_address(*address)
            if loops:
                log.error("the upstream server %s asks this cluster's DNS: it is left out; %s", server, self._advice())
            else:
                log.info("the upstream server %s does not lead back here any more", server)
        return not loops

    async def stop(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
