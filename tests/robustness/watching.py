"""Watchers while the store is harmed, and what a watch promises, held against the history.

A watcher keeps to etcd's Watch stream at one member until that breaks, and goes on at another from the revision after
the last that it knows of. What etcd promises of a watch (and tests of its own under the same names):

- ordered, unique: events come in order of revision, each once;
- atomic: the events of one revision come in one answer, or in its fragments;
- reliable: between the first and the last event none is missing;
- resumable: a watch from a revision tells all since then, also what was before it was made;
- bookmarkable: a sign of progress with a revision says that everything up to it was told;
- prev-kv, is-create: what an event says of the state before is what was;
- filtered: nothing comes that was not asked for, all comes that was.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from raykube.pb import etcd_pb2, mvcc_pb2
from raykube.rpc import RpcError
from raykube.rpc.channel import Channel
from tests.robustness.history import event_place
from tests.robustness.members import Members
from tests.robustness.truth import Truth

WATCH = etcd_pb2.DESCRIPTOR.services_by_name["Watch"]
NOPUT = etcd_pb2.WatchCreateRequest.NOPUT
NODELETE = etcd_pb2.WatchCreateRequest.NODELETE
PUT = mvcc_pb2.Event.PUT
RETRY_S = 0.1
SILENCE_S = 3.0  # a member that is paused or cut off says nothing: leave it


@dataclass
class Session:
    """One watch at one member, as it was asked for and answered."""

    member: str
    request: etcd_pb2.WatchCreateRequest
    since: int = 0  # every event from this revision on was promised
    until: int = 0  # every event up to this revision was promised
    answers: list[tuple[mvcc_pb2.Event, ...]] = field(default_factory=list)
    bookmarks: list[tuple[int, int]] = field(default_factory=list)  # answers before it, revision
    is_open: bool = True

    def forget(self, until: int) -> None:
        """Drops what was told up to a revision."""
        count = sum(answer[-1].kv.mod_revision <= until for answer in self.answers)
        self.since = max(self.since, until + 1)
        self.answers = self.answers[count:]
        self.bookmarks = [(before - count, revision) for before, revision in self.bookmarks if before > count]

    @property
    def next_revision(self) -> int:
        last = self.answers[-1][-1].kv.mod_revision if self.answers else 0
        return max(self.since, self.until + 1, last + 1)


class Watcher:
    """Watches one range with one set of options as long as it lives."""

    def __init__(self, members: Members, rng: random.Random, first: bytes, end: bytes, start_revision: int) -> None:
        self.sessions: list[Session] = []
        self._members = members
        self._rng = rng
        self._filters = rng.choice([[], [], [NOPUT], [NODELETE]])
        self._range = (first, end)
        self._has_previous = rng.random() < 0.5
        self._start_revision = start_revision
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for number in itertools.count(self._rng.randrange(len(self._members.names))):
            name = self._members.names[number % len(self._members.names)]
            channel = Channel(self._members.network.client_address(name))
            try:
                await self._watch(name, channel)
            except (RpcError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            finally:
                await channel.close()

    async def _watch(self, name: str, channel: Channel) -> None:
        first, end = self._range
        create = etcd_pb2.WatchCreateRequest(
            key=first, range_end=end, start_revision=self._start_revision, progress_notify=True,
            filters=self._filters, prev_kv=self._has_previous, fragment=self._rng.random() < 0.5,
        )  # fmt: skip
        session = Session(name, create, self._start_revision)
        fragments: list[mvcc_pb2.Event] = []
        responses = channel.stub(WATCH).Watch(_create_and_ask(create))
        async with contextlib.aclosing(responses):
            async with asyncio.timeout(SILENCE_S):
                created = await anext(responses)
            assert created.created and not created.canceled, f"{name}: {create} was answered {created}"
            session.since = self._start_revision or created.header.revision + 1
            self.sessions.append(session)
            while True:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        response = await anext(responses)
                except StopAsyncIteration:
                    session.is_open = False
                    return
                except BaseException:
                    session.is_open = False
                    raise
                assert not response.canceled, f"{name} cancelled {create}: {response}"
                fragments += response.events
                if response.fragment:
                    continue
                if fragments:
                    session.answers.append(tuple(fragments))
                    fragments = []
                else:
                    session.bookmarks.append((len(session.answers), response.header.revision))
                    session.until = max(session.until, response.header.revision)
                self._start_revision = session.next_revision

    def check_alive(self) -> None:
        if self._task.done():
            self._task.result()

    async def reach(self, revision: int) -> None:
        """Returns when it was told everything up to a revision."""
        while self._start_revision <= revision:
            self.check_alive()
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def forget(self, until: int) -> None:
        """Drops what was told up to a revision; the watch goes on."""
        self.sessions = [session for session in self.sessions[-1:] if session.is_open]
        for session in self.sessions:
            session.forget(until)

    def check(self, truth: Truth) -> int:
        """Holds what was told against the history; returns the number of events."""
        return sum(check_session(session, truth) for session in self.sessions)


async def _create_and_ask(create: etcd_pb2.WatchCreateRequest) -> AsyncIterator[Any]:
    """Makes the watch, and asks for a sign of progress now and then."""
    yield etcd_pb2.WatchRequest(create_request=create)
    while True:
        await asyncio.sleep(0.5)
        yield etcd_pb2.WatchRequest(progress_request=etcd_pb2.WatchProgressRequest())


def check_session(session: Session, truth: Truth) -> int:
    """Raises AssertionError when a promise was broken, as far as the history goes. Returns the number of events."""
    answers = [answer for answer in session.answers if answer[-1].kv.mod_revision <= truth.last]
    events = list(itertools.chain.from_iterable(answers))
    where = f"a watch at {session.member} from {session.since} ({session.request})"
    for answer, following in itertools.pairwise(answers):
        assert answer[-1].kv.mod_revision < following[0].kv.mod_revision, f"not atomic or not ordered: {where}"
    # What was promised: from `since` to the last event or sign of progress.
    last = min(truth.last, max(session.until, events[-1].kv.mod_revision if events else 0))
    expected = [event for event in truth.between(session.since, last) if _is_asked_for(session.request, event)]
    told = [event_place(event) for event in events]
    assert told == [event_place(event) for event in expected], (
        f"{where} until {last}: told {_difference(told, [event_place(event) for event in expected])}"
    )
    for event, true in zip(events, expected, strict=True):
        assert (event.type, event.kv) == (true.type, true.kv), f"{where}: {event}, not {true}"
        before = truth.at(event.kv.key, event.kv.mod_revision - 1) if session.request.prev_kv else None
        assert event.HasField("prev_kv") == (before is not None), f"{where}: {event}, before it: {before}"
        assert before is None or event.prev_kv == before, f"{where}: {event}, before it: {before}"
    for count, revision in session.bookmarks:
        told_then = session.answers[count - 1][-1].kv.mod_revision if count else 0
        assert told_then <= revision, f"progress {revision} behind an event at {told_then}: {where}"
        if count < len(session.answers):
            first_after = session.answers[count][0].kv.mod_revision
            assert first_after > revision, f"progress {revision}, then an event at {first_after}: {where}"
    return len(events)


def _is_asked_for(request: etcd_pb2.WatchCreateRequest, event: mvcc_pb2.Event) -> bool:
    return (
        request.key <= event.kv.key < request.range_end
        and (NOPUT if event.type == PUT else NODELETE) not in request.filters
    )


def _difference(told: list[tuple[int, bytes]], expected: list[tuple[int, bytes]]) -> str:
    place = next(
        (place for place, (one, other) in enumerate(zip(told, expected, strict=False)) if one != other),
        min(len(told), len(expected)),
    )
    one, other = told[place : place + 2], expected[place : place + 2]
    return f"{len(told)} of {len(expected)}, {one} where the history has {other}"
