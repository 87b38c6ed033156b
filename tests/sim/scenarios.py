"""Lives with one disturbance, after which little may have happened: that a group is calm is a promise as well.

Each takes a seed and raises AssertionError. `elections` counts the terms that began after the first leader was found.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.sim.clients import Clients
from tests.sim.host import Host
from tests.sim.lessees import Lessees
from tests.sim.paths import installed
from tests.sim.world import World

CALM_S = 10.0
SETTLE_S = 4.0


@contextmanager
def _calm(seed: int, members: int) -> Iterator[tuple[World, Clients, Host]]:
    """A group with a leader, on good networks and disks, and clients at work."""
    with installed():
        world = World(seed, members)
        network = world.network
        network.loss, network.duplication, network.delay_s_max, world.sync_s_max = 0.0, 0.0, 0.002, 0.001
        for host in world.hosts.values():
            host.start()
        clients = Clients(world)
        assert world.run_until(SETTLE_S, lambda: bool(world.leaders())), "nobody was elected"
        world.run_until(world.now + 1.0)
        (leader,) = world.leaders()
        yield world, clients, leader


def _other(world: World, leader: Host) -> Host:
    return world.rng.choice([host for host in world.hosts.values() if host is not leader])


def _demand_calm(world: World, elections: int, leader: Host) -> None:
    assert world.counts["elections"] == elections, f"{world.counts['elections'] - elections} elections for nothing"
    assert world.leaders() == [leader], "another leader"


def rejoin(seed: int) -> None:
    """A member that was cut off comes back: it bumps no term, and deposes nobody."""
    with _calm(seed, 3) as (world, _, leader):
        before = world.counts["elections"]
        one = _other(world, leader)
        world.network.blocked = {(a, b) for a in world.hosts for b in world.hosts if one.id in (a, b)}
        world.run_until(world.now + CALM_S)
        world.network.blocked = set()
        world.run_until(world.now + CALM_S)
        _demand_calm(world, before, leader)


def broken_link(seed: int) -> None:
    """The leader and one follower do not hear each other, and the others hear both: they stick to the leader."""
    with _calm(seed, 3) as (world, _, leader):
        world.is_healing = True  # nobody writes: the follower's log is as good as the others'
        world.run_until(world.now + 1.0)
        before = world.counts["elections"]
        one = _other(world, leader)
        world.network.blocked = {(leader.id, one.id), (one.id, leader.id)}
        world.run_until(world.now + CALM_S)
        _demand_calm(world, before, leader)


def deaf_leader(seed: int) -> None:
    """The leader is heard and hears nobody: it goes, and the others take writes."""
    with _calm(seed, 3) as (world, clients, leader):
        world.network.blocked = {(host.id, leader.id) for host in world.hosts.values() if host is not leader}
        world.run_until(world.now + 6.0)
        before = clients.acknowledged
        assert world.run_until(world.now + CALM_S, lambda: clients.acknowledged > before + 5), "no writes: a livelock"


def lonely_leader(seed: int) -> None:
    """A leader without a quorum goes, and what it takes meanwhile is bounded."""
    with _calm(seed, 3) as (world, clients, leader):
        world.network.blocked = {(a, b) for a in world.hosts for b in world.hosts if leader.id in (a, b)}
        assert leader.replica is not None
        log = leader.replica.node.log
        limit = leader.replica.node.limits.uncommitted_bytes_max

        def held() -> int:
            return sum(len(entry.data) for entry in log.entries[max(0, log.committed - log.base) :])

        for _ in range(2000):
            clients.write(leader)
            assert held() <= limit + 2000, f"a leader without a quorum holds {held()} bytes that are not committed"
        assert world.run_until(world.now + 4.0, lambda: leader not in world.leaders()), "it leads on without a quorum"


def pause_of_all(seed: int) -> None:
    """All machines stand still for seconds: nobody takes that for a dead leader."""
    with _calm(seed, 3) as (world, _, leader):
        for _ in range(5):
            before = world.counts["elections"]
            for host in world.hosts.values():
                host.stall(5.0)
            world.run_until(world.now + 7.0)
            _demand_calm(world, before, leader)


def hand_over(seed: int) -> None:
    """Leadership moves within an election time-out, while clients write as fast as they can."""
    with _calm(seed, 3) as (world, clients, leader):
        one = _other(world, leader)
        is_over = [False]

        def write() -> None:
            if not is_over[0]:
                world.at(0.0005, write)
                if leader.replica is not None:
                    clients.write(leader)

        write()
        world.run_until(world.now + 0.2)
        assert leader.replica is not None
        leader.replica.node.transfer(one.id)
        leader.pump()
        moved = world.run_until(world.now + 0.9, lambda: one in world.leaders())
        is_over[0] = True
        assert moved, "under load, leadership does not move"


def sleepy_leaders(seed: int) -> None:
    """A leader sleeps while another is elected, and wakes up with its clients' renewals: they are told no lies."""
    with _calm(seed, 3) as (world, clients, _):
        Lessees(world, clients)
        for _ in range(4):
            world.run_until(world.now + 3.0)
            for leader in world.leaders():
                leader.stall(3.0)
            world.run_until(world.now + 4.0)


def rotting_logs(seed: int) -> None:
    """Members find their logs damaged, one after the other: each gets its data back, and keeps its promises."""
    _rot(seed, "wal/", 1.0)


def rotting_snapshots(seed: int) -> None:
    """Members find their snapshots damaged, one after the other: what they say is never served."""
    _rot(seed, "snap/", 8.0)


def _rot(seed: int, where: str, pause_s: float) -> None:
    with _calm(seed, 3) as (world, _, _):
        for _ in range(6):
            world.run_until(world.now + pause_s)
            host = world.rng.choice(list(world.hosts.values()))
            host.crash(has_lost_power=False)
            host.flip(where)
            host.start()
            assert host.replica is not None
            assert world.run_until(world.now + 8.0, lambda host=host: host.is_whole), "it does not get its data back"


SCENARIOS: list[Callable[[int], None]] = [
    rejoin, broken_link, deaf_leader, lonely_leader, pause_of_all, hand_over, sleepy_leaders, rotting_logs,
    rotting_snapshots,
]  # fmt: skip
