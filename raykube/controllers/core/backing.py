"""The pods behind one Service, kept up to date by what changes.

What is remembered of a pod is its **entry**, made by the controller that asks; pods without an address, or that have
ended, have none. All is made anew when the Service has changed.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from raykube.controllers.core import backends, claims, kinds, pods
from raykube.controllers.core.keeper import Keeper
from raykube.controllers.core.patches import uid_of, version_of
from raykube.controllers.core.plan import Obj, View

E = TypeVar("E")


class Backing(Keeper, Generic[E]):
    """See the module's docstring. `make(view, service, pod)`: the entry; None of a pod that does not count."""

    def __init__(self, view: View, service: Obj, make: Callable[[View, Obj, Obj], E | None]) -> None:
        self.service = service
        self.entries: dict[str, E] = {}
        self._make = make
        self._namespace = str(service["metadata"].get("namespace", ""))
        self._selector = backends.selector_of(service)
        found = claims.selected(view, kinds.PODS, self._namespace, {"matchLabels": self._selector})
        super().__init__(sorted(str(pod["metadata"]["name"]) for pod in found))

    def is_for(self, service: Obj) -> bool:
        """Whether the entries were made for this state of the Service."""
        mine = self.service
        return mine is service or (uid_of(mine), version_of(mine)) == (uid_of(service), version_of(service))

    def refresh(self, view: View) -> Iterator[tuple[str, E | None, E | None]]:
        """Looks at the marked pods: (name, entry before, entry now) of those whose entry is another one."""
        for name in self._take():
            pod = view.get(kinds.PODS, self._namespace, name)
            entry = self._make(view, self.service, pod) if pod is not None and self._has(pod) else None
            before = self.entries.pop(name, None)
            if entry is not None:
                self.entries[name] = entry
            if before != entry:
                yield name, before, entry

    def _has(self, pod: Obj) -> bool:
        labels = claims.labels_of(pod)
        return not pods.is_terminal(pod) and all(labels.get(key) == value for key, value in self._selector.items())
