"""One operation on its way through the writer's rounds."""

from typing import Any

from raykube.api.meta import with_resource_version
from raykube.apiserver.core import planning
from raykube.apiserver.core.planning import Current, Operation, Plan
from raykube.apiserver.outcome import Outcome
from raykube.apiserver.services import Held
from raykube.pb import batch_pb2


class Attempt:
    """An operation, what is known of its object, and what has become of it so far. `outcome` None: nothing yet."""

    __slots__ = (
        "confirmed",
        "current",
        "deadline",
        "held",
        "lost_at",
        "names",
        "op",
        "outcome",
        "plan",
        "refreshed",
        "tries",
    )

    def __init__(self, op: Operation) -> None:
        self.op = op
        self.current: Current | None = None
        self.plan: Plan | None = None
        self.outcome: Outcome | None = None
        self.tries = 0
        self.names = 0
        self.refreshed = False
        self.confirmed = False  # `current` is what is there, not what was cached
        self.deadline = 0.0
        self.lost_at = 0.0  # the first race
        self.held = Held()

    @property
    def is_doubtful(self) -> bool:
        """Whether what becomes of it rests on what was cached alone: the store is asked to compare nothing."""
        return self.outcome is not None or (self.plan is not None and not self.plan.write)

    def is_behind(self, first: dict[str, "Attempt"]) -> bool:
        """Whether, having lost a race, it waits in this round for what becomes of the `first` at its object, which it
        becomes if there is none: of all that are sent only one can win."""
        if self.op.verb == planning.CREATE or self.plan is None:
            return False
        return first.setdefault(self.plan.key, self) is not self

    def left(self) -> Current | None:
        """The object as this operation left it, or as it was found."""
        plan, outcome = self.plan, self.outcome
        if plan is None or not plan.write or outcome is None or outcome.code >= 400:
            return self.current
        if plan.value is None:
            return None
        return Current(with_resource_version(plan.value, outcome.revision), outcome.revision)

    @property
    def wanted_version(self) -> int:
        """The revision that the client says the object has; 0: it doesn't say."""
        op = self.op
        text: Any = op.resource_version
        if not text and op.deletion is not None:
            text = op.deletion.resource_version
        if not text and isinstance(op.body, dict):
            metadata = op.body.get("metadata")
            text = metadata.get("resourceVersion") if isinstance(metadata, dict) else ""
        return int(text) if isinstance(text, str) and text.isdigit() else 0

    def write(self, lease: int = 0) -> batch_pb2.Write:
        """What the store is asked for by its plan."""
        plan = self.plan
        assert plan is not None
        if plan.value is None:
            return batch_pb2.Write(key=plan.key.encode(), expected_revision=plan.expected, lease=lease)
        return batch_pb2.Write(key=plan.key.encode(), value=plan.value, expected_revision=plan.expected, lease=lease)
