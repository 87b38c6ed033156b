"""The simulated world: members that run the shipped replica and log, a network, disks and clocks that fail.

One seed draws everything. First faults for `FAULTS_S`, with the invariants of `checks` at every step; then all is
healed, and the group must make progress and agree (run.py).
"""

import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from raykube.kv.core.raft.membership import Member, Membership
from tests.sim.checks import Checks
from tests.sim.host import Host
from tests.sim.network import Network
from tests.sim.timeline import Timeline

FAULTS_S = 15.0
REQUEST_TIMEOUT_S = 5.0
RESTART_S_MAX = 2.0


class World(Timeline):
    """Everything there is, from one seed."""

    def __init__(self, seed: int, members: int = 3) -> None:
        super().__init__()
        self.rng = Random(seed)
        self.checks = Checks()
        self.network = Network(self)
        self.sync_s_max = self.rng.choice([0.001, 0.02, 0.2])
        self.compactor = self.rng.choice([(0.0, 0), (0.0, 40), (3.0, 0)])
        self.tells_late = self.rng.random() < 0.5  # members wait with what is not due, or do it at once to be checked
        self.is_healing = False
        self.has_operator = False
        self._ids = itertools.count(1)
        self.founders = Membership(
            tuple(Member(member, f"m{member}", (f"http://m{member}:2380",)) for member in range(1, members + 1))
        )
        self.checks.membership = self.founders
        self.hosts = {member: Host(self, member, self.founders) for member in self.founders.ids}

    def new_id(self) -> int:
        return next(self._ids)

    # ---- members

    def restart(self, host: Host) -> None:
        """Somebody starts the member again, after a while."""

        def again() -> None:
            if host.replica is None:
                host.start()

        self.at(self.rng.random() * RESTART_S_MAX, again)

    def leaders(self) -> list[Host]:
        """Those who think that they lead."""
        return [host for host in self.up() if host.replica is not None and host.replica.node.is_leader]

    def up(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.replica is not None]

    def members(self) -> list[Host]:
        """The hosts of the committed membership."""
        return [self.hosts[member] for member in self.checks.membership.ids if member in self.hosts]

    def add_host(self, member: int) -> None:
        """A machine for a new member; it starts blank, after a while."""
        host = self.hosts[member] = Host(self, member, None)
        self.restart(host)

    # ---- requests

    def propose(self, host: Host, command: Any, body: bytes, answered: Callable[[Any], None]) -> None:
        """A client's request at one member. `answered` is called at most once; silence is an unknown outcome."""
        assert host.replica is not None
        request = self.new_id()
        checks = self.checks
        checks.on_asked(request)
        life = host.life

        def told(answer: Any) -> None:
            self.counts["answers"] += 1
            checks.on_answered(request, answer, self)
            answered(answer)

        def give_up() -> None:
            if host.life == life and host.replica is not None and host.answers.pop(request, None) is not None:
                self.counts["unknown outcomes"] += 1
                if host.replica.forget(request):
                    self.counts["surely never"] += 1
                    checks.on_never(request)

        def ask() -> None:
            assert host.replica is not None
            host.answers[request] = told
            host.replica.propose(request, command, body)

        self.at(REQUEST_TIMEOUT_S, give_up)
        host.deliver(ask, is_client=True)

    def read(self, host: Host, ready: Callable[[], None]) -> None:
        """A linearizable read at one member; `ready` is called when it may happen, if ever."""
        assert host.replica is not None
        reader = self.new_id()
        floor = self.checks.floor

        def may() -> None:
            assert host.replica is not None
            self.counts["reads"] += 1
            self.checks.on_read(floor, host.replica)
            ready()

        def ask() -> None:
            assert host.replica is not None
            host.readers[reader] = may
            host.replica.read(reader)

        host.deliver(ask, is_client=True)
