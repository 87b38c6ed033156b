"""One replica alone in its group, on a disk that never fails and a clock that the test moves."""

import itertools
from typing import Any

from raykube.kv.core import recovery
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, HardState
from raykube.kv.core.raft.node import Limits
from raykube.kv.core.replica import Replica

MEMBERSHIP = Membership.of(1)


class LoneReplica:
    """`entries` and `hard_state` are what its disk holds; `restart` makes a new replica of them."""

    def __init__(self) -> None:
        first = recovery.founding_write(MEMBERSHIP)
        self.entries: list[Entry] = list(first.entries)
        self.hard_state = first.hard_state or HardState()
        self._ids = itertools.count(1)
        self.answers: dict[int, Any] = {}
        self.replica = self.restart()

    def restart(self) -> Replica:
        """The replica that a process which starts now would have: it leads, and its clock has not ticked."""
        found = recovery.Recovered(self.hard_state, list(self.entries), None)
        self.replica = found.build(1, Limits(), lambda below: 0, lambda: next(self._ids))
        self.replica.node.campaign()
        self.settle()
        return self.replica

    def settle(self) -> None:
        """Does what the replica wants until it wants nothing more."""
        while True:
            output = self.replica.ready()
            self.replica.let_go(output.hold)
            applied = self.replica.apply()
            self.answers.update(applied.answers)
            if output.write is None:
                if not applied.may_have_more:
                    return
                continue
            if output.write.hard_state is not None:
                self.hard_state = output.write.hard_state
            self.entries += output.write.entries
            self.replica.persisted(output.write)

    def tick(self, now: float) -> None:
        """A tick at `now` seconds, and what follows from it."""
        self.replica.tick(now)
        self.settle()

    def propose(self, command: Command, message: Any) -> Any:
        """The state machine's answer to a command."""
        request = next(self._ids)
        self.replica.propose(request, command, message.SerializeToString())
        self.settle()
        return self.answers.pop(request)
