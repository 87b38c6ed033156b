"""A local copy of one kind, kept current by a watch, with handlers and indexes.

    informer = Informer(client, pods, field_selector="spec.nodeName=")
    informer.add_handler(on_pod)              # on_pod("MODIFIED", old, new), in order, in the event loop
    informer.add_index("node", lambda pod: [pod["spec"].get("nodeName", "")])
    task = asyncio.create_task(informer.run())
    await informer.synced()

Guarantees are `core.listwatch`'s: state + live events without a gap, resumed on another apiserver after a break,
replaced atomically after 410 Gone, never back in time. Handlers see every change once and in order; batch handlers get
what arrived together in one call, but the first state, of perhaps 100,000 objects, in pieces with turns of the event
loop between them: until `synced`, `get` and `list` have objects that indexes and handlers do not know yet. Handlers
must not await; one that raises is logged and does not stop the others. Objects are shared: nobody may change them (copy
first).
"""

import asyncio
import inspect
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from sys import intern

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.base.backoff import Backoff
from raykube.client.api import ApiClient, Decode, Events
from raykube.client.core.listwatch import Change, Key, ListWatch, Machine, Object, Stale, key_of

log = logging.getLogger(__name__)

RETRY = Backoff(initial_s=0.1, max_s=10.0)
FIRST_AT_ONCE = 500  # objects of the first state that handlers are told of in a turn of the loop

Objects = list[Object]  # aliases: inside Informer the name `list` is the method
Changes = list[Change]
Handler = Callable[[str, Object | None, Object | None], None]
BatchHandler = Callable[[list[Change]], None]
IndexFunction = Callable[[Object], Iterable[str]]


class Index:
    """Keys by the values that a function finds in each object."""

    def __init__(self, function: IndexFunction) -> None:
        self.function = function
        self.keys: dict[str, dict[Key, None]] = {}  # insertion-ordered sets: answers come in a stable order
        self._values: dict[Key, tuple[str, ...]] = {}

    def set(self, key: Key, obj: Object | None) -> None:
        values = tuple(map(intern, self.function(obj))) if obj is not None else ()  # one text for all that have it
        old = self._values.get(key, ())
        if values == old:
            return
        for value in old:
            keys = self.keys.get(value)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self.keys[value]
        for value in values:
            self.keys.setdefault(value, {})[key] = None
        if values:
            self._values[key] = values
        else:
            self._values.pop(key, None)


