"""Affinity and anti-affinity between pods (upstream's interpodaffinity): what is required, and what is preferred.

A *term* means the pods that its selector matches in its namespaces, and the domains of its topology key. A node is for
a pod when
    affinity       for each term, a pod that matches all of the terms runs in the node's domain; or no such pod runs
                   anywhere and the pod itself would be one, so that the first of a group finds a place
    anti-affinity  for no term, a pod that matches it runs in the node's domain
    symmetry       the same for the anti-affinity terms of the pods that run already

Preferences add their weight to a node for each pod in its domain that a term means: terms of the pod about those that
run, and terms of those that run about the pod.

A *tally* counts, per row, pods that match terms (`followed`: somebody asked) or that carry a term (`carried`). Pods
that terminate count until they are gone: their processes still run.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.requirements import PodTerm, Requirements, WeightedTerm
from raykube.scheduler.core.tallies import ByLabel, Domains, Tally

Floats = NDArray[np.float64]
Labels = dict[str, str]
LabelsKey = tuple[str, tuple[tuple[str, str], ...]]  # namespace and labels: the pods of a workload have equal ones
Terms = tuple[PodTerm, ...]
Weighed = tuple[tuple[Domains, int], ...]
MATCHES_MAX = 1000
NO_LABELS: Labels = {}
Term = TypeVar("Term", PodTerm, WeightedTerm)


class Permits(NamedTuple):
    """For each of the three rules the rows that it permits."""

    affinity: Mask
    anti_affinity: Mask
    existing: Mask


class Meaning(NamedTuple):
    """What the terms of a class mean by what is followed."""

    generation: int
    near: tuple[Domains, ...]
    first: bool  # the pod itself is one that its affinity terms look for
    away: tuple[Domains, ...]
    preferred: Weighed


class PodTerms:
    """The tallies over the pods that run, and what they permit."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._namespaces: dict[str, Labels] = {}
        self.generation = 0  # raised when what is followed changed
        self._followed: dict[Terms, Tally] = {}
        self._following: ByLabel[Terms] = ByLabel()
        self.carried: dict[PodTerm, Tally] = {}  # required anti-affinity
        self._drawing: dict[PodTerm, Tally] = {}  # required affinity
        self._preferring: dict[WeightedTerm, Tally] = {}
        self._carrying: ByLabel[PodTerm] = ByLabel()
        self._drawing_to: ByLabel[PodTerm] = ByLabel()
        self._preferring_to: ByLabel[WeightedTerm] = ByLabel()
        self._counted_by: dict[LabelsKey, tuple[Tally, ...]] = {}
        self._kept_off_by: dict[LabelsKey, tuple[Domains, ...]] = {}
        self._drawn_by: dict[LabelsKey, tuple[tuple[Domains, ...], Weighed]] = {}

    # Who runs where

    def place(self, needs: Requirements, labels: Labels, row: int) -> tuple[Tally, ...]:
        """A pod came to a row; what counts it now, for `remove`."""
        if needs.has_pod_terms:
            self._carry(needs, row, 1)
        counted = self._counted(needs.namespace, labels) if self._followed else ()
        for tally in counted:
            tally.count(row, 1)
        return counted

    def remove(self, needs: Requirements, row: int, counted: tuple[Tally, ...]) -> None:
        """Such a pod left."""
        if needs.has_pod_terms:
            self._carry(needs, row, -1)
        for tally in counted:
            tally.count(row, -1)

    def _carry(self, needs: Requirements, row: int, sign: int) -> None:
        for term in needs.pod_anti_affinity:
            self._count(self.carried, self._carrying, term, term, row, sign)
        for term in needs.pod_affinity:
            self._count(self._drawing, self._drawing_to, term, term, row, sign)
        for weighted in needs.pod_preferences:
            self._count(self._preferring, self._preferring_to, weighted, weighted.term, row, sign)

    def _count(
        self, tallies: dict[Term, Tally], index: ByLabel[Term], key: Term, term: PodTerm, row: int, sign: int
    ) -> None:
        tally = tallies.get(key)
        if tally is None:
            tally = tallies[key] = Tally(self._nodes)
            index.add(key, term.selector)
            self._forget_matches()
        tally.count(row, sign)
        if not tally.total:
            del tallies[key]
            index.discard(key, term.selector)
            self._forget_matches()

    def _forget_matches(self) -> None:
        """Which terms are carried changed."""
        self._kept_off_by.clear()
        self._drawn_by.clear()

    def unfollowed(self, asked: list[Terms]) -> list[Terms]:
        """What nobody counts yet."""
        return [terms for terms in asked if terms not in self._followed]

    def follow(self, terms: Terms, pods: Iterable[tuple[str, Labels, int]]) -> tuple[Tally, list[bool]]:
        """Counts from now on the pods that match all terms; for each of `pods`, which run now, whether it does."""
        tally = self._followed[terms] = Tally(self._nodes)
        self._following.add(terms, terms[0].selector)
        self._refollow()
        found = []
        for namespace, labels, row in pods:
            matched = self._matches(terms, namespace, labels)
            found.append(matched)
            if matched:
                tally.count(row, 1)
        return tally, found

    def keep(self, used: set[Terms]) -> None:
        """Forgets the other tallies."""
        self._drop([terms for terms in self._followed if terms not in used])

    def _drop(self, gone: list[Terms]) -> None:
        for terms in gone:
            self._followed.pop(terms).drop()
            self._following.discard(terms, terms[0].selector)
        self._refollow()

    def _refollow(self) -> None:
        """What is followed changed."""
        self.generation += 1
        self._counted_by.clear()

    def set_namespace(self, name: str, labels: Labels | None) -> bool:
        """A namespace as it is now (None: gone); whether some term looks at labels of namespaces.

        Tallies of such terms are forgotten: they are made anew when next asked for.
        """
        if self._namespaces.get(name) == labels:
            return False
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        self._forget_matches()
        stale = [terms for terms in self._followed if any(not term.namespace_selector.nothing for term in terms)]
        self._drop(stale)
        carried = (*self.carried, *self._drawing, *(term for term, _ in self._preferring))
        return bool(stale) or any(not term.namespace_selector.nothing for term in carried)

    # What that permits

    def keep_off(self, namespace: str, labels: Labels) -> tuple[Domains, ...]:
        """Where pods run that keep a pod with these labels away."""
        if not self.carried:
            return ()
        key = namespace, tuple(labels.items())
        known = self._kept_off_by.get(key)
        if known is None:
            if len(self._kept_off_by) >= MATCHES_MAX:
                self._kept_off_by.clear()
            known = self._kept_off_by[key] = tuple(
                self.carried[term].domains(term.topology_key)
                for term in self._carrying.about(labels)
                if self._matches((term,), namespace, labels)
            )
        return known

    def meaning(self, needs: Requirements, before: Meaning | None) -> Meaning:
        """Of the terms of a class, which are followed; `before` where that is still so."""
        if before is not None and before.generation == self.generation:
            return before
        near = needs.pod_affinity
        return Meaning(
            self.generation,
            tuple(self._followed[near].domains(term.topology_key) for term in near),
            self._matches(near, needs.namespace, needs.own_labels),
            tuple(self._followed[(term,)].domains(term.topology_key) for term in needs.pod_anti_affinity),
            tuple(
                (self._followed[(term,)].domains(term.topology_key), weight) for term, weight in needs.pod_preferences
            ),
        )

    def permitted(self, meaning: Meaning | None, keep_off: tuple[Domains, ...]) -> Mask | None:
        """The live rows for a pod of the class that `keep_off` keeps away; None: all."""
        away = keep_off if meaning is None else (*meaning.away, *keep_off)
        taken: Mask | None = None
        for domains in away:
            taken = domains.there() if taken is None else taken | domains.there()
        passed = None if taken is None else ~taken
        if meaning is not None and meaning.near:
            near = self._near(meaning)
            passed = near if passed is None else passed & near
        return passed

    def permits(self, meaning: Meaning | None, keep_off: tuple[Domains, ...]) -> Permits:
        """The same for each rule by itself."""
        live = self._nodes.live
        near = live.copy() if meaning is None or not meaning.near else live & self._near(meaning)
        anti, existing = live.copy(), live.copy()
        for domains in meaning.away if meaning is not None else ():
            anti &= ~domains.there()
        for domains in keep_off:
            existing &= ~domains.there()
        return Permits(near, anti, existing)

    def _near(self, meaning: Meaning) -> Mask:
        if meaning.first and not any(domains.anywhere() for domains in meaning.near):
            masks = [domains.labelled() for domains in meaning.near]
        else:
            masks = [domains.there() for domains in meaning.near]
        found = masks[0]
        for mask in masks[1:]:
            found = found & mask
        return found

    def attraction(self, meaning: Meaning | None, namespace: str, labels: Labels, hard_weight: int) -> Floats | None:
        """The preferences for each row, of a pod of the class and of the pods that run; None: there are none.

        `hard_weight`: what a required affinity term of a pod that runs counts.
        """
        preferred = () if meaning is None else meaning.preferred
        if not (preferred or self._preferring or (self._drawing and hard_weight)):
            return None
        required, drawn = self._drawn(namespace, labels)
        found: Floats | None = None
        weighed = (*preferred, *drawn, *((domains, hard_weight) for domains in required if hard_weight))
        for domains, weight in weighed:
            if domains.anywhere():
                part = domains.sums() * weight
                found = part if found is None else np.add(found, part, out=found)
        return found

    def _drawn(self, namespace: str, labels: Labels) -> tuple[tuple[Domains, ...], Weighed]:
        """The terms of running pods that mean a pod with these labels: required affinity, and preferences."""
        key = namespace, tuple(labels.items())
        known = self._drawn_by.get(key)
        if known is None:
            if len(self._drawn_by) >= MATCHES_MAX:
                self._drawn_by.clear()
            known = self._drawn_by[key] = (
                tuple(
                    self._drawing[term].domains(term.topology_key)
                    for term in self._drawing_to.about(labels)
                    if self._matches((term,), namespace, labels)
                ),
                tuple(
                    (self._preferring[one].domains(one.term.topology_key), one.weight)
                    for one in self._preferring_to.about(labels)
                    if self._matches((one.term,), namespace, labels)
                ),
            )
        return known

    def _counted(self, namespace: str, labels: Labels) -> tuple[Tally, ...]:
        key = namespace, tuple(labels.items())
        known = self._counted_by.get(key)
        if known is None:
            if len(self._counted_by) >= MATCHES_MAX:
                self._counted_by.clear()
            known = self._counted_by[key] = tuple(
                self._followed[terms]
                for terms in self._following.about(labels)
                if self._matches(terms, namespace, labels)
            )
        return known

    def _matches(self, terms: Terms, namespace: str, labels: Labels) -> bool:
        about = self._namespaces.get(namespace, NO_LABELS)
        return all(term.matches(namespace, about, labels) for term in terms)


def asked(needs: Requirements) -> list[Terms]:
    """What must be counted for a class: all affinity terms together, each anti-affinity term and preference alone."""
    if not needs.has_pod_terms:
        return []
    together = [needs.pod_affinity] if needs.pod_affinity else []
    alone = (*needs.pod_anti_affinity, *(term for term, _ in needs.pod_preferences))
    return list(dict.fromkeys([*together, *((term,) for term in alone)]))
