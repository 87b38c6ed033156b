"""What a container runtime shows of one pod, as values. Times are seconds since the epoch, 0 where there is none."""

from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    id: str
    name: str
    sandbox_id: str
    attempt: int  # how often the container was started before this time
    state: State
    created_at: float
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_id: str = ""
    spec_hash: str = ""


@dataclass(frozen=True, slots=True)
class ObservedSandbox:
    id: str
    attempt: int
    ready: bool
    ip: str
    created_at: float


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """Newest first, both lists."""

    sandboxes: tuple[ObservedSandbox, ...] = ()
    containers: tuple[ObservedContainer, ...] = field(default=())

    def history(self, name: str) -> list[ObservedContainer]:
        """Every run of a container that the runtime still knows, newest first."""
        return [one for one in self.containers if one.name == name]

    def latest(self, name: str) -> ObservedContainer | None:
        return next((one for one in self.containers if one.name == name), None)

    @property
    def sandbox(self) -> ObservedSandbox | None:
        """The newest sandbox."""
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ready_sandbox(self) -> ObservedSandbox | None:
        newest = self.sandbox
        return newest if newest is not None and newest.ready else None

    @property
    def running(self) -> list[ObservedContainer]:
        return [one for one in self.containers if one.state is State.RUNNING]
