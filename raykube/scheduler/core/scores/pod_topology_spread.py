"""Soft topology spread (ScheduleAnyway): domains with few pods of the group."""

from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import Floats, PodScore, View
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.spread import Inclusion, SoftSpread


class PodTopologySpread(PodScore):
    name = "PodTopologySpread"
    weight = 2

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.soft = SoftSpread(view.nodes, view.needs, view.soft, Inclusion(view.nodes, view.needs))

    @classmethod
    def concerns(cls, view: View) -> bool:
        return bool(view.needs.soft)

    def scores(self, fits: Mask, pod: Pod, same: bool) -> Floats | None:
        if not same or not self.soft.catch_up():
            self.soft.rebuild(fits)
        return self.soft.scores()
