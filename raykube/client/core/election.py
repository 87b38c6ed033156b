"""Leader election on a Lease, as client-go's: pure decisions; the shell reads and writes the Lease.

Rules:
- Time is judged by the own monotonic clock only (`now`): a holder counts as dead when its record did not change for
  `lease_duration_s` since *we* saw it change. So clocks of different machines need not agree, and one that is set makes
  nobody a leader or stops one. What the Lease says (`at`, seconds since the epoch) is for people.
- Every write is conditional on the resourceVersion read, so of two candidates one wins.
- A leader that could not renew for `renew_deadline_s` must stop leading: before anybody may take over.
"""

from dataclasses import dataclass, field
from typing import Any

from raykube.base.clock import rfc3339_micro

Lease = dict[str, Any]


@dataclass
class Election:
    """The view of one candidate. `propose` → the Lease to write; `on_written`/`on_observed` take in what is stored."""

    namespace: str
    name: str
    identity: str
    lease_duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    lease: Lease | None = None
    leading: bool = False
    _record: dict[str, Any] = field(default_factory=dict)
    _observed_at: float = 0.0
    renewed_at: float = 0.0

    def __post_init__(self) -> None:
        if not self.lease_duration_s > self.renew_deadline_s > 0:
            raise ValueError("the lease duration must be greater than the renew deadline, and both above 0")

    @property
    def holder(self) -> str:
        return str(self._record.get("holderIdentity") or "")

    @property
    def term(self) -> str:
        """Since when the holder leads, as the Lease says: as long as that is the same, nobody else has led."""
        return str(self._record.get("acquireTime") or "")

    def on_observed(self, lease: Lease | None, now: float) -> None:
        """The stored Lease (None: there is none) as read or watched at `now`."""
        self.lease = lease
        record = (lease or {}).get("spec") or {}
        if record != self._record:
            self._record, self._observed_at = record, now
        if self.leading and self.holder != self.identity:
            self.leading = False

    def propose(self, now: float, at: float) -> Lease | None:
        """The Lease to create or update to lead or to keep leading; None while another holder is alive."""
        duration = self._record.get("leaseDurationSeconds") or self.lease_duration_s
        if self.holder not in ("", self.identity) and now < self._observed_at + duration:
            return None
        keeps = self.holder == self.identity and self.lease is not None
        transitions = int(self._record.get("leaseTransitions") or 0)
        stamp = rfc3339_micro(at)
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self.lease_duration_s) or 1,
            "acquireTime": self._record.get("acquireTime", stamp) if keeps else stamp,
            "renewTime": stamp,
            "leaseTransitions": transitions + (0 if keeps or self.lease is None else 1),
        }
        return self._with_spec(spec)

    def on_written(self, lease: Lease, now: float) -> None:
        """The proposal was stored; `now` is when it was proposed, not when the answer came."""
        self.on_observed(lease, now)
        self.renewed_at = now
        self.leading = self.holder == self.identity

    def expired(self, now: float) -> bool:
        """A leader whose last renewal is too long ago: it must stop at once."""
        return self.leading and now >= self.renewed_at + self.renew_deadline_s

    def release(self, at: float) -> Lease | None:
        """The Lease to write when a leader ends on purpose, so that the next one need not wait."""
        if not self.leading or self.lease is None:
            return None
        stamp = rfc3339_micro(at)
        return self._with_spec(
            {
                "holderIdentity": "",
                "leaseDurationSeconds": 1,
                "acquireTime": stamp,
                "renewTime": stamp,
                "leaseTransitions": int(self._record.get("leaseTransitions") or 0),
            }
        )

    def _with_spec(self, spec: dict[str, Any]) -> Lease:
        if self.lease is None:
            metadata: dict[str, Any] = {"namespace": self.namespace, "name": self.name}
        else:
            metadata = self.lease["metadata"]
        return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "spec": spec}
