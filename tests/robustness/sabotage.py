"""`raykube kv` with a mistake in it, for the proof that a run notices: `python -m tests.robustness.sabotage NAME kv …`.

Each mistake is a function put in the place of a shipped one, in the member's own process; there is no switch for them
in what is shipped.
"""

import os
import sys
from typing import Any

from raykube.cli.main import main
from raykube.kv.core import watchers
from raykube.kv.core.lease_clock import LeaseClock
from raykube.kv.member import Member
from raykube.kv.wal import Wal

HELD_BACK_MAX = 40


def stale_reads() -> None:
    """Linearizable reads answer from what is there, without asking anybody."""

    def submit_read(member: Member, waiter: Any, finish: Any) -> None:
        reader = next(member._ids)
        member._waiters.add_reader(reader, waiter, finish)
        member._waiters.release(reader)

    Member._submit_read = submit_read  # type: ignore[method-assign, assignment]


def late_writes() -> None:
    """The log reports writes as done that are still in the process's memory."""
    append = Wal.append
    held: list[Any] = []

    def held_back(wal: Wal, write: Any) -> None:
        held.append(write)
        if len(held) >= HELD_BACK_MAX:
            for each in held:
                append(wal, each)
            held.clear()

    Wal.append = held_back  # type: ignore[method-assign, assignment]


def no_sync() -> None:
    """What is written stays in the kernel's memory."""

    def nothing(fd: Any) -> None:
        pass

    os.fsync = os.fdatasync = nothing


def lost_events() -> None:
    """Every hundredth answer of a watch loses its first event."""
    pull = watchers.pull
    calls = 0

    def forgetful(*arguments: Any) -> Any:
        nonlocal calls
        found = pull(*arguments)
        calls += bool(found.events)
        if found.events and calls % 100 == 0:
            del found.events[0]
        return found

    for module in list(sys.modules.values()):
        if module.__name__.startswith("raykube.kv") and getattr(module, "pull", None) is pull:
            vars(module)["pull"] = forgetful


def short_leases() -> None:
    """Leases last a third of what was promised."""
    start = LeaseClock.start

    def hurried(clock: LeaseClock, lease: int, ttl_s: float, now: float) -> None:
        start(clock, lease, ttl_s / 3, now)

    LeaseClock.start = hurried  # type: ignore[method-assign, assignment]


MISTAKES = {
    "stale-reads": stale_reads,
    "late-writes": late_writes,
    "no-sync": no_sync,
    "lost-events": lost_events,
    "short-leases": short_leases,
}

if __name__ == "__main__":
    MISTAKES[sys.argv.pop(1)]()
    sys.argv[0] = "raykube"
    main()
