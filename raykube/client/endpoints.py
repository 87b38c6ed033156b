"""The live apiservers: channels, whose turn it is, and who is thought to be down.

The list starts with the addresses given, and follows the Endpoints stream of any live apiserver. Calls go round robin
over those not known to be down; one that failed rests for a growing time. When all rest, the one due first is tried:
a client never gives up by itself. The addresses given stay known: when no published one answers they are tried again.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any

from raykube.base.backoff import Backoff
from raykube.base.clock import Clock
from raykube.pb import api_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.channel import Channel

log = logging.getLogger(__name__)

SERVICE = api_pb2.DESCRIPTOR.services_by_name["Api"]
REST = Backoff(initial_s=0.1, max_s=3.0)


class Peer:
    """One apiserver."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        self.channel = Channel(address, tls)
        self.stub: Any = self.channel.stub(SERVICE)
        self.failures = 0
        self.rests_until = 0.0


class Endpoints:
    """Picks a peer for each call."""

    def __init__(self, addresses: list[str], tls: Tls | None, clock: Clock) -> None:
        if not addresses:
            raise ValueError("no apiserver address given: pass at least one host:port of an apiserver's gRPC API")
        self._seeds = list(dict.fromkeys(addresses))
        self._tls = tls
        self._clock = clock
        self._peers: dict[str, Peer] = {}
        self._turn = 0
        self._follower: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._set(self._seeds)

    @property
    def addresses(self) -> list[str]:
        return list(self._peers)

    def start(self) -> None:
        """Starts to follow the published list; idempotent."""
        if self._follower is None:
            self._follower = asyncio.get_running_loop().create_task(self._follow())

    def pick(self, avoid: Peer | None = None) -> Peer:
        """The peer for the next call; another one than `avoid` when there is a choice."""
        now = self._clock.monotonic()
        awake = [peer for peer in self._peers.values() if peer.rests_until <= now]
        if len(awake) > 1 and avoid in awake:
            awake.remove(avoid)
        if not awake:
            missing = [address for address in self._seeds if address not in self._peers]
            for address in missing:
                self._peers[address] = Peer(address, self._tls)
            if missing:
                return self._peers[missing[0]]
            return min(self._peers.values(), key=lambda peer: peer.rests_until)
        self._turn += 1
        return awake[self._turn % len(awake)]

    def wait_s(self) -> float:
        """How long until some peer is worth a try; 0 when one is awake."""
        return max(0.0, min(peer.rests_until for peer in self._peers.values()) - self._clock.monotonic())

    def on_success(self, peer: Peer) -> None:
        peer.failures = 0
        peer.rests_until = 0.0

    def on_failure(self, peer: Peer) -> None:
        peer.failures += 1
        peer.rests_until = self._clock.monotonic() + REST.delay_s(peer.failures)

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        for peer in self._peers.values():
            await peer.channel.close()
        for task in list(self._closing):
            await task

    def _set(self, addresses: list[str]) -> None:
        for address in addresses:
            if address not in self._peers:
                self._peers[address] = Peer(address, self._tls)
        for address in [address for address in self._peers if address not in addresses]:
            gone = self._peers.pop(address)
            # Calls that run on it may end: it was withdrawn, not necessarily dead.
            task = asyncio.get_running_loop().create_task(_close_later(gone))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _follow(self) -> None:
        while True:
            peer = self.pick()
            try:
                async for response in peer.stub.Endpoints(api_pb2.EndpointsRequest()):
                    self.on_success(peer)
                    addresses = [endpoint.address for endpoint in response.endpoints if endpoint.address]
                    if addresses and set(addresses) != set(self._peers):
                        log.debug("apiservers are now %s", ", ".join(addresses))
                        self._set(addresses)
            except RpcError as error:
                self.on_failure(peer)
                log.debug("endpoints stream of %s ended: %s", peer.address, error)
            await asyncio.sleep(max(0.2, self.wait_s()))


async def _close_later(peer: Peer, grace_s: float = 5.0) -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(grace_s)
    await peer.channel.close()
