"""What is done to the members in a round. A fault is a coroutine: it harms, lets time pass, and heals what it harmed.

When it takes the leader away (`Scene.lost_leader`), the time from then to the next acknowledged write is measured.
"""

import asyncio
import itertools
import random
import signal
from collections.abc import Awaitable, Callable, Iterable

from tests.robustness.history import History
from tests.robustness.members import Members
from tests.robustness.network import CLIENT

HARM_S = (0.3, 1.2)  # most faults last about as long as an election takes
LONG_HARM_S = (1.5, 3.0)  # longer than any election: the others must have gone on


class Scene:
    """What a fault has to work with."""

    def __init__(self, members: Members, history: History, rng: random.Random) -> None:
        self.members = members
        self.history = history
        self.rng = rng
        self.leader_lost_at: list[float] = []

    @property
    def names(self) -> list[str]:
        return self.members.names

    def lost_leader(self) -> None:
        """A leader is gone from now on; a quorum can have another."""
        self.leader_lost_at.append(self.history.now())

    async def pass_time(self, seconds: tuple[float, float] = HARM_S) -> None:
        await asyncio.sleep(self.rng.uniform(*seconds))

    async def progress(self, writes: int = 5, timeout_s: float = 60.0) -> None:
        """Returns when more writes, asked for from now on, are acknowledged."""
        since = self.history.now()
        while (count := sum(started >= since for started, _ in self.history.acknowledged_at[-4 * writes :])) < writes:
            self.members.check_alive()
            if self.history.now() > since + timeout_s:
                statuses = {name: await self.members.status(name, 5.0) for name in self.names}
                raise AssertionError(f"{count} of {writes} writes were acknowledged in {timeout_s} s: {statuses}")
            await asyncio.sleep(0.01)


Fault = Callable[[Scene], Awaitable[None]]


async def kill_leader(scene: Scene) -> None:
    """kill -9; back when the others have gone on."""
    leader = await scene.members.leader()
    scene.lost_leader()
    await scene.members.end(leader)
    await scene.progress()
    await scene.members.start(leader)


async def kill_any(scene: Scene) -> None:
    """One member, or as many as leave a quorum, each back at once."""
    victims = scene.rng.sample(scene.names, scene.rng.randint(1, len(scene.names) - scene.members.quorum))
    for victim in victims:
        await scene.members.end(victim)
    await scene.pass_time()
    for victim in victims:
        await scene.members.start(victim)


async def kill_all(scene: Scene) -> None:
    """Every member at the same moment: what was acknowledged is on disk, or gone."""
    for name in scene.names:
        scene.members.signal(name, signal.SIGKILL)
    for name in scene.names:
        await scene.members.end(name)
    for name in scene.rng.sample(scene.names, len(scene.names)):
        await scene.members.start(name)


async def kill_twice(scene: Scene) -> None:
    """The leader, and the next one while the first comes back."""
    first = await scene.members.leader()
    await scene.members.end(first)
    if len(scene.names) > 3:
        second = await scene.members.leader()
        await scene.members.end(second)
        await scene.members.start(first)
        await scene.members.start(second)
        return
    await scene.members.start(first)
    second = await scene.members.leader()
    await scene.members.end(second)
    await scene.members.start(second)


async def terminate_leader(scene: Scene) -> None:
    """SIGTERM: it hands over first."""
    leader = await scene.members.leader()
    scene.lost_leader()
    status = await scene.members.end(leader, signal.SIGTERM)
    assert status == 0, f"{leader} ended with {status}:\n{scene.members.log_end(leader)}"
    await scene.progress()
    await scene.members.start(leader)


async def pause_leader(scene: Scene) -> None:
    """SIGSTOP for longer than an election: it wakes up believing that it leads."""
    leader = await scene.members.leader()
    scene.lost_leader()
    scene.members.pause(leader)
    try:
        await scene.pass_time(LONG_HARM_S)
        await scene.progress()
    finally:
        scene.members.resume(leader)


async def pause_any(scene: Scene) -> None:
    """One or more members stand still for a moment, also all of them."""
    victims = scene.rng.sample(scene.names, scene.rng.randint(1, len(scene.names)))
    for victim in victims:
        scene.members.pause(victim)
    try:
        await scene.pass_time()
    finally:
        for victim in victims:
            scene.members.resume(victim)


async def isolate_leader(scene: Scene) -> None:
    """The leader hears no other member, but clients reach it: whatever it says now must be true all the same."""
    leader = await scene.members.leader()
    scene.lost_leader()
    await _cut(scene, _both_ways((leader, other) for other in scene.names if other != leader), LONG_HARM_S)


