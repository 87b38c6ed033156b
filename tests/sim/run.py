"""One simulated life of a group: faults, then healing, then agreement."""

from random import Random

from tests.sim.clients import Clients
from tests.sim.faults import Faults
from tests.sim.world import FAULTS_S, HEAL_S_MAX, World


def run(seed: int) -> World:
    """Runs `seed`; an AssertionError is a bug of the store (or of the simulator)."""
    world = World(seed, members=Random(seed).choice([1, 3, 3, 3, 5]))
    for host in world.hosts.values():
        world.start(host)
    clients = Clients(world)
    faults = Faults(world)
    world.run_until(FAULTS_S)
    faults.heal()
    _demand_progress(world, clients)
    _demand_agreement(world, clients)
    return world


def _demand_progress(world: World, clients: Clients) -> None:
    """A healed group takes writes again, and everybody catches up."""
    end = world.now + HEAL_S_MAX
    before = len(clients.acknowledged)

    def poke() -> None:
        clients.write(world.rng.choice(world.up()))
        if not done():
            world.at(0.5, poke)

    def done() -> bool:
        indexes = {host.replica.applied for host in world.hosts.values() if host.replica is not None}
        return len(clients.acknowledged) >= before + 3 and len(indexes) == 1

    world.at(1.0, poke)
    assert world.run_until(end, done), "a healed group makes no progress"


def _demand_agreement(world: World, clients: Clients) -> None:
    stores = [host.replica.machine.store for host in world.hosts.values() if host.replica is not None]
    assert len({store.hash() for store in stores}) == 1, "members at the same index differ"
    history = {(version.mod, version.key): version.value for version in world.checks.history}
    for revision, key, value in clients.acknowledged:
        assert history.get((revision, key)) == value, f"an acknowledged write is lost: {key!r} at {revision}"
    values = [version.value for version in world.checks.history if version.value is not None]
    assert len(values) == len(set(values)), "a write happened twice"
    clients.check_watched()
