"""Members that are replaced and removed while the load goes on, as an operator or a steward does it."""

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

from raykube.pb import etcd_pb2
from raykube.rpc import RpcError
from tests.robustness.faults import Fault, Scene

CHANGE_TIMEOUT_S = 30.0
EXIT_REMOVED = 3


async def replace_member(scene: Scene) -> None:
    """A member and its data are lost; a new one takes its place and its addresses."""
    victim = scene.rng.choice(scene.names)
    number = await _id(scene, victim)
    await scene.members.end(victim)
    await scene.progress()
    await _remove(scene, victim, number)
    await _add(scene, victim)


async def replace_leader(scene: Scene) -> None:
    """The leader is removed alive: it says so and stops; a new member takes its place, as a learner first."""
    victim = await scene.members.leader()
    number = await _id(scene, victim)
    scene.members.may_exit.add(victim)
    await _remove(scene, victim, number)
    async with asyncio.timeout(CHANGE_TIMEOUT_S):
        status = await scene.members.running[victim].wait()
    assert status == EXIT_REMOVED, f"{victim} ended with {status}:\n{scene.members.log_end(victim)}"
    await scene.members.end(victim, signal.SIGKILL)
    scene.members.may_exit.discard(victim)
    await scene.progress()
    await _add(scene, victim, is_learner=True)


def _ids(members: Iterable[Any]) -> set[int]:
    return {member.ID for member in members}


async def _id(scene: Scene, name: str) -> int:
    """A member's id, from itself."""
    async with asyncio.timeout(CHANGE_TIMEOUT_S):
        while True:
            if status := await scene.members.status(name):
                return int(status.header.member_id)
            await asyncio.sleep(0.05)


async def _remove(scene: Scene, name: str, number: int) -> None:
    request = etcd_pb2.MemberRemoveRequest(ID=number)
    await _change(scene, name, "MemberRemove", request, lambda members: number not in _ids(members))


async def _add(scene: Scene, name: str, *, is_learner: bool = False) -> None:
    """Adds a member without data under this name, starts it, and makes it a voter."""
    shutil.rmtree(scene.members.data_dir(name), ignore_errors=True)
    urls = [f"http://{scene.members.network.peer_address(name)}"]
    request = etcd_pb2.MemberAddRequest(peerURLs=urls, isLearner=is_learner)
    await _change(
        scene, name, "MemberAdd", request, lambda members: any(list(member.peerURLs) == urls for member in members)
    )
    scene.members.joining.add(name)
    await scene.members.start(name)
    if is_learner:
        number = await _id(scene, name)
        await _change(
            scene, name, "MemberPromote", etcd_pb2.MemberPromoteRequest(ID=number),
            lambda members: number in _ids(member for member in members if not member.isLearner),
        )  # fmt: skip


async def _change(scene: Scene, without: str, method: str, request: Any, is_done: Callable[[Any], bool]) -> None:
    """Asks for a change at the other members until it is done; refusals (not ready, not healthy) pass."""
    clients = [scene.members.client(name) for name in scene.names if name != without]
    deadline = time.monotonic() + CHANGE_TIMEOUT_S
    error: RpcError | None = None
    while time.monotonic() < deadline:
        scene.members.check_alive()
        client = scene.rng.choice(clients)
        try:
            listed = await client.call("Cluster", "MemberList", etcd_pb2.MemberListRequest(linearizable=True), 3.0)
            if is_done(listed.members):
                return
            await client.call("Cluster", method, request, 3.0, retry=False)
        except RpcError as refused:
            error = refused
            await asyncio.sleep(0.1)
    raise AssertionError(f"{method} was not done in {CHANGE_TIMEOUT_S} s: {error}")


MEMBERSHIP: dict[str, Fault] = {"replace-member": replace_member, "replace-leader": replace_leader}
