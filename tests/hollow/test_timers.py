"""The heap of timers, the pool of addresses and templates, beside dumb twins."""

from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from raykube.hollow.core.addresses import AddressPool, text
from raykube.hollow.core.beats import Beats
from raykube.hollow.core.template import Template, hole, number
from raykube.hollow.core.timers import GRID_S, Timers


class Item:
    def __init__(self) -> None:
        self.timer = 0


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "pass"]), st.integers(0, 4), st.integers(0, 50))))
def test_items_are_due_once_at_their_last_time(steps: list[tuple[str, int, int]]) -> None:
    timers, items = Timers(), [Item() for _ in range(5)]
    wanted: dict[int, float] = {}
    now = 0.0
    for step, index, ticks in steps:
        if step == "set":
            timers.set(items[index], now + ticks * GRID_S)
            wanted[index] = now + ticks * GRID_S
        elif step == "cancel":
            timers.cancel(items[index])
            wanted.pop(index, None)
        else:
            now += ticks * GRID_S
            late = {index for index, at in wanted.items() if at <= now - GRID_S}
            early = {index for index, at in wanted.items() if at <= now}
            found = {items.index(item) for item in timers.due(now)}  # type: ignore[arg-type]
            assert late <= found <= early
            for index in found:
                del wanted[index]
        assert len(timers) == len(wanted)
        assert (timers.next() is None) == (not wanted)


def test_timers_that_moved_do_not_pile_up() -> None:
    timers, item = Timers(), Item()
    for number_ in range(100_000):
        timers.set(item, 1e6 + number_)
    assert len(timers._heap) < 5000


@given(st.lists(st.one_of(st.none(), st.integers(0, 20))))
def test_addresses_are_taken_once(steps: list[int | None]) -> None:
    pool = AddressPool("10.0.0.0/28")
    taken: list[int] = []
    for step in steps:
        if step is None:
            address = pool.take()
            assert (address == 0) == (len(taken) == 14)
            if address:
                assert address not in taken
                taken.append(address)
        elif taken:
            pool.give_back(taken.pop(step % len(taken)))


def test_an_address_that_a_pod_has_is_not_given_to_another() -> None:
    pool = AddressPool("10.0.0.0/30")
    assert text(pool.keep("10.0.0.1")) == b"10.0.0.1"
    assert text(pool.take()) == b"10.0.0.2"
    assert pool.take() == 0
    pool.give_back(pool.keep("192.168.0.1"))  # of another range: never ours to give
    assert pool.take() == 0
    assert pool.keep("no address") == 0


@given(st.dictionaries(st.text("abc%", min_size=1), st.one_of(st.text(), st.integers(0, 99)), max_size=4))
def test_a_template_is_the_json_of_the_values(fields: dict[str, Any]) -> None:
    template = Template({**fields, "text": f"<{hole('x')}>", "count": number("n"), "list": [hole("x"), hole("y")]})
    found = orjson.loads(template.render({b"x": b"one", b"y": b"two", b"n": b"42"}))
    assert found == {**fields, "text": "<one>", "count": 42, "list": ["one", "two"]}


def test_every_machine_is_renewed_once_a_period_and_reports_once_in_many() -> None:
    timers = Timers()
    beats = Beats(10.0, 300.0, timers)
    names = [f"n{number}" for number in range(97)]
    for index, name in enumerate(names):
        beats.add(name, index)
    beats.begin(0.0)
    renewed: list[tuple[float, str]] = []
    reported = []
    while (due := timers.next()) is not None and due < 600.0:
        for beat in timers.due(due):
            found, report = beats.on_timer(beat, due)  # type: ignore[arg-type]
            renewed += [(due, name) for name in found]
            reported += list(found) if report else []
    for name in names:
        times = [at for at, renewed_name in renewed if renewed_name == name]
        assert len(times) == 60 and max(b - a for a, b in pairwise(times)) < 10.5
        assert reported.count(name) == 2
    assert len({at for at, _ in renewed}) > 2000  # spread over time


def test_a_beat_that_goes_on_is_not_begun_again() -> None:
    timers = Timers()
    beats = Beats(0.25, 300.0, timers)
    beats.add("n", 0)
    beats.begin(0.0)
    (beat,) = timers.due(0.0)
    beat.busy = True  # type: ignore[attr-defined]
    assert beats.on_timer(beat, 0.0) == ((), False)  # type: ignore[arg-type]
    assert timers.next() is not None
