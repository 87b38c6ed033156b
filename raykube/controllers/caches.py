"""One informer for each resource, shared by all controllers: one watch per kind, whatever the number of its readers."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from raykube.api.resources import Resource, all_resources
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change
from raykube.client.informer import Informer
from raykube.controllers.core.indexes import indexes_of
from raykube.controllers.core.plan import Obj, Read

log = logging.getLogger(__name__)

Listener = Callable[[str, Sequence[Change]], None]
Objects = list[Obj]  # inside Caches the name `list` is the method


def resource_table() -> dict[str, Resource]:
    """Every stored resource by its qualified plural, each in one version: the first in the order of discovery."""
    table: dict[str, Resource] = {}
    for resource in all_resources():
        if resource.stored and resource.view_of is None:
            table.setdefault(resource.qualified, resource)
    return table


class Caches:
    """The informers, made on demand; `core.plan.View` without a reconcile's own answers."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.resources = resource_table()
        self._informers: dict[str, Informer] = {}
        self._listeners: list[Listener] = []

    def require(self, names: Iterable[str]) -> None:
        """Makes sure that these resources are cached. Before `runs`."""
        for name in names:
            if name not in self._informers:
                resource = self.resources[name]
                informer = Informer(self._client, resource)
                for index, function in indexes_of(name, resource.namespaced).items():
                    informer.add_index(index, function)
                informer.add_batch_handler(lambda changes, name=name: self._on_changes(name, changes))  # type: ignore[misc]
                self._informers[name] = informer

    def add_listener(self, listener: Listener) -> None:
        """`listener(resource, changes)` after the caches have taken the changes in."""
        self._listeners.append(listener)

    def runs(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run for the caches to follow the cluster."""
        return [informer.run() for informer in self._informers.values()]

    async def synced(self, names: Iterable[str]) -> None:
        """Returns once the caches of these resources are complete."""
        await asyncio.gather(*(self._informers[name].synced() for name in names if name in self._informers))

    @property
    def unsynced(self) -> list[str]:
        """The resources that have not been read yet."""
        return [name for name, informer in self._informers.items() if not informer.has_synced]

    def revision(self, resource: str) -> int | None:
        """The store revision that a resource's cache has seen; None when it is not cached."""
        informer = self._informers.get(resource)
        return informer.resource_version if informer is not None else None

    def _on_changes(self, name: str, changes: Sequence[Change]) -> None:
        for listener in self._listeners:
            listener(name, changes)

    # -- View

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        return self._informers[resource].get(namespace, name)

    def list(self, resource: str) -> Iterable[Obj]:
        return self._informers[resource].list()

    def by_index(self, resource: str, index: str, value: str) -> Sequence[Obj]:
        return self._informers[resource].by_index(index, value)

    def answer(self, read: Read) -> Sequence[Obj] | None:
        return None

    @property
    def error(self) -> str:
        return ""


class RunView:
    """The caches, with what one reconcile of one key additionally knows."""

    def __init__(self, caches: Caches, error: str, answers: dict[Read, Objects]) -> None:
        self._caches = caches
        self.error = error
        self._answers = answers
        self.get = caches.get
        self.by_index = caches.by_index

    def list(self, resource: str) -> Iterable[Obj]:
        return self._caches.list(resource)

    def answer(self, read: Read) -> Sequence[Obj] | None:
        return self._answers.get(read)
