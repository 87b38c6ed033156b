"""Which of the store's members answer, and have room. One that lost its disk is silent, though its machine lives."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raykube.pb import etcd_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.channel import Channel

TIMEOUT_S = 2.0
MAINTENANCE = etcd_pb2.DESCRIPTOR.services_by_name["Maintenance"]


NOSPACE = "memberID:{} alarm:NOSPACE"  # as etcd writes it among a status' errors


@dataclass(frozen=True, slots=True)
class Heard:
    """For how long each member is so, by id; those that are not are left out."""

    silent_s: dict[int, float]  # it does not answer
    full_s: dict[int, float]  # it answers, and its disk is full


class Voices:
    """Remembers since when each member is silent or full, as heard by this one."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._channels: dict[str, Channel] = {}
        self._silent_since: dict[int, float] = {}
        self._full_since: dict[int, float] = {}

    async def hear(self, members: Iterable[Any]) -> Heard:
        """Asks each of etcd's `members`, those on live machines.

        One that is not among them is none of the silent: when its machine is back, it has all its time to start. A
        member that has not started yet has no address to be asked at, and is silent too.
        """
        asked = {member.ID: member.clientURLs[0] if member.clientURLs else "" for member in members}
        answers = dict(zip(asked, await asyncio.gather(*map(self._ask, asked.values())), strict=True))
        now = time.monotonic()
        silent = [member for member, answer in answers.items() if answer is None]
        full = [
            member
            for member, answer in answers.items()
            if answer is not None and any(NOSPACE.format(member) in error for error in answer.errors)
        ]
        self._silent_since = {member: self._silent_since.get(member, now) for member in silent}
        self._full_since = {member: self._full_since.get(member, now) for member in full}
        return Heard(
            {member: now - since for member, since in self._silent_since.items()},
            {member: now - since for member, since in self._full_since.items()},
        )

    async def _ask(self, url: str) -> Any | None:
        """What a member says of itself; None when it does not answer."""
        if not url:
            return None
        address = url.partition("://")[2]
        if address not in self._channels:
            self._channels[address] = Channel(address, self._tls)
        try:
            stub = self._channels[address].stub(MAINTENANCE)
            return await stub.Status(etcd_pb2.StatusRequest(), timeout=TIMEOUT_S)
        except RpcError:
            return None

    async def forget(self) -> None:
        """Begins anew, and closes the connections."""
        self._silent_since.clear()
        self._full_since.clear()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
