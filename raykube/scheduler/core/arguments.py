"""What a profile's pluginConfig may set, with upstream's names and defaults (kubescheduler.config.k8s.io/v1)."""

from typing import Any, NamedTuple

from raykube.scheduler.core.requests import CPU, MEMORY

Object = dict[str, Any]

LEAST_ALLOCATED, MOST_ALLOCATED = "LeastAllocated", "MostAllocated"
REQUESTED_TO_CAPACITY = "RequestedToCapacityRatio"


class Resource(NamedTuple):
    """One resource of a scoring strategy."""

    name: str
    weight: int = 1


class Point(NamedTuple):
    """Of a piecewise linear function: at this use of the capacity (percent) this score (0 to 10)."""

    utilization: int
    score: int


class DefaultConstraint(NamedTuple):
    """A topology spread constraint for pods that have none of their own."""

    topology_key: str
    max_skew: int
    hard: bool


# Upstream's System defaulting.
SYSTEM_CONSTRAINTS = (
    DefaultConstraint("kubernetes.io/hostname", 3, False),
    DefaultConstraint("topology.kubernetes.io/zone", 5, False),
)


class Arguments(NamedTuple):
    """Of all plugins of a profile."""

    # NodeResourcesFit
    strategy: str = LEAST_ALLOCATED
    fit_resources: tuple[Resource, ...] = (Resource(CPU), Resource(MEMORY))
    shape: tuple[Point, ...] = ()
    ignored_resources: frozenset[str] = frozenset()
    ignored_groups: frozenset[str] = frozenset()
    # NodeResourcesBalancedAllocation
    balanced_resources: tuple[str, ...] = (CPU, MEMORY)
    # NodeAffinity: a NodeAffinity object, or {}
    added_affinity: Object = {}  # noqa: RUF012 (a NamedTuple's default; nobody changes it)
    # PodTopologySpread
    default_constraints: tuple[DefaultConstraint, ...] = SYSTEM_CONSTRAINTS
    system_defaulted: bool = True
    # VolumeBinding
    bind_timeout_s: float = 600.0
    # DefaultPreemption: how many candidates are looked at, of all nodes
    candidates_min_percent: int = 10
    candidates_min: int = 100
    # InterPodAffinity
    hard_pod_affinity_weight: int = 1
    ignore_preferred_terms_of_existing_pods: bool = False


DEFAULTS = Arguments()