class Informer:
    """The copy of one resource (of one namespace or selection). `run` until cancelled."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        nodes: Sequence[str] = (),
        decode: Decode = orjson.loads,
        machine: Machine | None = None,
    ) -> None:
        """`nodes` and `decode`: as `ApiClient.watch` has them. `machine`: what keeps the copy, in place of ours."""
        self.client = client
        self.resource = resource
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._nodes = nodes
        self._decode = decode
        self._machine: Machine = machine if machine is not None else ListWatch()
        self._handlers: list[Handler] = []
        self._batch_handlers: list[BatchHandler] = []
        self._indexes: dict[str, Index] = {}
        self._untold: deque[Change] = deque()  # what handlers do not know yet of the first state
        self._synced = asyncio.Event()

    # What readers use

    @property
    def resource_version(self) -> int:
        """The store revision that the copy is at."""
        return self._machine.resource_version

    @property
    def has_synced(self) -> bool:
        return self._synced.is_set()

    async def synced(self) -> None:
        """Returns once the copy is complete for the first time, and the handlers have seen it."""
        await self._synced.wait()

    def get(self, namespace: str, name: str) -> Object | None:
        return self._machine.objects.get((namespace, name))

    def list(self) -> Objects:
        return list(self._machine.objects.values())

    def __len__(self) -> int:
        return len(self._machine.objects)

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Indexes objects by the values that `function(obj)` yields; several informer users may share one by name."""
        if name in self._indexes:
            return
        index = self._indexes[name] = Index(function)
        for key, obj in self._machine.objects.items():
            index.set(key, obj)

    def by_index(self, name: str, value: str) -> Objects:
        objects = self._machine.objects
        return [objects[key] for key in self._indexes[name].keys.get(value, ())]

    def add_handler(self, handler: Handler) -> None:
        """`handler(type, old, new)` for every change; one added late first gets ADDED for what the others know."""
        for obj in self._told():
            handler("ADDED", None, obj)
        self._handlers.append(handler)

    def add_batch_handler(self, handler: BatchHandler) -> None:
        """`handler(changes)` for what arrived together: cheaper where thousands come at once."""
        if told := self._told():
            handler([Change("ADDED", None, obj) for obj in told])
        self._batch_handlers.append(handler)

    def _told(self) -> Objects:
        """The objects that handlers know of."""
        untold = {key_of(change.object) for change in self._untold}
        return [obj for key, obj in self._machine.objects.items() if key not in untold]

    # The shell

    async def run(self, *, refusals: frozenset[int] = frozenset()) -> None:
        """Follows the resource until cancelled; survives every failure of the apiservers.

        Raises an ApiError whose code is in `refusals`.
        """
        failures = 0
        if self._untold:
            await self._tell_first()
        while True:
            try:
                if await self._follow():
                    failures = 0
                pause_s = 0.0
            except Stale as error:
                log.info("%s: an apiserver lags behind, asking another: %s", self.resource.plural, error)
                pause_s = 0.2
            except ApiError as error:
                if error.code in refusals:
                    raise
                if error.code == 410:
                    log.info("%s: relisting: %s", self.resource.plural, error)
                    self._machine.on_expired()
                failures += 1
                pause_s = 0.0 if error.code == 410 and failures == 1 else RETRY.delay_s(failures)
                log.log(
                    logging.DEBUG if failures < 3 else logging.WARNING,
                    "%s: watch broke (%d in a row): %s",
                    self.resource.plural,
                    failures,
                    error,
                )
            # Many informers lose the same apiserver at once: spread their return.
            await asyncio.sleep(max(0.01, pause_s * random.uniform(0.7, 1.3)))

    async def _follow(self) -> bool:
        """One watch; whether it brought anything. The stream's end is not an error: the server closes old ones."""
        request = self._machine.request()
        stream = self.client.watch(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            resource_version=request.resource_version,
            send_initial_events=request.send_initial_events,
            nodes=self._nodes,
            decode=self._decode,
        )
        progress = False
        try:
            async for batch in stream:
                progress = True
                if not self._machine.synced:
                    first, batch = _first_state(batch)
                    self._untold += self._machine.on_events(first)
                    if self._machine.synced:
                        await self._tell_first()
                self._dispatch(self._machine.on_events(batch))
        finally:
            if inspect.isasyncgen(stream):
                await stream.aclose()
        return progress

    async def _tell_first(self) -> None:
        """Tells handlers the rest of the first state: a `run` that was cancelled may have told them a part."""
        while self._untold:
            self._dispatch([self._untold.popleft() for _ in range(min(FIRST_AT_ONCE, len(self._untold)))])
            if self._untold:
                await asyncio.sleep(0)
        self._synced.set()

    def _dispatch(self, changes: Changes) -> None:
        if not changes:
            return
        if self._indexes:
            keys = [key_of(change.object) for change in changes]  # one text for all indexes
            for index in self._indexes.values():
                for key, change in zip(keys, changes, strict=True):
                    index.set(key, change.new)
        for batch_handler in self._batch_handlers:
            try:
                batch_handler(changes)
            except Exception:
                log.exception("a handler of %s failed", self.resource.plural)
        for handler in self._handlers:
            for change in changes:
                try:
                    handler(*change)
                except Exception:
                    log.exception("a handler of %s failed", self.resource.plural)


def _first_state(batch: Events) -> tuple[Events, Events]:
    """What of a batch belongs to the first state, and what became of it since."""
    ends = next((number for number, event in enumerate(batch, 1) if event.initial_events_end), len(batch))
    return batch[:ends], batch[ends:]
