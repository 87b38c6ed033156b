"""What is between the members: delays, losses, repetitions, and pairs that do not hear each other."""

from dataclasses import replace
from typing import TYPE_CHECKING

from raykube.kv.core.raft.messages import Kind, Message
from tests.sim.host import Host

if TYPE_CHECKING:
    from tests.sim.world import World


LATE_S = 2.5


class Network:
    """Messages arrive after 0.1 ms to `delay_s_max`, so they overtake each other."""

    def __init__(self, world: "World") -> None:
        rng = world.rng
        self._world = world
        self.blocked: set[tuple[int, int]] = set()  # from, to
        self.loss = rng.choice([0.0, 0.01, 0.1])
        self.duplication = rng.choice([0.0, 0.05])
        self.delay_s_max = rng.choice([0.002, 0.02, 0.15])

    def _delay_s(self) -> float:
        return 0.0001 + self._world.rng.random() * self.delay_s_max

    def send(self, host: Host, message: Message) -> None:
        world = self._world
        if message.kind is Kind.SNAPSHOT:
            self._send_snapshot(host, message)
            return
        if message.kind is Kind.VOTE_ANSWER and not message.reject:
            world.checks.on_vote(host.id, message.term, message.to)
        elif message.kind is Kind.VOTE:
            world.checks.on_vote(host.id, message.term, host.id)
        # A proposal goes at most once: the transport is a stream.
        copies = 2 if message.kind is not Kind.PROPOSE and world.rng.random() < self.duplication else 1
        world.counts["messages repeated"] += copies - 1
        for copy in range(copies):
            if self.loss and world.rng.random() < self.loss:
                world.counts["messages lost"] += 1
            else:
                # What comes a second time may come from another age.
                late_s = world.rng.choice([0.0, 0.0, LATE_S]) if copy else 0.0
                world.at(self._delay_s() + late_s, lambda: self._arrive(message))

    def _arrive(self, message: Message) -> None:
        world = self._world
        host = world.hosts.get(message.to)
        if host is None or host.replica is None or (message.sender, message.to) in self.blocked:
            return
        sender = world.hosts[message.sender]
        node = host.replica.node
        if message.sender in node.membership_at(max(node.log.base, node.log.committed)).removed:
            # It is told so, and that ends it.
            if (host.id, sender.id) not in self.blocked:
                world.at(self._delay_s(), sender.leave)
            return
        world.note("message", message.kind.name, message.sender, message.to, message.term, message.index)

        def step() -> None:
            assert host.replica is not None
            host.replica.step(message)

        host.deliver(step)

    def _send_snapshot(self, host: Host, message: Message) -> None:
        """The whole file at once; it is checked where it arrives."""
        world = self._world
        assert message.snapshot is not None
        life = host.life
        try:
            data = host.disk.snapshot_file(message.snapshot)
        except OSError:
            data = b""
        arrives = world.rng.random() >= self.loss and (host.id, message.to) not in self.blocked
        if arrives and world.rng.random() < self.duplication:
            world.at(LATE_S, lambda: self._take_snapshot(message, data))

        def arrive() -> None:
            is_taken = self._take_snapshot(message, data) if arrives else None
            if host.life == life and host.replica is not None:
                if is_taken is False:
                    host.renew_snapshot()  # it cannot be read, or is not what was written
                host.replica.node.on_snapshot_sent(message.to, bool(is_taken))

        world.at(self._delay_s() * 10, arrive)

    def _take_snapshot(self, message: Message, data: bytes) -> bool | None:
        """As the Peer service does; False: the file is damaged, None: nobody is there, or has room for it."""
        host = self._world.hosts.get(message.to)
        if host is None or host.replica is None or (message.sender, message.to) in self.blocked:
            return None
        if self._world.now < host.stalled_until:
            return None  # the sender's patience ends first
        try:
            arriving, snapshot = host.disk.receive(data)
        except ValueError:
            return False
        except OSError:
            return None
        self._arrive(replace(message, snapshot=snapshot))
        if host.replica is not None and not host.replica.node.installs(snapshot):
            arriving.drop()
        return True

    def on_down(self, host: Host) -> None:
        """A process ended: its connections close, and that is seen at once, where the network works."""
        world = self._world
        for other in list(world.hosts.values()):
            if other.replica is not None and (host.id, other.id) not in self.blocked and world.rng.random() < 0.7:
                world.at(self._delay_s(), lambda other=other, life=other.life: self._lost(other, life, host.id))

    @staticmethod
    def _lost(host: Host, life: int, peer: int) -> None:
        def tell() -> None:
            assert host.replica is not None
            host.replica.node.on_peer_lost(peer)

        if host.life == life:
            host.deliver(tell)
