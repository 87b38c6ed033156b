"""What a filter is and what a score is: the shapes that the files of `filters/` and `scores/` fill, one noun each.

A plugin object serves one class of identical pods. It is made once, reads the columns, and keeps what it likes of its
own. What it must answer depends on when its answer can change; the class (`podclass`) asks for no more than that:

    when it changes                                filter                            score
    the node itself: labels, taints, size          NodeFilter  passes(rows)          NodeScore  raw(rows), scaled later
    also a pod that came to the node or left it    UsageFilter passes_all / _row     UsageScore all() / row(row)
    pods elsewhere, or this very pod               PodFilter   passes(pod)           PodScore   scores(fits, pod)

`rows` are all rows (a slice) or some (an array of numbers). A Mask has True for rows that pass. Scores are 0 to 100.
A filter also says in upstream's words why it rejects nodes (`rejections`), and which events may change its mind.
"""

from collections.abc import Hashable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.affinity import PodTerms
from raykube.scheduler.core.arguments import Arguments
from raykube.scheduler.core.devices import DeviceTable
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.interference import SlowdownModel
from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.requirements import Requirements
from raykube.scheduler.core.shares import Shares
from raykube.scheduler.core.spread import Group
from raykube.scheduler.core.terms import Rows
from raykube.scheduler.core.volumes import VolumeTable

if TYPE_CHECKING:
    from raykube.scheduler.core.answers import Answers

Floats = NDArray[np.float64]
EVERY = slice(None)
MAX_SCORE = 100.0


class View(NamedTuple):
    """What the plugins of one class look at. They change none of it."""

    nodes: NodeTable
    needs: Requirements
    terms: PodTerms
    volumes: VolumeTable
    hard: list[Group]  # what the class's hard spread constraints count, in their order
    soft: list[Group]
    arguments: Arguments
    slowdowns: SlowdownModel
    shares: Shares
    answers: "Answers"
    devices: DeviceTable


class Rejected(NamedTuple):
    """Rows that a filter rejects for one reason; one row may have several."""

    reason: str
    rows: Mask
    hopeless: Mask | bool  # where no eviction of other pods could help


class Plugin:
    """What filters and scores have in common. No ABC: a class of one pod pays for each check of a plugin's type."""

    name: ClassVar[str]  # upstream's

    def __init__(self, view: View) -> None:
        self.nodes = view.nodes
        self.needs = view.needs

    @classmethod
    def concerns(cls, view: View) -> bool:
        """Whether such pods have anything to do with it; it is not made for others."""
        return True

    @classmethod
    def alike(cls, view: View) -> Hashable | None:
        """What of a class the answers of a NodeFilter or NodeScore depend on, beside the nodes.

        Classes for which this is equal share one plugin object. None: each class has its own.
        """
        return None


class Filter(Plugin):
    """Which nodes a pod may run on."""

    helped_by: ClassVar[Event]  # what may turn a rejection into a pass

    def narrowed(self) -> Mask | None:
        """Rows that are out before any filter is asked (upstream's PreFilter result); None: none are."""
        return None

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        """Why it rejects rows of `left`. Called only for pods that fit nowhere, or to explain."""
        raise NotImplementedError


class NodeFilter(Filter):
    """Depends on the node and the class alone."""

    reason: ClassVar[str]

    def passes(self, rows: Rows) -> Mask:
        """A new array, which is kept."""
        raise NotImplementedError

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        yield Rejected(self.reason, ~self.passes(EVERY), True)


class UsageFilter(Filter):
    """Depends also on the pods of the node."""

    def passes_all(self, among: Mask) -> Mask:
        """The rows that pass; only those of `among` matter."""
        raise NotImplementedError

    def passes_row(self, row: int) -> bool:
        """The same for one row, in plain Python: numpy's calls cost more than the arithmetic of one node.

        `passes_all` was asked before, and is again when the table's columns are new arrays: it may keep their cells.
        """
        raise NotImplementedError


class PodFilter(Filter):
    """Depends on pods anywhere, or on more of the pod than its class. Asked at every decision."""

    for_claims: ClassVar[bool] = False  # asked only for pods with claims

    def prevents(self, pod: Pod) -> str:
        """Why the pod cannot run on any node now (upstream's PreFilter); "" when nodes decide. Called first."""
        return ""

    def passes(self, pod: Pod) -> Mask | None:
        """The rows that pass; None: all."""
        raise NotImplementedError

    def key(self, pod: Pod) -> Hashable:
        """Pods of the class with equal keys get equal answers."""
        return ()


class Scaling(Enum):
    """How raw scores become 0 to 100 among the rows that fit."""

    NONE = "they are already"
    MOST = "the most gets 100"
    LEAST = "none gets 100, the most 0"


class Score(Plugin):
    """How much a node is liked among those that fit."""

    weight: ClassVar[int] = 1  # upstream's default


class NodeScore(Score):
    """Depends on the node and the class alone."""

    scaling: ClassVar[Scaling] = Scaling.NONE

    def raw(self, rows: Rows) -> Floats | None:
        """A new array, which is kept; None: 0 for all of them."""
        raise NotImplementedError

    def revision(self) -> int:
        """Raised when raw scores changed for another reason than a node's labels, taints or size.

        Asked when there was news of some node (`NodeTable.news`).
        """
        return 0


class UsageScore(Score):
    """Depends also on the pods of the node."""

    def all(self) -> Floats:
        """A new array, which is kept; only rows that every NodeFilter and UsageFilter lets pass mean anything."""
        raise NotImplementedError

    def row(self, row: int) -> float:
        """The same for one row, in plain Python; after `all`, as `passes_row` comes after `passes_all`."""
        raise NotImplementedError


class PodScore(Score):
    """Depends on pods anywhere. Asked at every decision."""

    def scores(self, fits: Mask, pod: Pod, same: bool) -> Floats | None:
        """Of all rows, of which those of `fits` are compared; None: no row is liked more than another.

        `same`: neither nodes nor `fits` changed since the last call for the class.
        """
        raise NotImplementedError


def scaled(raw: Floats, most: float, scaling: Scaling) -> Floats:
    """Raw scores of rows by the most of all rows that fit."""
    if scaling is Scaling.NONE:
        return raw
    if not most:
        return np.full(len(raw), MAX_SCORE if scaling is Scaling.LEAST else 0.0)
    part: Floats = raw * (MAX_SCORE / most)
    return MAX_SCORE - part if scaling is Scaling.LEAST else part
