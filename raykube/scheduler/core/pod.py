"""A pod as the scheduler sees it: what is its own, and `needs`, which it shares with all pods like it."""

from dataclasses import dataclass

from raykube.api.resource_claims import PodClaim
from raykube.scheduler.core.deadlines import Deadline
from raykube.scheduler.core.gangs import Membership
from raykube.scheduler.core.requirements import Requirements
from raykube.scheduler.core.volumes import Claim


@dataclass(slots=True)
class Pod:
    """One pod, as the API last had it."""

    uid: str
    namespace: str
    name: str
    resource_version: int
    labels: dict[str, str]
    owner: str  # uid of its controller, or ""
    workload: str  # what it has in common with pods that behave like it (core/interference.py), or ""
    priority: int
    node: str
    terminating: bool
    ended: bool
    reported: str  # the message of its PodScheduled=False condition
    needs: Requirements
    claims: tuple[Claim, ...]
    nominated: str = ""  # the node that it was promised
    gang: Membership | None = None
    deadline: Deadline | None = None
    generation: int = 0  # of its spec; 0: the API does not count its changes
    devices: tuple[PodClaim, ...] = ()  # its ResourceClaims
    started: str = ""  # when its containers could first start, as the API writes times
    resizing: bool = False  # what it counts with is not what its spec says
