"""What goes wrong, and when: processes, machines, networks, disks, clocks, leadership. `heal` ends it all."""

from collections.abc import Iterator

from tests.sim.host import Host
from tests.sim.world import World

INTERVAL_S = 1.2
KINDS = [
    "kill", "power", "crash all", "crash in start", "partition", "partition", "partition", "flapping", "mend", "loss",
    "lost peer", "transfer", "stall", "clock", "slow disk", "full disk", "no descriptors", "sync error", "bit flip",
    "lost machine",
]  # fmt: skip
CONDITIONAL = {"kill", "power", "crash all", "crash in start", "bit flip", "lost machine"}  # counted where they happen


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
        host = world.hosts[rng.choice(list(world.hosts))]
        kind = rng.choice(KINDS)
        world.note("fault", kind, host.id)
        if kind not in CONDITIONAL:
            world.counts[f"fault: {kind}"] += 1
        match kind:
            case "kill":
                self._crash(host, has_lost_power=False)
            case "power":
                self._crash(host, has_lost_power=True)
            case "crash all":
                if rng.random() < 0.3:
                    world.counts["fault: crash all"] += 1
                    has_lost_power = rng.random() < 0.7
                    for other in world.hosts.values():
                        self._crash(other, has_lost_power)
            case "crash in start":
                if host.replica is None and not host.is_lost and not host.is_gone:
                    world.counts["fault: crash in start"] += 1
                    host.crash_in_start()
            case "lost machine":
                self._lose(host)
            case "partition":
                world.network.blocked = set(self._partition())
                world.note("partition", sorted(world.network.blocked))
            case "flapping":
                self._flap(set(self._partition()), 8)
            case "mend":
                world.network.blocked = set()
            case "stall":
                # The leader is whom it hurts most.
                leaders = world.leaders()
                (rng.choice(leaders) if leaders and rng.random() < 0.6 else host).stall(rng.choice([0.5, 2.0, 4.0]))
            case "clock":
                # Monotonic clocks never go back; they may run wrong, and jump ahead when the machine was asleep.
                host.set_clock(rng.choice([0.0, 1.0, 3600.0]), rng.choice([0.92, 1.0, 1.08]))
            case "slow disk":
                world.sync_s_max = rng.choice([0.001, 0.02, 0.2, 1.5])
            case "full disk":
                host.disk.fill(rng.choice([0, 100, 1000]))
                world.at(rng.random() * 3, host.disk.empty)
            case "no descriptors":
                host.disk.fs.has_descriptors = False
                world.at(rng.random() * 3, host.disk.give_descriptors)
            case "sync error":
                host.disk.fs.sync_errors = 1
            case "bit flip":
                self._flip(host)
            case "transfer":
                for leader in world.leaders():
                    self._transfer(leader, host.id)
            case "lost peer":
                world.network.on_down(host)
            case _:
                world.network.loss = rng.choice([0.0, 0.05, 0.3])

    def _crash(self, host: Host, has_lost_power: bool) -> None:
        if host.replica is not None:
            self._world.counts["fault: power" if has_lost_power else "fault: kill"] += 1
            host.crash(has_lost_power)
            self._world.restart(host)

    def _lose(self, host: Host) -> None:
        """Only where somebody replaces it, and where every membership in anybody's log keeps a quorum without it."""
        world = self._world
        seen = [other.replica.node.membership for other in world.up() if other.replica is not None]
        lost = {other.id for other in world.hosts.values() if other.is_lost} | {host.id}
        if any(not other.is_whole for other in world.members()):
            return
        is_all_seen = len(world.up()) == len([other for other in world.hosts.values() if not other.is_gone])
        if (
            world.has_operator
            and is_all_seen
            and all(
                len(membership.voters - lost) >= membership.quorum for membership in [world.checks.membership, *seen]
            )
        ):
            world.counts["fault: lost machine"] += 1
            host.lose()

    def _flip(self, host: Host) -> None:
        """Never in two members at once, nor in one of two: then what was on both disks may be nowhere else.

        Two are also those of a change on its way: whoever has it in its log needs both for a quorum. And the only one
        that is left of several may have lost the very entry that says so: it would wait for those who have gone.
        """
        world = self._world
        voters = len(world.checks.membership.voters)
        on_the_way = [len(other.membership.voters) for other in world.hosts.values() if not other.is_gone]
        are_others_gone = voters == 1 and any(len(past.voters) > 1 for past in world.checks.memberships.values())
        if (
            are_others_gone
            or 2 in (voters, *on_the_way)
            or not all(other.is_whole and not other.is_lost for other in world.members() if other is not host)
        ):
            return
        world.counts["fault: bit flip"] += 1
        host.flip()
        if voters == 1:
            # It would not start without what it lost: a person puts it back.
            world.at(world.rng.random() * 3, host.disk.repair)

    def _transfer(self, leader: Host, member: int) -> None:
        """The leader hands over, as it does before it stops."""

        def transfer() -> None:
            assert leader.replica is not None
            leader.replica.node.transfer(member)

        leader.deliver(transfer)

    def _flap(self, blocked: set[tuple[int, int]], times: int) -> None:
        world = self._world
        if world.is_healing or not times:
            return
        world.network.blocked = set() if world.network.blocked else blocked
        world.at(0.05 + world.rng.random() * 0.6, lambda: self._flap(blocked, times - 1))

    def _partition(self) -> Iterator[tuple[int, int]]:
        """Blocked pairs (from, to): halves, one alone, one deaf, one mute, a ring, two without each other."""
        rng = self._world.rng
        ids = list(self._world.hosts)
        rng.shuffle(ids)
        leaders = [host.id for host in self._world.leaders()]
        # The leader is where a partition hurts most.
        one = rng.choice(leaders) if leaders and rng.random() < 0.7 else ids[0]
        shape = rng.choice(["halves", "alone", "deaf", "mute", "ring", "pair"])
        other = rng.choice(ids)
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
                elif shape == "pair":
                    is_blocked = {sender, receiver} == {one, other}
                else:
                    gap = abs(ids.index(sender) - ids.index(receiver))
                    is_blocked = gap not in (1, len(ids) - 1) or {sender, receiver} == {ids[0], ids[1]}
                if is_blocked:
                    yield sender, receiver

    def heal(self) -> None:
        world = self._world
        world.note("heal")
        world.is_healing = True
        world.network.blocked = set()
        world.network.loss = 0.0
        world.sync_s_max = min(world.sync_s_max, 0.2)
        for host in world.hosts.values():
            host.disk.empty()
            host.disk.give_descriptors()
            host.disk.fs.sync_errors = 0
            host.wake()
            if host.replica is None:
                host.start()
            if host.replica is None and host.disk.damage:
                # The only voter does not start without what it lost: a person puts it back.
                host.disk.repair()
                host.start()
