"""ResourceClaims of a recording, as they would be had the scheduler of the replay had its way.

Their devices are those that this scheduler chose: what the recorded one wrote into a claim is left out, but for claims
that had devices from the start. A claim gives its devices back when it did so in the recording.
"""

from collections.abc import Iterable

from raykube.api import resource_claims
from raykube.scheduler.core.devices import DeviceTable, Grant, Object


class ReplayedClaims:
    """Between the recording and the table of devices."""

    def __init__(self, devices: DeviceTable) -> None:
        self._devices = devices
        self._had_devices: set[str] = set()  # uids of claims, as recorded last

    def take(self, new: Object | None, uid: str, now: float) -> Object | None:
        """The claim as this scheduler should see it. `new`: as recorded; None: it went."""
        if new is None:
            self._had_devices.discard(uid)
            return None
        has = resource_claims.allocation(new) is not None
        given_back = uid in self._had_devices and not has
        (self._had_devices.add if has else self._had_devices.discard)(uid)
        if now == 0.0:
            return new
        metadata = new["metadata"]
        known = self._devices.claim((metadata["namespace"], metadata["name"]))
        same = known is not None and known["metadata"]["uid"] == uid and not given_back
        return new | {"status": (known or {}).get("status") or {} if same else {}}

    def grant(self, reservations: Iterable[object]) -> None:
        """A pod was placed: what would have been written for it."""
        for one in reservations:
            if isinstance(one, Grant):
                status = dict(one.claim.get("status") or {})
                if one.allocation is not None:
                    status["allocation"] = one.allocation
                status["reservedFor"] = [*resource_claims.reserved_for(one.claim), one.pod]
                self._devices.wrote(one.claim | {"status": status})
