"""The pods that one PodDisruptionBudget selects, kept up to date by what changes.

What is remembered of a pod is its controller and whether it is healthy.
"""

from typing import NamedTuple

from raykube.api.selectors import LabelSelector
from raykube.controllers.core import claims, kinds, pods
from raykube.controllers.core.indexes import controller_uid
from raykube.controllers.core.keeper import Keeper
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj, View


class Member(NamedTuple):
    """One pod as it was when it was looked at."""

    controller: str  # its uid; "": nobody controls the pod
    healthy: bool


class Guarded(Keeper):
    """See the module's docstring. `refresh` before anything is read."""

    def __init__(self, view: View, budget: Obj) -> None:
        self.members: dict[str, Member] = {}
        self.healthy = 0
        self._of: dict[str, dict[str, None]] = {}  # controller → names
        self._budget = _basis(budget)
        self._namespace = str(budget["metadata"].get("namespace", ""))
        _, selector = self._budget
        self._selector = LabelSelector.from_object(selector)
        found = [] if selector is None else claims.selected(view, kinds.PODS, self._namespace, selector)
        super().__init__(pod["metadata"]["name"] for pod in found)

    def is_for(self, budget: Obj) -> bool:
        """Whether the budget still selects what it did."""
        return _basis(budget) == self._budget

    def selects(self, pod: Obj) -> bool:
        return self._selector.matches(claims.labels_of(pod))

    def refresh(self, view: View) -> None:
        """Looks at the marked pods."""
        for name in self._take():
            pod = view.get(kinds.PODS, self._namespace, name)
            self._forget(name)
            if pod is not None and self.selects(pod):
                self._remember(name, pod)

    def examples(self) -> dict[str, str]:
        """The name of one pod of each controller, by the controller's uid; of all that nobody controls, by ""."""
        return {controller: next(iter(names)) for controller, names in self._of.items()}

    def _forget(self, name: str) -> None:
        member = self.members.pop(name, None)
        if member is None:
            return
        self.healthy -= member.healthy
        names = self._of[member.controller]
        del names[name]
        if not names:
            del self._of[member.controller]

    def _remember(self, name: str, pod: Obj) -> None:
        member = Member(controller_uid(pod), pods.is_ready(pod) and not pods.is_terminating(pod))
        self.members[name] = member
        self.healthy += member.healthy
        self._of.setdefault(member.controller, {})[name] = None


def _basis(budget: Obj) -> tuple[str, Obj | None]:
    return uid_of(budget), (budget.get("spec") or {}).get("selector")
