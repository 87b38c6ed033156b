"""A pod that uses a row: bound there, or assumed to be."""

from dataclasses import dataclass

from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.spread import Group
from raykube.scheduler.core.tallies import Tally


@dataclass(slots=True)
class Placed:
    """With what counts it now, so that it can be taken out again."""

    pod: Pod
    row: int
    assumed: bool
    groups: tuple[Group, ...] = ()
    counted: tuple[Tally, ...] = ()
    since: float = 0.0  # when it was first seen there
    started: str = ""  # when its kubelet took it up, as the API writes times; "" until then
