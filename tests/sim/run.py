"""One simulated life of a group: faults, then healing, then agreement."""

from random import Random

from tests.sim import watching
from tests.sim.clients import Clients
from tests.sim.faults import Faults
from tests.sim.lessees import END_S_MAX, Lessees
from tests.sim.operators import PAUSE_S, Operator
from tests.sim.paths import installed
from tests.sim.watching import WatchClient
from tests.sim.world import FAULTS_S, World

HEAL_S_MAX = 20.0


class Failed(AssertionError):
    """A seed that failed: which, why, and what happened last."""

    def __init__(self, seed: int, world: World, error: Exception) -> None:
        super().__init__(
            f"seed {seed}, at {world.now:.4f} s: {type(error).__name__}: {error}\n"
            f"trace {world.trace:08x} after {world.events_run} events; the last:\n{world.last_events()}\n"
            f"once more: make sim SEED={seed}"
        )
        self.trace = world.trace


def run(seed: int, is_changing: bool | None = None) -> World:
    """Runs `seed`; Failed is a bug of the store (or of the simulator).

    `is_changing`: whether somebody changes the members all the time, or never; None: the seed says.
    """
    with installed():
        world = World(seed, members=Random(seed).choice([1, 3, 3, 3, 5]))
        if is_changing is None:
            is_changing = world.rng.random() < 0.5
            pause_s = PAUSE_S
        else:
            pause_s = PAUSE_S / 3
        try:
            if is_changing:
                Operator(world, pause_s)
            _live(world)
        except Exception as error:
            raise Failed(seed, world, error) from error
    return world


def _live(world: World) -> None:
    for host in world.hosts.values():
        host.start()
    clients = Clients(world)
    lessees = Lessees(world, clients)
    watchers = watching.some(world)
    faults = Faults(world)
    world.run_until(FAULTS_S)
    faults.heal()
    _demand_progress(world, clients)
    assert world.run_until(world.now + END_S_MAX, lessees.all_ended), (
        f"leases that nobody renews do not end: {world.checks.model.leases}"
    )
    _demand_agreement(world, watchers)


def _demand_progress(world: World, clients: Clients) -> None:
    """A healed group takes writes again, and everybody catches up."""
    before = clients.acknowledged

    def poke() -> None:
        if world.up():
            clients.write(world.rng.choice(world.up()))
        if not done():
            world.at(0.5, poke)

    def done() -> bool:
        members = world.members()
        indexes = {host.replica.applied for host in members if host.replica is not None}
        is_up = all(host.replica is not None for host in members) and len(members) == len(world.checks.membership.ids)
        return is_up and clients.acknowledged >= before + 3 and len(indexes) == 1

    world.at(1.0, poke)
    assert world.run_until(world.now + HEAL_S_MAX, done), "a healed group makes no progress"


def _demand_agreement(world: World, watchers: list[WatchClient]) -> None:
    """Nothing is going on any more: everybody has everything."""

    def is_quiet() -> bool:
        last = len(world.checks.entries) - 1
        return all(host.replica is not None and host.replica.applied == last for host in world.members())

    assert world.run_until(world.now + HEAL_S_MAX, is_quiet), "members do not catch up"
    stores = []
    for host in world.members():
        assert host.replica is not None
        world.checks.check_whole(host.replica.applied, host.replica.machine.store, host.id)
        stores.append(host.replica.machine.store)
    assert len({store.hash() for store in stores}) == 1, "members at the same index have other hashes"
    assert world.run_until(world.now + HEAL_S_MAX, lambda: all(watcher.is_done() for watcher in watchers)), (
        "a watcher waits for events that happened"
    )
    world.note("end", stores[0].hash())
