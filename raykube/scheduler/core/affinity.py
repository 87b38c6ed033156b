"""Required affinity and anti-affinity between pods (upstream's interpodaffinity filter).

A *term* means the pods that its selector matches in its namespaces, and the domains of its topology key. A node is for
a pod when
    affinity       for each term, a pod that matches all of the terms runs in the node's domain; or no such pod runs
                   anywhere and the pod itself would be one, so that the first of a group finds a place
    anti-affinity  for no term, a pod that matches it runs in the node's domain
    symmetry       the same for the anti-affinity terms of the pods that run already

A *tally* counts, per row, pods that match terms (`followed`: somebody asked) or that carry a term (`carried`). Pods
that terminate count until they are gone: their processes still run.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.requirements import PodTerm, Requirements

Labels = dict[str, str]
Terms = tuple[PodTerm, ...]
MATCHES_MAX = 1000
NO_LABELS: Labels = {}


class Tally:
    """Pods per row."""

    def __init__(self, rows: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.total = 0

    def count(self, row: int, sign: int) -> None:
        if row >= len(self.counts):
            self.counts = np.concatenate((self.counts, np.zeros(row + 1, np.int64)))
        self.counts[row] += sign
        self.total += sign

    def rows(self, capacity: int) -> Mask:
        """The rows with such a pod."""
        found = np.zeros(capacity, bool)
        known = self.counts[:capacity]
        found[: len(known)] = known > 0
        return found


class Permits(NamedTuple):
    """For each of the three rules the rows that it permits."""

    affinity: Mask
    anti_affinity: Mask
    existing: Mask

    @property
    def all(self) -> Mask:
        return self.affinity & self.anti_affinity & self.existing


class PodTerms:
    """The tallies over the pods that run, and what they permit."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._namespaces: dict[str, Labels] = {}
        self._followed: dict[Terms, Tally] = {}
        self._carried: dict[PodTerm, Tally] = {}
        # By namespace and labels, as the pods of a workload have equal ones: who counts them, who keeps them away.
        self._counted_by: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Terms, ...]] = {}
        self._kept_off_by: dict[tuple[str, tuple[tuple[str, str], ...]], Terms] = {}

    # Who runs where

    def place(self, needs: Requirements, labels: Labels, row: int) -> tuple[Terms, ...]:
        """A pod came to a row; what counts it now, for `remove`."""
        for term in needs.pod_anti_affinity:
            if term not in self._carried:
                self._carried[term] = Tally(self._nodes.capacity)
                self._kept_off_by.clear()
            self._carried[term].count(row, 1)
        counted = self._counted(needs.namespace, labels) if self._followed else ()
        for terms in counted:
            self._followed[terms].count(row, 1)
        return counted

    def remove(self, needs: Requirements, row: int, counted: tuple[Terms, ...]) -> None:
        """Such a pod left."""
        for term in needs.pod_anti_affinity:
            tally = self._carried[term]
            tally.count(row, -1)
            if not tally.total:
                del self._carried[term]
                self._kept_off_by.clear()
        for terms in counted:
            self._followed[terms].count(row, -1)

    def unfollowed(self, needs: Requirements) -> list[Terms]:
        """What the class asks for and nobody counts yet."""
        return [terms for terms in asked(needs) if terms not in self._followed]

    def follow(self, terms: Terms, pods: Iterable[tuple[str, Labels, int]]) -> list[bool]:
        """Counts from now on the pods that match all terms; for each of `pods`, which run now, whether it does."""
        tally = self._followed[terms] = Tally(self._nodes.capacity)
        self._counted_by.clear()
        found = []
        for namespace, labels, row in pods:
            matched = self._matches(terms, namespace, labels)
            found.append(matched)
            if matched:
                tally.count(row, 1)
        return found

    def keep(self, used: set[Terms]) -> None:
        """Forgets the other tallies."""
        self._followed = {terms: tally for terms, tally in self._followed.items() if terms in used}
        self._counted_by.clear()

    def still_followed(self, counted: tuple[Terms, ...]) -> tuple[Terms, ...]:
        """What of `counted` still counts."""
        return tuple(terms for terms in counted if terms in self._followed)

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
        self._kept_off_by.clear()
        self._counted_by.clear()
        stale = [terms for terms in self._followed if any(not term.namespace_selector.nothing for term in terms)]
        for terms in stale:
            del self._followed[terms]
        return bool(stale) or any(not term.namespace_selector.nothing for term in self._carried)

    # What that permits

    def keep_off(self, namespace: str, labels: Labels) -> Terms:
        """The terms of running pods that keep a pod with these labels away."""
        if not self._carried:
            return ()
        key = namespace, tuple(labels.items())
        known = self._kept_off_by.get(key)
        if known is None:
            if len(self._kept_off_by) >= MATCHES_MAX:
                self._kept_off_by.clear()
            known = tuple(term for term in self._carried if self._matches((term,), namespace, labels))
            self._kept_off_by[key] = known
        return known

    def permits(self, needs: Requirements, keep_off: Terms) -> Permits:
        """The rows for a pod of the class that `keep_off` keeps away."""
        anti = self._nodes.live.copy()
        for term in needs.pod_anti_affinity:
            anti &= ~self._domains(term.topology_key, self._followed[(term,)])
        existing = self._nodes.live.copy()
        for term in keep_off:
            existing &= ~self._domains(term.topology_key, self._carried[term])
        return Permits(self._near(needs), anti, existing)

    def _near(self, needs: Requirements) -> Mask:
        terms = needs.pod_affinity
        labelled = self._nodes.live.copy()
        if not terms:
            return labelled
        tally = self._followed[terms]
        near = labelled.copy()
        somewhere = False
        for term in terms:
            domains = self._domains(term.topology_key, tally)
            somewhere |= bool(domains.any())
            near &= domains
            labelled &= self._nodes.column(term.topology_key).codes >= 0
        first = not somewhere and self._matches(terms, needs.namespace, needs.own_labels)
        return labelled if first else near

    def _domains(self, topology_key: str, tally: Tally) -> Mask:
        """The rows in a domain where a counted pod runs."""
        nodes = self._nodes
        column = nodes.column(topology_key)
        occupied = np.zeros(len(column.code_of) + 1, bool)
        occupied[column.codes[tally.rows(nodes.capacity) & nodes.live]] = True
        occupied[-1] = False  # rows without the label are in no domain
        found: Mask = occupied[column.codes]
        return found

    def _counted(self, namespace: str, labels: Labels) -> tuple[Terms, ...]:
        key = namespace, tuple(labels.items())
        known = self._counted_by.get(key)
        if known is None:
            if len(self._counted_by) >= MATCHES_MAX:
                self._counted_by.clear()
            known = tuple(terms for terms in self._followed if self._matches(terms, namespace, labels))
            self._counted_by[key] = known
        return known

    def _matches(self, terms: Terms, namespace: str, labels: Labels) -> bool:
        about = self._namespaces.get(namespace, NO_LABELS)
        return all(term.matches(namespace, about, labels) for term in terms)


def asked(needs: Requirements) -> list[Terms]:
    """What must be counted for a class: all affinity terms together, each anti-affinity term alone."""
    alone: list[Terms] = [(term,) for term in needs.pod_anti_affinity]
    return [needs.pod_affinity, *alone] if needs.pod_affinity else alone
