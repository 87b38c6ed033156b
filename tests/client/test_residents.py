"""What was decoded by the hundred is not walked by the collector again, and garbage of before is found all the same."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from raykube.base import collector
from raykube.client.api import decode_events
from raykube.client.residents import AT_ONCE, FEW, Residents
from raykube.pb import api_pb2


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*collector.THRESHOLDS)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


def response(count: int) -> api_pb2.WatchResponse:
    event = api_pb2.Event(type=api_pb2.ADDED, object=b'{"metadata":{"labels":{"a":[]}}}', resource_version=5)
    return api_pb2.WatchResponse(events=[event] * count)


def is_walked(obj: object) -> bool:
    return any(each is obj for each in gc.get_objects())


def test_what_comes_by_the_hundred_is_out_of_sight_at_once() -> None:
    garbage = weakref.ref(Cycle())
    many = decode_events(response(FEW + 1))
    assert not is_walked(many[0].object)
    assert garbage() is None
    assert gc.isenabled()


def test_what_comes_few_by_few_is_when_it_is_enough() -> None:
    residents, kept = Residents(), []
    for _ in range(AT_ONCE // FEW):
        assert not kept or is_walked(kept[-1])
        with residents.arrival(FEW):
            kept.append([object()])
    garbage = weakref.ref(Cycle())
    assert not is_walked(kept[0])
    assert not is_walked(kept[-1])
    residents.settle()
    assert garbage() is None


def test_a_failure_leaves_the_collector_at_work() -> None:
    with pytest.raises(ValueError, match="no object"), Residents().arrival(FEW + 1):
        raise ValueError("no object")
    assert gc.isenabled()


def test_who_does_without_the_collector_goes_on_so() -> None:
    gc.disable()
    try:
        decode_events(response(FEW + 1))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_garbage_of_a_program_that_uses_the_client_is_its_own() -> None:
    gc.set_threshold(700, 10, 10)
    cycle = Cycle()
    garbage = weakref.ref(cycle)
    decode_events(response(FEW + 1))
    for _ in range(AT_ONCE // FEW):
        decode_events(response(FEW))
    del cycle
    gc.collect()
    assert garbage() is None
