"""Preferred affinity and anti-affinity between pods, both ways: of the pod, and of those that run already.

A node's raw score is the sum of the weights of all (term, pod in the term's domain) that match; required affinity of
pods that run counts with the profile's hardPodAffinityWeight. Scaled so that the least gets 0 and the most 100.
"""

from raykube.scheduler.core.affinity import Meaning
from raykube.scheduler.core.nodes import Mask, range_of
from raykube.scheduler.core.plugin import MAX_SCORE, Floats, PodScore, View
from raykube.scheduler.core.pod import Pod


class InterPodAffinity(PodScore):
    name = "InterPodAffinity"
    weight = 2

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._terms = view.terms
        self._meaning: Meaning | None = None
        arguments = view.arguments
        self._hard_weight = arguments.hard_pod_affinity_weight
        self._alone = arguments.ignore_preferred_terms_of_existing_pods and not view.needs.pod_preferences

    def scores(self, fits: Mask, pod: Pod, same: bool) -> Floats | None:
        if self._alone:
            return None
        if self.needs.pod_preferences:
            self._meaning = self._terms.meaning(self.needs, self._meaning)
        raw = self._terms.attraction(self._meaning, pod.namespace, pod.labels, self._hard_weight)
        if raw is None:
            return None
        least, most = range_of(raw, fits)
        if least >= most:
            return None
        scores: Floats = (raw - least) * (MAX_SCORE / (most - least))
        return scores
