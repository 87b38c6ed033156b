"""Ends pods in order before the machine goes down: told by systemd's login manager, or by the end of our own service.

Where there is a login manager, its shutdown waits for us. Without one (or where it refuses), a kubelet that is ended
while systemd stops the machine does the same before it ends; its unit's TimeoutStopSec must allow that.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from raykube.client.events import EventRecorder
from raykube.kubelet.core import shutdown
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.shutdown import Group
from raykube.kubelet.eviction import Member
from raykube.kubelet.logind import Logind, NoLogind

log = logging.getLogger(__name__)

STATE_TIMEOUT_S = 3.0
RECONNECT_S = 30.0


class Shutdown:
    def __init__(
        self,
        order: tuple[Group, ...],
        logind: Logind,
        events: EventRecorder,
        node_reference: Object,
        members: Callable[[], Iterable[Member]],
        changed: Callable[[], None],
    ) -> None:
        self._order = order
        self._logind = logind
        self._events = events
        self._node_reference = node_reference
        self._members = members
        self._changed = changed
        self.active = False  # pods end, none may start, and the node is not ready

    async def run(self) -> None:
        """Waits for a shutdown, and for its being called off."""
        if not self._order:
            return
        while True:
            try:
                await self._follow()
            except NoLogind as error:
                log.warning("shutdowns of the machine are noticed only by the end of this program: %s", error)
            finally:
                self._logind.close()
            await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        await self._logind.connect()
        await self._logind.ensure_delay(sum(group.seconds for group in self._order))
        await self._logind.delay_lock()
        async for begins in self._logind.shutdowns():
            if begins:
                await self.end_pods()
                self._logind.release()
            else:
                log.info("the shutdown of the machine was called off")
                self.active = False
                self._changed()
                await self._logind.delay_lock()

    async def on_stop(self) -> None:
        """Our own service ends: pods end before it where that is because systemd stops the machine."""
        if self._order and await self._machine_stops():
            await self.end_pods()

    async def _machine_stops(self) -> bool:
        with suppress(OSError, TimeoutError):
            asking = await asyncio.create_subprocess_exec(
                "systemctl", "is-system-running", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            async with asyncio.timeout(STATE_TIMEOUT_S):
                answer, _ = await asking.communicate()
            return answer.strip() == b"stopping"
        return False

    async def end_pods(self) -> None:
        """Ends every pod, group after group; what has not ended in its group's time is left to systemd."""
        if self.active or not self._order:
            return
        self.active = True
        self._changed()
        message = "Shutdown manager detected shutdown event"
        log.warning("the machine shuts down: pods end")
        self._events.record(self._node_reference, "Normal", "NodeShutdown", message)
        living = {id(member.pod): member for member in self._members() if not member.finished}
        for group, members in shutdown.assigned(self._order, [member.pod for member in living.values()]):
            ending = [living[id(pod)] for pod in members]
            for member in ending:
                member.end(shutdown.ending(member.pod, group))
            with suppress(TimeoutError):
                async with asyncio.timeout(group.seconds):
                    for member in ending:
                        await member.ended.wait()
            late = [member for member in ending if not member.finished]
            if late:
                log.error("%d pods did not end within %d s", len(late), group.seconds)
