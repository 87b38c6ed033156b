"""The same requests to the real etcd and to ours: the same answers, revisions, codes and messages.

What a member says about itself (who it is, its term) is left out, as is how much of a lease's time has passed.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from raykube.pb import etcd_pb2
from tests.kit.etcd import Refusal, Wire, real_etcd
from tests.kv.etcd_requests import Request, Requests
from tests.kv.group import running_group

pytestmark = pytest.mark.integration


def comparable(answer: Message | Refusal) -> Message | Refusal:
    """The answer without what differs between any two clusters."""
    if isinstance(answer, Refusal):
        return answer
    header = answer.header  # type: ignore[attr-defined] # all answers have one
    header.cluster_id = header.member_id = header.raft_term = 0
    if isinstance(answer, etcd_pb2.LeaseTimeToLiveResponse):
        answer.TTL = min(answer.TTL, 0)
        answer.keys.sort()
    elif isinstance(answer, etcd_pb2.LeaseLeasesResponse):
        answer.leases.sort(key=lambda lease: lease.ID)
    return answer


class Pair:
    """Ours and the real one, asked the same."""

    def __init__(self, ours: Wire, etcd: Wire) -> None:
        self.ours = ours
        self.etcd = etcd
        self._asked: list[Request] = []

    async def ask(self, request: Request) -> Message | Refusal:
        """Asks both, and asserts that they agree."""
        self._asked.append(request)
        expected = comparable(await self.etcd.call(*request))
        answer = comparable(await self.ours.call(*request))
        if answer != expected:
            before = "\n".join(map(str, self._asked[-4:-1]))
            pytest.fail(
                f"request {len(self._asked)}: {request}\n--- etcd\n{expected}\n--- ours\n{answer}\n--- before\n{before}"
            )
        return answer


# Flags that etcd 3.5 has under another name.
EXPERIMENTAL = {"watch_progress_notify_interval": "experimental-watch-progress-notify-interval"}


@asynccontextmanager
async def running_pair(folder: Path, **flags: Any) -> AsyncIterator[Pair]:
    """A member of each, started with the same flags, given in our names."""
    etcd_flags = [f"--{EXPERIMENTAL.get(name, name.replace('_', '-'))}={value}" for name, value in flags.items()]
    async with (
        real_etcd(folder, *etcd_flags) as address,
        running_group(folder, 1, heartbeat_interval=100, election_timeout=1000, **flags) as group,
    ):
        ours, etcd = Wire(group.endpoints[0]), Wire(address)
        try:
            yield Pair(ours, etcd)
        finally:
            await ours.close()
            await etcd.close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with running_pair(tmp_path) as pair:
        yield pair


@pytest.mark.parametrize("seed", range(4))
async def test_random_requests(pair: Pair, seed: int) -> None:
    requests = Requests(seed)
    # Members tell their names with a first write of the log, which is no revision of the store in either.
    for _ in range(600):
        answer = await pair.ask(requests.draw())
        if not isinstance(answer, Refusal):
            requests.revision = answer.header.revision or requests.revision
