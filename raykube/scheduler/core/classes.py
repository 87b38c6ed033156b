"""Classes of pods. Identical pods share one, and the diagnosis that the last of them got where they fit nowhere."""

from collections import OrderedDict
from collections.abc import Mapping

from raykube.scheduler.core.affinity import PodTerms
from raykube.scheduler.core.answers import Answers
from raykube.scheduler.core.devices import DeviceTable
from raykube.scheduler.core.interference import SlowdownModel
from raykube.scheduler.core.nodes import NodeTable
from raykube.scheduler.core.plugin import View
from raykube.scheduler.core.podclass import PodClass
from raykube.scheduler.core.profile import Profile
from raykube.scheduler.core.requirements import Requirements
from raykube.scheduler.core.shares import Shares
from raykube.scheduler.core.spread_groups import SpreadGroups
from raykube.scheduler.core.volumes import VolumeTable

CLASSES_MAX = 512


class PodClasses:
    """The classes that were asked for last; what no class uses any more is dropped with them."""

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        nodes: NodeTable,
        volumes: VolumeTable,
        devices: DeviceTable,
        slowdowns: SlowdownModel,
        groups: SpreadGroups,
        terms: PodTerms,
    ) -> None:
        self._profiles = profiles
        self._nodes = nodes
        self._volumes = volumes
        self._devices = devices
        self._slowdowns = slowdowns
        self._groups = groups
        self._terms = terms
        self._shares = Shares(nodes)
        self._answers = Answers(nodes)
        self._classes: OrderedDict[bytes, PodClass] = OrderedDict()
        self.forgot = False  # some are gone, so nobody knows who may care for a placement

    def of(self, needs: Requirements) -> PodClass:
        known = self._classes.get(needs.key)
        if known is not None:
            self._classes.move_to_end(needs.key)
            return known
        made = self._classes[needs.key] = self._made(needs)
        if len(self._classes) > CLASSES_MAX:
            # Many at once: finding the groups that nobody uses any more looks at all pods.
            for gone in list(self._classes)[: CLASSES_MAX // 4]:
                del self._classes[gone]
            used = {id(group) for known in self._classes.values() for group in known.view.hard + known.view.soft}
            self._groups.keep(used)
            self._terms.keep({terms for known in self._classes.values() for terms in known.asked})
            self.forgot = True
        return made

    def _made(self, needs: Requirements) -> PodClass:
        profile = self._profiles[needs.profile]
        view = View(
            self._nodes,
            needs,
            self._terms,
            self._volumes,
            [self._groups.of(constraint, needs.namespace) for constraint in needs.hard],
            [self._groups.of(constraint, needs.namespace) for constraint in needs.soft],
            profile.arguments,
            self._slowdowns,
            self._shares,
            self._answers,
            self._devices,
        )
        return PodClass(view, profile)

    def forget_diagnoses(self) -> None:
        """Something changed that no version counts."""
        for known in self._classes.values():
            known.diagnoses.clear()
