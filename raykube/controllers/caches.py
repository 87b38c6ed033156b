"""One informer for each resource, shared by all controllers: one watch per kind, whatever the number of its readers."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import orjson

from raykube.api.resources import Resource, all_resources
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change, Key, key_of
from raykube.client.core.sharing import Sharing
from raykube.client.informer import Index, Informer
from raykube.controllers.core import aspects, kinds
from raykube.controllers.core.indexes import MADE_OF, indexes_of
from raykube.controllers.core.plan import Obj, Read

log = logging.getLogger(__name__)

TOKEN_VOLUME = "kube-api-access-"  # no controller asks for the pod's own name of it
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
        self._indexes: dict[str, dict[str, Index]] = {}
        self._listeners: dict[str, list[tuple[Listener, int]]] = {}

    def require(self, names: Iterable[str]) -> None:
        """Makes sure that these resources are cached. Before `runs`."""
        for name in names:
            if name not in self._informers:
                resource = self.resources[name]
                # There may be many pods, and most are like others.
                decode = Sharing(drawn=TOKEN_VOLUME) if name == kinds.PODS else orjson.loads
                informer = Informer(self._client, resource, decode=decode)
                functions = indexes_of(name, resource.namespaced)
                self._indexes[name] = {index: Index(function) for index, function in functions.items()}
                informer.add_batch_handler(lambda changes, name=name: self._on_changes(name, changes))  # type: ignore[misc]
                self._informers[name] = informer

    def add_listener(self, listener: Listener, resources: Iterable[str], wanted: int = aspects.ALL) -> None:
        """`listener(resource, changes)` after the caches have taken the changes in.

        Of pods it gets the changes that are `wanted` (see aspects.py); it is called also where that leaves none."""
        for name in resources:
            self._listeners.setdefault(name, []).append((listener, aspects.wanted(wanted)))

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

    def revision_of(self, resource: str) -> int:
        """The store's revision that a resource's cache has seen."""
        return self._informers[resource].resource_version

    def _on_changes(self, name: str, changes: Sequence[Change]) -> None:
        found = [aspects.found(change.old, change.new) for change in changes] if name == kinds.PODS else None
        self._file(name, changes, found)
        chosen: dict[int, Sequence[Change]] = {}
        for listener, wanted in self._listeners.get(name, ()):
            part = changes if found is None else chosen.get(wanted)
            if part is None:
                part = chosen[wanted] = _concerned(changes, found or (), wanted)
            listener(name, part)

    def _file(self, name: str, changes: Sequence[Change], found: Sequence[int] | None) -> None:
        parts: dict[int, list[tuple[Key, Obj | None]]] = {}
        for title, index in self._indexes[name].items():
            made_of = MADE_OF[title] if found is not None else aspects.ALL
            part = parts.get(made_of)
            if part is None:
                some = changes if found is None else _concerned(changes, found, made_of)
                part = parts[made_of] = [(key_of(change.object), change.new) for change in some]
            for key, new in part:
                index.set(key, new)

    # -- View

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        return self._informers[resource].get(namespace, name)

    def list(self, resource: str) -> Iterable[Obj]:
        return self._informers[resource].list()

    def by_index(self, resource: str, index: str, value: str) -> Sequence[Obj]:
        get = self._informers[resource].get
        found = [get(*key) for key in self._indexes[resource][index].keys.get(value, ())]
        return [obj for obj in found if obj is not None]

    def answer(self, read: Read) -> Sequence[Obj] | None:
        return None

    @property
    def error(self) -> str:
        return ""


def _concerned(changes: Sequence[Change], found: Sequence[int], wanted: int) -> Sequence[Change]:
    """Those of the changes that are wanted. What arrives together is mostly of a kind or two."""
    kinds_found = set(found)
    meant = {each for each in kinds_found if aspects.concerns(each, wanted)}
    if len(meant) == len(kinds_found):
        return changes
    return [change for change, each in zip(changes, found, strict=True) if each in meant] if meant else ()


class RunView:
    """The caches, with what one reconcile of one key additionally knows."""

    def __init__(self, caches: Caches, error: str, answers: dict[Read, Objects]) -> None:
        self._caches = caches
        self.error = error
        self._answers = answers
        self.get = caches.get
        self.by_index = caches.by_index
        self.revision_of = caches.revision_of

    def list(self, resource: str) -> Iterable[Obj]:
        return self._caches.list(resource)

    def answer(self, read: Read) -> Sequence[Obj] | None:
        return self._answers.get(read)
