"""What the workers of all pods share."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.kubelet.containers import ContainerActions
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.status import NodeFacts, Verdict
from raykube.kubelet.cri import Cri
from raykube.kubelet.devices import Devices
from raykube.kubelet.handlers import Handlers
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Tools:
    client: ApiClient
    cri: Cri
    volumes: Volumes
    devices: Devices
    events: EventRecorder
    statuses: StatusWriter
    handlers: Handlers
    containers: ContainerActions
    facts: NodeFacts
    sync_s: float
    node: Callable[[], Object]
    fresh_node: Callable[[], Awaitable[Object]]
    refusal: Callable[[Object], Verdict | None]  # why the node takes no such pod now
    active_pods: Callable[[], Iterable[Object]]  # pods that were admitted and have not stopped
    preempt: Callable[[Iterable[Object]], Awaitable[None]]  # ends these pods; returns when nothing of them runs
    unsafe_sysctls: tuple[str, ...] = ()
    freed: Callable[[], None] = lambda: None  # something that was in use may be so no more
