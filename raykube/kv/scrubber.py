"""Looks after what this member holds in memory: reads it through all the time, a little at a time (`mvcc/scrub.py`)."""

import asyncio
import logging
import time

from raykube.kv.core.mvcc.scrub import Rotten, Scrub
from raykube.kv.member import Member

log = logging.getLogger(__name__)

SLICE_VERSIONS = 200
SLICE_S = 0.001  # of work, and then a pause: a hundredth of a core
PAUSE_S = 0.1
REST_S = 60.0  # between two passes
# In a dispute each member must know soon whether it is the one that is wrong.
URGENT_SLICE_S = 0.02
URGENT_PAUSE_S = 0.02


class Scrubber:
    """Stops the member when its memory is not what was written to it."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._scrub: Scrub | None = None
        self._disputed = 0
        self._is_urgent = False
        self._began_at = self._sound = member.replica.applied - 1  # no pass has seen what this member started with
        self._timer: asyncio.TimerHandle | None = None
        member.on_applied.append(self._on_applied)

    def start(self) -> None:
        """Begins the first pass: it tells whether a snapshot was restored as it had been taken."""
        self._later(PAUSE_S)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._run)

    def _on_applied(self) -> None:
        disputed = self._member.replica.machine.vouching.disputed
        if disputed == self._disputed:
            return
        self._disputed = disputed
        if not disputed:
            log.warning("a quorum agrees on its state again")
            return
        log.critical("no quorum agrees on the state at entry %d: requests are refused", disputed)
        if self._timer is not None:
            self._timer.cancel()
            self._scrub, self._is_urgent = None, True
            self._later(0)

    def _run(self) -> None:
        member = self._member
        if member.failed.done():
            return
        if self._scrub is None or self._scrub.store is not member.store:
            self._scrub = Scrub(member.store)
            self._began_at = member.replica.applied
        until = time.monotonic() + (URGENT_SLICE_S if self._is_urgent else SLICE_S)
        is_done = False
        try:
            while not is_done and time.monotonic() < until:
                is_done = self._scrub.step(SLICE_VERSIONS)
        except Exception as error:
            if isinstance(error, Rotten):
                error.sound = self._sound
            member.fail(error)
            return
        if is_done:
            self._scrub, self._is_urgent, self._sound = None, False, self._began_at
            self._later(REST_S)
        else:
            self._later(URGENT_PAUSE_S if self._is_urgent else PAUSE_S)
