"""Hard topology spread (DoNotSchedule): domains where the skew would become larger than maxSkew are out."""

from collections.abc import Iterator

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.spread import HardSpread, missing_keys

REASON = "node(s) didn't match pod topology spread constraints"


class PodTopologySpread(PodFilter):
    name = "PodTopologySpread"
    helped_by = Event.NODE | Event.NODE_GONE | Event.POD_GONE | Event.POD_CHANGED

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._spread = HardSpread(view.nodes, view.needs, view.hard)

    @classmethod
    def concerns(cls, view: View) -> bool:
        return bool(view.needs.hard)

    def passes(self, pod: Pod) -> Mask | None:
        return self._spread.allowed()

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        missing = missing_keys(self.nodes, self.needs)
        yield Rejected(f"{REASON} (missing required label)", missing, True)
        yield Rejected(REASON, ~missing & ~self._spread.allowed(), False)
