"""Required affinity and anti-affinity between pods, and the anti-affinity of those that run already."""

from collections.abc import Hashable, Iterator

from raykube.scheduler.core.affinity import Meaning
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod


class InterPodAffinity(PodFilter):
    name = "InterPodAffinity"
    helped_by = Event.NODE | Event.POD_GONE | Event.POD_CHANGED

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._terms = view.terms
        self._meaning: Meaning | None = None
        self._asks = bool(view.needs.pod_affinity or view.needs.pod_anti_affinity)

    def _means(self) -> Meaning | None:
        if self._asks:
            self._meaning = self._terms.meaning(self.needs, self._meaning)
        return self._meaning

    def passes(self, pod: Pod) -> Mask | None:
        terms = self._terms
        if not (self._asks or terms.carried):
            return None
        keep_off = terms.keep_off(pod.namespace, pod.labels)
        return terms.permitted(self._means(), keep_off) if self._asks or keep_off else None

    def key(self, pod: Pod) -> Hashable:
        return self._terms.keep_off(pod.namespace, pod.labels)

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        permits = self._terms.permits(self._means(), self._terms.keep_off(pod.namespace, pod.labels))
        yield Rejected("node(s) didn't match pod affinity rules", ~permits.affinity, True)
        left = permits.affinity
        yield Rejected("node(s) didn't match pod anti-affinity rules", left & ~permits.anti_affinity, False)
        left = left & permits.anti_affinity
        yield Rejected("node(s) didn't satisfy existing pods anti-affinity rules", left & ~permits.existing, False)
