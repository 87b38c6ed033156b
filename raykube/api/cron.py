"""Cron schedules as CronJobs have them: what is wrong with one, and when it is due.

    ┌ minute ┌ hour ┌ day of the month ┌ month ┌ day of the week          or @hourly, @daily, … @every 1h30m
    30       6      1,15               *       mon-fri

Rules, which are robfig/cron's, whose schedules Kubernetes documents:
- Where neither of the two days is `*` or `?`, either may match; else both have to.
- A local time that a clock change leaves out is not due; one that it repeats is due twice.
- `@every` counts from where one asks, in whole seconds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from raykube.base.duration import parse_duration

DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
EVERY = "@every "
_PART = re.compile(r"(?:\*|\?|[A-Za-z]{3}|[0-9]+)(?:-(?:[A-Za-z]{3}|[0-9]+))?(?:/[0-9]+)?")
_DIGITS_MAX = 18  # of a number; more are none, as for robfig/cron, whose numbers have 64 bits
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES = {
    3: {
        name: n
        for n, name in enumerate(
            ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
        )
    },
    4: {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])},
}
_DAYS = (2, 4)  # the places of the day of the month and of the week
_DAY_S = 86_400  # clocks change less often
# Where the last time that was due is looked for, from the nearest on: frequent schedules have it near.
_SPANS_S = (3600.0, 86_400.0, 32 * 86_400.0, 366 * 86_400.0)


def schedule_problem(schedule: str) -> str:
    """What is wrong with a cron schedule, "" if nothing."""
    if schedule.startswith("@"):
        if schedule in DESCRIPTORS:
            return ""
        if not schedule.startswith(EVERY):
            return f"unrecognized descriptor: {schedule}"
        try:
            _every_s(schedule)
        except ValueError as error:
            return f"failed to parse duration {schedule}: {error}"
        return ""
    fields = schedule.split()
    if len(fields) != 5:
        return f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
    for place, text in enumerate(fields):
        low, high = _RANGES[place]
        for part in text.split(","):
            if not _PART.fullmatch(part):
                return f"failed to parse int from {part}"
            span, _, step = part.partition("/")
            if len(step) > _DIGITS_MAX:
                return f"failed to parse int from {part}"
            if step and int(step) == 0:
                return f"step of range should be a positive number: {part}"
            ends = [] if span in ("*", "?") else [_number(end, place) for end in span.split("-")]
            if any(end is None for end in ends):
                return f"failed to parse int from {part}"
            numbers = [end for end in ends if end is not None]
            if any(number < low for number in numbers):
                return f"beginning of range ({min(numbers)}) below minimum ({low}): {part}"
            if any(number > high for number in numbers):
                return f"end of range ({max(numbers)}) above maximum ({high}): {part}"
            if len(numbers) == 2 and numbers[0] > numbers[1]:
                return f"beginning of range ({numbers[0]}) beyond end of range ({numbers[1]}): {part}"
    return ""


def _number(text: str, place: int) -> int | None:
    if text.isdigit():
        return int(text) if len(text) <= _DIGITS_MAX else None
    return _NAMES.get(place, {}).get(text.lower())


def _every_s(schedule: str) -> int:
    """The seconds of an `@every`, at least one. Raises ValueError."""
    return max(int(parse_duration(schedule.removeprefix(EVERY))), 1)


def zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder of the database
        raise ValueError(f"unknown time zone {name}") from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """When something is due. Times are seconds since the epoch."""

    zone: ZoneInfo
    fields: str = ""  # for cronsim: lists of numbers, and `*` where it says something
    every_s: int = 0  # instead of fields

    def next_after(self, moment: float) -> float | None:
        """The first time after `moment`; None when there never is one."""
        at = int(moment)
        if self.every_s:
            return float(at + self.every_s)
        offset = self._offset(at)
        while True:
            found = self._next_local(_naive(at) + offset)
            if found is None:
                return None
            due = int((found - offset).replace(tzinfo=UTC).timestamp())
            change = self._first_change(at, due, offset)
            if change is None:
                return float(due)
            at, offset = change - 1, self._offset(change)  # go on from the first second of the changed clock

    def due_within(self, after: float, until: float) -> Iterator[float]:
        """All times after `after`, up to and with `until`."""
        moment = self.next_after(after)
        while moment is not None and moment <= until:
            yield moment
            moment = self.next_after(moment)

    def last_within(self, after: float, until: float) -> float | None:
        """The latest time after `after`, up to and with `until`."""
        if self.every_s:
            first = self.next_after(after)
            if first is None or first > until:
                return None
            return first + (until - first) // self.every_s * self.every_s
        for span in _SPANS_S:
            if until - span > after:
                found = max(self.due_within(until - span, until), default=None)
                if found is not None:
                    return found
        return max(self.due_within(after, until), default=None)

    def _offset(self, at: int) -> timedelta:
        return datetime.fromtimestamp(at, self.zone).utcoffset() or timedelta()

    def _next_local(self, local: datetime) -> datetime | None:
        try:
            return next(CronSim(self.fields, local), None)
        except CronSimError:  # a day that no month has
            return None

    def _first_change(self, after: int, until: int, offset: timedelta) -> int | None:
        """The first second after `after`, up to and with `until`, at which the clock is not at `offset`."""
        while after < until:
            reached = min(after + _DAY_S, until)
            if self._offset(reached) != offset:
                while reached - after > 1:
                    middle = (after + reached) // 2
                    after, reached = (middle, reached) if self._offset(middle) == offset else (after, middle)
                return reached
            after = reached
        return None


@lru_cache(maxsize=1024)
def parse(schedule: str, time_zone: str = "UTC") -> Schedule:
    """A Schedule in a time zone. Raises ValueError."""
    found, problem = zone(time_zone), schedule_problem(schedule)
    if problem:
        raise ValueError(problem)
    if schedule.startswith(EVERY):
        return Schedule(found, every_s=_every_s(schedule))
    fields = DESCRIPTORS.get(schedule, schedule).split()
    return Schedule(found, " ".join(_listed(text, place) for place, text in enumerate(fields)))


def _listed(text: str, place: int) -> str:
    """A field as cronsim takes it for the same: a list of numbers, or `*` for a day that says nothing."""
    low, high = _RANGES[place]
    numbers: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in ("*", "?"):
            if place in _DAYS and int(step or 1) == 1:
                return "*"
            first, last = low, high
        else:
            start, _, end = span.partition("-")
            first = _number(start, place) or 0
            last = (_number(end, place) or 0) if end else (high if step else first)
        numbers.update(range(first, last + 1, int(step or 1)))
    return ",".join(map(str, sorted(numbers)))


def _naive(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
