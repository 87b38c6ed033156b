"""Changes of the membership, asked of the real etcd and of ours: the same refusals, the same lists.

Not asked: a MemberUpdate with addresses that are none. The real etcd takes it and dies of it.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import etcd_pb2
from tests.kit.etcd import Refusal, Wire
from tests.kv.test_against_etcd import running_pair

pytestmark = pytest.mark.integration
FOUNDER, UNKNOWN = "the founder", "nobody"
FIRST, SECOND, MOVED = "http://127.0.0.1:1001", "http://127.0.0.1:1002", "http://127.0.0.1:1003"
# etcd 3.5 sends the error of its client library, which has no code on the wire, in place of FAILED_PRECONDITION.
NOT_STARTED = "etcdserver: re-configuration failed due to not enough started members"
REQUESTS = {
    "MemberAdd": etcd_pb2.MemberAddRequest,
    "MemberRemove": etcd_pb2.MemberRemoveRequest,
    "MemberUpdate": etcd_pb2.MemberUpdateRequest,
    "MemberPromote": etcd_pb2.MemberPromoteRequest,
    "MemberList": etcd_pb2.MemberListRequest,
}


class Side:
    """One of the two. Ids differ, so members are named by the first peer URL that they had."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._names: dict[int, str] = {}
        self._moved: set[str] = set()  # a learner that moves is shown as a voter by etcd, which it is not

    async def started(self) -> None:
        """Returns when the founder has told its name."""
        deadline = time.monotonic() + 20
        while True:
            answer: Any = await self._wire.call("Cluster", "MemberList", etcd_pb2.MemberListRequest())
            if not isinstance(answer, Refusal) and answer.members[0].name:
                self._names[answer.members[0].ID] = FOUNDER
                return
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.05)

    async def ask(self, method: str, name: str, urls: Sequence[str], learner: bool) -> Any:
        """The refusal, or all members with what can be compared of them."""
        fields: dict[str, Any] = {}
        if name:
            fields["ID"] = next((number for number, known in self._names.items() if known == name), 12345)
        if urls is not None and method in ("MemberAdd", "MemberUpdate"):
            fields["peerURLs"] = urls
        if learner:
            fields["isLearner"] = True
        answer: Any = await self._wire.call("Cluster", method, REQUESTS[method](**fields))
        if isinstance(answer, Refusal):
            return answer._replace(code="") if answer.message == NOT_STARTED else answer
        if method == "MemberUpdate":
            self._moved.add(name)
        for member in answer.members:
            self._names.setdefault(member.ID, member.peerURLs[0])
        return sorted(
            (
                self._names[member.ID],
                () if self._names[member.ID] == FOUNDER else tuple(member.peerURLs),
                bool(member.name),
                member.isLearner and self._names[member.ID] not in self._moved,
            )
            for member in answer.members
        )


async def test_refusals_and_lists_are_etcd_s(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        sides = [Side(pair.etcd), Side(pair.ours)]
        for side in sides:
            await side.started()

        async def same(method: str, name: str = "", *urls: str, learner: bool = False) -> Any:
            expected, answer = [await side.ask(method, name, urls, learner) for side in sides]
            assert answer == expected, f"{method} {name} {urls}"
            return expected

        for wrong in ([], ["nonsense"], ["http://127.0.0.1"], ["ftp://127.0.0.1:1"], ["http://127.0.0.1:1/path"]):
            assert (await same("MemberAdd", "", *wrong)).message == "etcdserver: given member URLs are invalid"
        assert len(await same("MemberAdd", "", FIRST, learner=True)) == 2
        for refused in (
            # The very same addresses within a second are the same id to etcd, and another refusal.
            ("MemberAdd", "", FIRST, MOVED),
            ("MemberPromote", FIRST),
            ("MemberPromote", FOUNDER),
            ("MemberPromote", UNKNOWN),
            ("MemberUpdate", UNKNOWN, MOVED),
            ("MemberRemove", UNKNOWN),
            ("MemberRemove", FOUNDER),
        ):
            assert isinstance(await same(*refused), Refusal)
        assert isinstance(await same("MemberAdd", "", SECOND, learner=True), Refusal)
        await same("MemberUpdate", FIRST, FIRST)
        await same("MemberUpdate", FIRST, MOVED, SECOND)
        await same("MemberRemove", FIRST)
        for method in ("MemberRemove", "MemberPromote"):
            assert (await same(method, FIRST)).message == "etcdserver: member not found"
        assert (await same("MemberUpdate", FIRST, MOVED)).message == "etcdserver: member not found"
        # A second member may be added to a first one alone; then everything waits for it to start.
        assert len(await same("MemberAdd", "", MOVED, SECOND)) == 2
        assert isinstance(await same("MemberAdd", "", FIRST), Refusal)
