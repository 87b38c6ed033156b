"""What goes wrong, and when: crashes, partitions, stalls, clocks, slow disks, handed leadership. `heal` ends it all."""

from collections.abc import Iterator

from tests.sim.world import World

INTERVAL_S = 1.2
KINDS = [
    "crash", "crash", "crash all", "partition", "partition", "partition", "mend", "stall", "clock", "loss", "disk",
    "transfer",
]  # fmt: skip


class Faults:
    """Breaks a world at random moments until `heal`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._schedule()

    def _schedule(self) -> None:
        self._world.at(self._world.rng.random() * INTERVAL_S, self._strike)

    def _strike(self) -> None:
        world = self._world
        if world.is_healing:
            return
        self._schedule()
        rng = world.rng
        host = world.hosts[rng.choice(world.membership.ids)]
        match rng.choice(KINDS):
            case "crash":
                world.crash(host)
                self._restart(host.id)
            case "crash all":
                if rng.random() < 0.3:
                    for other in world.hosts.values():
                        world.crash(other)
                        self._restart(other.id)
            case "partition":
                world.blocked = set(self._partition())
                world.note("partition", sorted(world.blocked))
            case "mend":
                world.blocked = set()
            case "stall":
                world.stall(host, rng.random() * 3)
            case "clock":
                host.clock_offset_s += rng.choice([-3600.0, -1.0, 1.0, 3600.0])
                host.clock_rate = rng.choice([0.9, 1.0, 1.1])
            case "disk":
                world.sync_s_max = rng.choice([0.001, 0.02, 0.2, 1.5])
            case "transfer":
                for leader in world.leaders():
                    world.transfer(leader, host.id)
            case _:
                world.loss = rng.choice([0.0, 0.05, 0.3])

    def _restart(self, member: int) -> None:
        world = self._world
        host = world.hosts[member]

        def again() -> None:
            if host.replica is None:
                world.start(host)

        world.at(world.rng.random() * 2, again)

    def _partition(self) -> Iterator[tuple[int, int]]:
        """Blocked pairs (from, to): halves, one alone, one deaf, one mute, a ring, a bridge."""
        rng = self._world.rng
        ids = list(self._world.membership.ids)
        rng.shuffle(ids)
        leaders = [host.id for host in self._world.leaders()]
        # The leader is where a partition hurts most.
        one = rng.choice(leaders) if leaders and rng.random() < 0.7 else ids[0]
        shape = rng.choice(["halves", "alone", "deaf", "mute", "ring"])
        for sender in ids:
            for receiver in ids:
                if sender == receiver:
                    continue
                if shape == "halves":
                    half = set(ids[: len(ids) // 2 + 1])
                    is_blocked = (sender in half) != (receiver in half)
                elif shape == "alone":
                    is_blocked = one in (sender, receiver)
                elif shape == "deaf":
                    is_blocked = receiver == one
                elif shape == "mute":
                    is_blocked = sender == one
                else:
                    gap = abs(ids.index(sender) - ids.index(receiver))
                    is_blocked = gap not in (1, len(ids) - 1) or {sender, receiver} == {ids[0], ids[1]}
                if is_blocked:
                    yield sender, receiver

    def heal(self) -> None:
        world = self._world
        world.note("heal")
        world.is_healing = True
        world.blocked = set()
        world.loss = 0.0
        world.sync_s_max = min(world.sync_s_max, 0.2)
        for host in world.hosts.values():
            host.stalled_until = min(host.stalled_until, world.now)
            if host.waiting:
                world.stall(host, 0.0)
            if host.replica is None:
                world.start(host)
