"""The scores, each 0 to 100; a node's total is their sum, each times its weight.

To add one: a file here with a class of one of the shapes in `core/plugin.py`, and a line in SCORES.
"""

from raykube.scheduler.core.plugin import Score
from raykube.scheduler.core.scores.balanced_allocation import NodeResourcesBalancedAllocation
from raykube.scheduler.core.scores.data_locality import DataLocality
from raykube.scheduler.core.scores.image_locality import ImageLocality
from raykube.scheduler.core.scores.inter_pod_affinity import InterPodAffinity
from raykube.scheduler.core.scores.interference import Interference
from raykube.scheduler.core.scores.node_affinity import NodeAffinity
from raykube.scheduler.core.scores.node_resources_fit import NodeResourcesFit
from raykube.scheduler.core.scores.pod_topology_spread import PodTopologySpread
from raykube.scheduler.core.scores.taint_toleration import TaintToleration

SCORES: tuple[type[Score], ...] = (
    TaintToleration,
    NodeAffinity,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DataLocality,
    Interference,
)