async def unplug_any(scene: Scene) -> None:
    """A member that nobody reaches, clients neither."""
    victim = scene.rng.choice(scene.names)
    others = [CLIENT, *(name for name in scene.names if name != victim)]
    await _cut(scene, _both_ways((victim, other) for other in others), LONG_HARM_S)


async def halves(scene: Scene) -> None:
    """A majority and a minority that do not hear each other."""
    shuffled = scene.rng.sample(scene.names, len(scene.names))
    majority, minority = shuffled[: scene.members.quorum], shuffled[scene.members.quorum :]
    await _cut(scene, _both_ways(itertools.product(majority, minority)), LONG_HARM_S)


async def one_way(scene: Scene) -> None:
    """What the leader sends arrives, what is sent to it does not; or the other way round."""
    leader = await scene.members.leader()
    pairs = [(other, leader) for other in scene.names if other != leader]
    if scene.rng.random() < 0.5:
        pairs = [(leader, other) for other, _ in pairs]
    scene.lost_leader()
    await _cut(scene, pairs, LONG_HARM_S)


async def ring(scene: Scene) -> None:
    """Each member hears its neighbours only; with three of them, one link is cut."""
    names = scene.rng.sample(scene.names, len(scene.names))
    neighbours = [frozenset(pair) for pair in zip(names, names[1:] + names[:1], strict=True)]
    if len(names) == 3:
        neighbours.pop()
    pairs = (pair for pair in itertools.combinations(names, 2) if frozenset(pair) not in neighbours)
    await _cut(scene, _both_ways(pairs), LONG_HARM_S)


async def flapping(scene: Scene) -> None:
    """Links come and go faster than anybody can elect."""
    for _ in range(6):
        pairs = [pair for pair in itertools.permutations(scene.names, 2) if scene.rng.random() < 0.4]
        scene.members.network.set_rules(blocked=pairs)
        await scene.pass_time((0.05, 0.4))
    scene.members.network.set_rules()
    await scene.progress()


async def bad_network(scene: Scene) -> None:
    """Packets are lost, late, doubled, and overtake each other; writes go on meanwhile."""
    scene.members.network.set_rules(
        loss=scene.rng.choice([0.01, 0.05]), duplicate=0.02, delay_s=(0.0, scene.rng.choice([0.005, 0.03]))
    )
    try:
        await scene.pass_time(LONG_HARM_S)
        await scene.progress()
    finally:
        scene.members.network.set_rules()


async def storm(scene: Scene) -> None:
    """Several things at once: bad links, one member killed, another standing still, and back in any order."""
    members = scene.members
    killed, paused = scene.rng.sample(scene.names, 2)
    members.network.set_rules(
        blocked=[pair for pair in itertools.permutations(scene.names, 2) if scene.rng.random() < 0.2],
        loss=0.02, delay_s=(0.0, 0.01),
    )  # fmt: skip
    await scene.pass_time((0.1, 0.6))
    members.pause(paused)
    await members.end(killed)
    await scene.pass_time()

    async def start() -> None:
        await members.start(killed)

    async def resume() -> None:
        members.resume(paused)

    async def reconnect() -> None:
        members.network.set_rules()

    for heal in scene.rng.sample([start, resume, reconnect], 3):
        await heal()
        await scene.pass_time((0.0, 1.0))


async def _cut(scene: Scene, pairs: Iterable[tuple[str, str]], seconds: tuple[float, float]) -> None:
    """Blocks these one-way links; a quorum of the others goes on without; then all is whole again."""
    scene.members.network.set_rules(blocked=list(pairs))
    try:
        await scene.pass_time(seconds)
        await scene.progress()
    finally:
        scene.members.network.set_rules()


def _both_ways(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return itertools.chain.from_iterable(((one, other), (other, one)) for one, other in pairs)


KILLS: dict[str, Fault] = {
    "kill-leader": kill_leader, "kill-any": kill_any, "kill-all": kill_all, "kill-twice": kill_twice,
    "terminate-leader": terminate_leader,
}  # fmt: skip
PAUSES: dict[str, Fault] = {"pause-leader": pause_leader, "pause-any": pause_any}
PARTITIONS: dict[str, Fault] = {
    "isolate-leader": isolate_leader, "unplug-any": unplug_any, "halves": halves, "one-way": one_way, "ring": ring,
    "flapping": flapping, "bad-network": bad_network, "storm": storm,
}  # fmt: skip
