"""A class of identical pods: which rows can take one more of them, and how much each is liked.

Evaluated once over all rows, then caught up row by row from the node table's log, so that placing a pod of a class of
thousands costs one arg-max and one row. What the profile's filters and scores say is kept in three layers:

    suitable   live & every NodeFilter                      re-judged for rows whose node changed
    feasible   suitable & every UsageFilter                 re-judged for rows that a pod came to or left
    fits       feasible & every PodFilter                   judged at each decision

    total      sum of weight x score over the rows that fit, -inf elsewhere

Scores are upstream's; they are not rounded to integers, so fewer ties. Of equal nodes the lowest row is taken.
"""

import math
from collections.abc import Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raykube.scheduler.core.affinity import asked
from raykube.scheduler.core.filters.node_resources_fit import NodeResourcesFit
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import (
    MAX_SCORE,
    Filter,
    Floats,
    NodeFilter,
    NodeScore,
    PodFilter,
    PodScore,
    Scaling,
    Score,
    UsageFilter,
    UsageScore,
    View,
    scaled,
)
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.profile import Profile

if TYPE_CHECKING:
    from raykube.scheduler.core.diagnosis import Diagnosis

NONE = -1
DIAGNOSES_MAX = 64  # kept per class

Version = tuple[int, int, int]  # of all that a diagnosis looks at


class Kinds(NamedTuple):
    """A profile's plugins by their shapes: a class of one pod should not ask each plugin what it is."""

    node_filters: tuple[type[NodeFilter], ...]
    usage_filters: tuple[type[UsageFilter], ...]
    pod_filters: tuple[type[PodFilter], ...]
    claim_filters: tuple[type[PodFilter], ...]
    node_scores: tuple[tuple[type[NodeScore], float], ...]
    usage_scores: tuple[tuple[type[UsageScore], float], ...]
    pod_scores: tuple[tuple[type[PodScore], float], ...]


@lru_cache(maxsize=64)
def kinds_of(filters: tuple[type[Filter], ...], scores: tuple[tuple[type[Score], int], ...]) -> Kinds:
    """Of a score without weight nobody is asked."""
    weighed = [(one, float(weight)) for one, weight in scores if weight]
    return Kinds(
        tuple(one for one in filters if issubclass(one, NodeFilter)),
        tuple(one for one in filters if issubclass(one, UsageFilter)),
        tuple(one for one in filters if issubclass(one, PodFilter) and not one.for_claims),
        tuple(one for one in filters if issubclass(one, PodFilter) and one.for_claims),
        tuple((one, weight) for one, weight in weighed if issubclass(one, NodeScore)),
        tuple((one, weight) for one, weight in weighed if issubclass(one, UsageScore)),
        tuple((one, weight) for one, weight in weighed if issubclass(one, PodScore)),
    )


