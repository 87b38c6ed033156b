"""The filters, in upstream's order: a node counts as rejected by the first one that says no.

To add one: a file here with a class of one of the shapes in `core/plugin.py`, and a line in FILTERS.
"""

from raykube.scheduler.core.filters.dynamic_resources import DynamicResources
from raykube.scheduler.core.filters.inter_pod_affinity import InterPodAffinity
from raykube.scheduler.core.filters.node_affinity import NodeAffinity
from raykube.scheduler.core.filters.node_ports import NodePorts
from raykube.scheduler.core.filters.node_resources_fit import NodeResourcesFit
from raykube.scheduler.core.filters.node_unschedulable import NodeUnschedulable
from raykube.scheduler.core.filters.node_volume_limits import NodeVolumeLimits
from raykube.scheduler.core.filters.pod_topology_spread import PodTopologySpread
from raykube.scheduler.core.filters.taint_toleration import TaintToleration
from raykube.scheduler.core.filters.volume_binding import VolumeBinding
from raykube.scheduler.core.filters.volume_restrictions import VolumeRestrictions
from raykube.scheduler.core.filters.volume_zone import VolumeZone
from raykube.scheduler.core.plugin import Filter

FILTERS: tuple[type[Filter], ...] = (
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
)
