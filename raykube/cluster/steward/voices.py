"""Who of the store's members answers: one that lost its disk, or cannot start, is silent on a machine that lives."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from raykube.cluster.steward.silence import Silence
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.channel import Channel

TIMEOUT_S = 2.0
MAINTENANCE = etcd_pb2.DESCRIPTOR.services_by_name["Maintenance"]


class Voices:
    """Remembers for how long each member is silent, as heard by this one."""

    def __init__(self, tls: Tls, patience_s: float) -> None:
        self._tls = tls
        self._channels: dict[str, Channel] = {}
        self._silence: Silence[tuple[int, bool]] = Silence(patience_s)  # of a member, before it began and after

    async def answering(self, members: Iterable[Any]) -> set[int]:
        """The ids of those of etcd's `members` that answer now.

        All are asked at once, and nothing else waits for them: the store's leader runs in the same loop. A member that
        has not started yet has no address to be asked at, and does not answer.
        """
        asked = {member.ID: member.clientURLs[0] if member.clientURLs else "" for member in members}
        answers = await asyncio.gather(*map(self._answers, asked.values()))
        return {member for member, answered in zip(asked, answers, strict=True) if answered}

    def silent_s(self, members: Iterable[Any], answering: set[int]) -> dict[int, float]:
        """For how long each of etcd's `members`, those on live machines, does not answer, by id; those that do are left
        out, but for one that did not a moment ago, which has 0.

        One that is not among them is none of the silent: when its machine is back, it has all its time to start. So has
        one that has just begun.
        """
        answers = {(member.ID, bool(member.clientURLs)): member.ID in answering for member in members}
        found = self._silence.on_heard(time.monotonic(), answers)
        return {member: silence_s for (member, _), silence_s in found.items()}

    async def _answers(self, url: str) -> bool:
        if not url:
            return False
        address = url.partition("://")[2]
        if address not in self._channels:
            self._channels[address] = Channel(address, self._tls)
        try:
            await self._channels[address].stub(MAINTENANCE).Status(etcd_pb2.StatusRequest(), timeout=TIMEOUT_S)
        except RpcError:
            return False
        return True

    async def forget(self) -> None:
        """Begins anew, and closes the connections."""
        self._silence.forget()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