class PodClass:
    """The view of one class on the nodes. `pick` → the best row or NONE."""

    def __init__(self, view: View, profile: Profile) -> None:
        self.view = view
        self.nodes = view.nodes
        self.needs = view.needs
        self.preempts = profile.preempts
        self.asked = asked(view.needs)  # what must be counted before a pod of the class is judged
        self.followed = -1  # the generation of terms in which all of that is
        self.diagnoses: dict[Hashable, tuple[Version, Diagnosis]] = {}  # what its pods were told, and when
        self._profile = profile
        kinds = self._kinds = kinds_of(profile.filters, profile.scores)
        self._node_filters = [view.answers.passing(made, view) for made in kinds.node_filters if made.concerns(view)]
        self._usage_filters = [made(view) for made in kinds.usage_filters if made.concerns(view)]
        self._pod_filters = [made(view) for made in kinds.pod_filters if made.concerns(view)]
        self._claim_filters: list[PodFilter] | None = None  # made for the first pod with claims
        self._raw = [
            (view.answers.raw(made, view), weight) for made, weight in kinds.node_scores if made.concerns(view)
        ]
        self._usage_scores = [(made(view), weight) for made, weight in kinds.usage_scores if made.concerns(view)]
        self._pod_scores = [(made(view), weight) for made, weight in kinds.pod_scores if made.concerns(view)]
        # Bound once: these are called for every placement.
        self._row_passes = [one.passes_row for one in self._usage_filters]
        self._row_scores = [(one.row, weight) for one, weight in self._usage_scores]
        self._revising = [raw for raw, _ in self._raw if raw.revises]
        self._versions = [0] * len(self._revising)
        self._heard = -1  # the table's count of news
        self._epoch = -1
        self._read = 0  # entries of the log taken in
        self._news = True  # nodes, or which of them are feasible, changed since the last pick
        self.suitable: Mask = np.zeros(0, bool)
        self.feasible: Mask = np.zeros(0, bool)
        self._usage: Floats = np.zeros(0)
        self._total: Floats = np.zeros(0)
        self._offset = 0.0  # of every row's total
        self._parts: list[tuple[Floats, float]] = []  # raw scores and their factors in the total
        self._relative = False  # some raw score must be scaled by the most of all feasible nodes
        self._rescale = True

    @property
    def scores(self) -> list[tuple[Score, float]]:
        """With their weights, in the profile's order."""
        made = [(raw.score, weight) for raw, weight in self._raw] + self._usage_scores + self._pod_scores
        order = [score for score, _ in self._profile.scores]
        return sorted(made, key=lambda one: order.index(type(one[0])))

    # Decisions

    def pod_filters(self, pod: Pod) -> list[PodFilter]:
        """The filters that are asked at each decision."""
        return self._pod_filters if not pod.claims else self._for_claims() + self._pod_filters

    def _for_claims(self) -> list[PodFilter]:
        if self._claim_filters is None:
            self._claim_filters = [made(self.view) for made in self._kinds.claim_filters if made.concerns(self.view)]
        return self._claim_filters

    def filters_for(self, pod: Pod) -> list[Filter]:
        """All filters that such a pod passes through, in the profile's order."""
        made = [*(one.filter for one in self._node_filters), *self._usage_filters, *self.pod_filters(pod)]
        return sorted(made, key=lambda one: self._profile.filters.index(type(one)))

    def pick(self, pod: Pod, within: Mask | None = None) -> int:
        """The row for a pod of the class, or NONE; of the rows `within`, if given."""
        self.catch_up()
        total = self.totals(pod, *self._fits(pod, within))
        row = int(total.argmax())
        return row if total.item(row) > -math.inf else NONE

    def remember(self, like: Hashable, version: Version, diagnosis: "Diagnosis") -> None:
        """Pods of the class that are `like` this one get the same answer until something changes."""
        if len(self.diagnoses) >= DIAGNOSES_MAX:
            self.diagnoses.clear()
        self.diagnoses[like] = version, diagnosis

    def fitting(self, pod: Pod) -> Mask:
        """The rows that every filter lets the pod run on."""
        self.catch_up()
        return self._fits(pod, None)[0]

    def weigh(self, pod: Pod) -> Floats:
        """The total of each row that fits, -inf elsewhere: what `pick` takes the most of."""
        self.catch_up()
        return self.totals(pod, *self._fits(pod, None))

    def nothing_but_resources(self, pod: Pod) -> tuple[tuple[str, int], ...] | None:
        """What the pod needs of a node that suits it, if only resources; None: other pods matter in more ways."""
        resources = None
        for one in self.filters_for(pod):
            if isinstance(one, NodeResourcesFit):
                resources = one.resources
            elif isinstance(one, UsageFilter) or (isinstance(one, PodFilter) and one.passes(pod) is not None):
                return None
        return resources

    def _fits(self, pod: Pod, within: Mask | None) -> tuple[Mask, bool]:
        """The rows that fit, and whether they are fewer than the feasible ones."""
        fits = self.feasible
        narrowed = within is not None
        if within is not None:
            fits = fits & within
        for one in self.pod_filters(pod):
            passed = one.passes(pod)
            if passed is not None:
                fits = fits & passed
                narrowed = True
        return fits, narrowed

    def totals(self, pod: Pod, fits: Mask, narrowed: bool) -> Floats:
        """The total of each row that fits, -inf elsewhere."""
        if narrowed and self._relative:
            offset, parts = self._scale(fits)
            total = self._sum(fits, offset, parts)
        else:
            if self._rescale:
                self._offset, self._parts = self._scale(self.feasible)
                self._total = self._sum(self.feasible, self._offset, self._parts)
                self._rescale = False
            total = np.where(fits, self._total, -np.inf) if narrowed else self._total
        for score, weight in self._pod_scores:
            more = score.scores(fits, pod, not (narrowed or self._news))
            if more is not None:
                total = total + weight * more
        # What was compared with fewer rows is to be compared anew.
        self._news = narrowed
        return total

    def breakdown(self, pod: Pod, fits: Mask) -> list[tuple[Score, float, Floats]]:
        """Each score with its weight and its column (0 to 100), where rows of `fits` are compared."""
        found: list[tuple[Score, float, Floats]] = []
        nothing = np.zeros(len(fits))
        raw = {one.score.name: one.values for one, _ in self._raw}
        for score, weight in self.scores:
            if isinstance(score, NodeScore):
                values = raw[score.name]
                values = nothing if values is None else values
                column = scaled(values, most_of(values, fits), score.scaling)
            elif isinstance(score, UsageScore):
                column = score.all()
            else:
                assert isinstance(score, PodScore)
                found_column = score.scores(fits, pod, same=False)
                column = nothing if found_column is None else found_column
            found.append((score, weight, column))
        self._news = True  # the scores just compared other rows than `pick` will
        return found

    def _scale(self, fits: Mask) -> tuple[float, list[tuple[Floats, float]]]:
        """How the raw scores add to the totals of the rows that fit: a constant, and a factor for each score."""
        offset = 0.0
        parts: list[tuple[Floats, float]] = []
        for raw, weight in self._raw:
            values = raw.values if raw.differs else None
            scaling = raw.score.scaling
            if scaling is Scaling.NONE:
                if values is not None:  # also where no row that fits now has any: one that does may fit soon
                    parts.append((values, weight))
                continue
            most = 0.0 if values is None else most_of(values, fits)
            if scaling is Scaling.LEAST:
                offset += weight * MAX_SCORE
                weight = -weight
            if values is not None and most:
                parts.append((values, weight * MAX_SCORE / most))
        return offset, parts

    def _sum(self, fits: Mask, offset: float, parts: list[tuple[Floats, float]]) -> Floats:
        total = self._usage + offset
        for raw, factor in parts:
            total += factor * raw
        if not fits.all():
            total[~fits] = -math.inf
        return total

    # Keeping up with the nodes

    def catch_up(self) -> None:
        """Takes in what changed since the last time."""
        nodes = self.nodes
        log = nodes.log
        if self._epoch != nodes.epoch:
            self._judge_nodes()
            self._judge_usage()
            self._epoch, self._read = nodes.epoch, len(log)
        elif self._read != len(log):
            if self._read + 1 == len(log) and not log[-1] & 1:
                self._judge_row(log[-1] >> 1)  # where the last pod of the class went
            else:
                self._take_in(log[self._read :])
            self._read = len(log)
        if self._heard != nodes.news:
            self._heard = nodes.news
            for index, raw in enumerate(self._revising):
                version = raw.catch_up()
                if self._versions[index] != version:
                    self._versions[index] = version
                    self._weigh()

    def _take_in(self, news: list[int]) -> None:
        entries = sorted(set(news)) if len(news) > 1 else news
        # All rows at once cost as much as this many one by one.
        if len(entries) > 8 + self.nodes.count // 80:
            if any(entry & 1 for entry in entries):
                self._judge_nodes()
            self._judge_usage()
            return
        if any(entry & 1 for entry in entries):
            self._judge_nodes()
        for row in {entry >> 1 for entry in entries}:
            self._judge_row(row)

    def _judge_nodes(self) -> None:
        """What depends on the nodes alone."""
        self.suitable = self.nodes.live.copy()
        for one in self._node_filters:
            self.suitable &= one.rows()
        for raw, _ in self._raw:
            raw.catch_up()
        self._weigh()
        self._news = True

    def _weigh(self) -> None:
        """Raw scores changed."""
        self._relative = any(raw.differs and raw.score.scaling is not Scaling.NONE for raw, _ in self._raw)
        self._rescale = True

    def _judge_usage(self) -> None:
        """All rows at once: what is free, and the scores that depend on it."""
        feasible = self.suitable.copy()
        for one in self._usage_filters:
            feasible &= one.passes_all(feasible)
        if not self._news and not np.array_equal(feasible, self.feasible):
            self._news = True
        self.feasible = feasible
        usage: Floats | None = None
        for score, weight in self._usage_scores:
            part = score.all()
            if weight != 1.0:
                part *= weight
            usage = part if usage is None else np.add(usage, part, out=usage)
        self._usage = np.zeros(self.nodes.capacity) if usage is None else usage
        self._rescale = True

    def _judge_row(self, row: int) -> None:
        """One row after a placement."""
        was = self.feasible.item(row)
        fits = self.suitable.item(row)
        if fits:
            for passes in self._row_passes:
                if not passes(row):
                    fits = False
                    break
        usage = 0.0
        if fits:
            for score, weight in self._row_scores:
                usage += weight * score(row)
            self._usage[row] = usage
        if was != fits:
            self.feasible[row] = fits
            self._news = True
            if self._relative:
                self._rescale = True
        if not self._rescale:
            if fits:
                total = usage + self._offset
                for raw, factor in self._parts:
                    total += factor * raw.item(row)
                self._total[row] = total
            else:
                self._total[row] = -math.inf


def most_of(values: Floats, rows: Mask) -> float:
    """The most of some rows, 0 at least."""
    return float((values * rows).max(initial=0.0))
