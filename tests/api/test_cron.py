"""Cron schedules against a dumb twin that looks at every minute."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import cron


@pytest.mark.parametrize(
    "schedule", ["* * * * *", "@hourly", "0 0 1,15 * 1-5", "*/10 * * * *", "@every 1h30m", "0 0 ? * SUN"]
)
def test_schedules(schedule: str) -> None:
    assert cron.schedule_problem(schedule) == ""
    assert cron.parse(schedule).next_after(0) is not None


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "@often",
        "a * * * *",
        "5-1 * * * *",
        "*/0 * * * *",
        f"{'9' * 5000} * * * *",
        f"*/{'9' * 5000} * * * *",
        f"0-{'9' * 5000} * * * *",
        "@every 1.2.3s",
        "@every .s",
        "@every 1 h",
        "@every ",
        "@every 99999999999999h",
    ],
)
def test_bad_schedules(schedule: str) -> None:
    assert cron.schedule_problem(schedule)
    with pytest.raises(ValueError, match=r"."):
        cron.parse(schedule)


@pytest.mark.parametrize("name", ["Nowhere/Else", "", "Europe", "../etc/passwd", "/etc/localtime"])
def test_bad_zones(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        cron.zone(name)


def times(schedule: str, zone: str, start: str, count: int) -> list[str]:
    """The next times after a local one, in UTC."""
    moment: float | None = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp()
    found = []
    for _ in range(count):
        assert moment is not None
        moment = cron.parse(schedule, zone).next_after(moment)
        found.append("never" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()[:16])
    return found


def test_local_times_that_are_left_out_are_not_due() -> None:
    """Berlin, 29 March 2026: 02:00 is 03:00."""
    assert times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == ["2026-03-30T00:30", "2026-03-31T00:30"]
    assert times("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", 3) == [
        "2026-03-29T00:00",
        "2026-03-29T01:00",
        "2026-03-29T02:00",
    ]
    assert times("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", 1) == ["2026-03-29T01:00"]


def test_local_times_that_are_repeated_are_due_twice() -> None:
    """Berlin, 25 October 2026: 03:00 is 02:00."""
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 3) == [
        "2026-10-25T00:30",
        "2026-10-25T01:30",
        "2026-10-26T01:30",
    ]
    assert times("30 2 25 10 *", "Europe/Berlin", "2026-10-24T12:00", 3)[1:] == ["2026-10-25T01:30", "2027-10-25T00:30"]


def test_days() -> None:
    assert times("0 0 13 * 5", "UTC", "2026-01-01T00:00", 3) == [  # either
        "2026-01-02T00:00",
        "2026-01-09T00:00",
        "2026-01-13T00:00",
    ]
    assert times("0 0 */15 * 5", "UTC", "2026-01-01T00:00", 3) == [  # every 15th too
        "2026-01-02T00:00",
        "2026-01-09T00:00",
        "2026-01-16T00:00",
    ]
    assert times("5/25 */12 1-31/30 feb *", "UTC", "2026-01-01T00:00", 4) == [
        "2026-02-01T00:05",
        "2026-02-01T00:30",
        "2026-02-01T00:55",
        "2026-02-01T12:05",
    ]
    assert times("0 0 ? * 5", "UTC", "2026-01-03T00:00", 1) == ["2026-01-09T00:00"]
    assert times("0 0 29 2 *", "UTC", "2026-01-01T00:00", 1) == ["2028-02-29T00:00"]
    assert cron.parse("0 0 30 2 *").next_after(0) is None


def test_every_counts_from_where_one_asks() -> None:
    schedule = cron.parse("@every 90s")
    assert schedule.next_after(10.7) == 100.0
    assert schedule.last_within(10.0, 1000.0) == 10.0 + 90 * 11
    assert schedule.last_within(10.0, 99.0) is None
    assert cron.parse("@every 10ms").every_s == 1


FIELDS = {
    0: ["*", "0", "*/20", "7,30-33", "5/25"],
    1: ["*", "2", "1-3", "*/6", "23"],
    2: ["*", "?", "25", "*/2", "29", "1-7"],
    3: ["*", "3", "oct", "3,10"],
    4: ["*", "?", "0", "sun-tue", "*/2"],
}
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
STARTS = [
    datetime(*when, tzinfo=UTC) for when in ((2026, 3, 28, 20), (2026, 10, 24, 20), (2026, 11, 1, 1), (2026, 4, 4))
]


def matches(schedule: str, local: datetime) -> bool:
    """The rules of the module, by themselves."""
    fields = [cron._listed(text, place).split(",") for place, text in enumerate(schedule.split())]
    values = [local.minute, local.hour, local.day, local.month, local.isoweekday() % 7]
    hits = [field == ["*"] or str(value) in field for field, value in zip(fields, values, strict=True)]
    stars = fields[2] == ["*"] or fields[4] == ["*"]
    day = (hits[2] and hits[4]) if stars else (hits[2] or hits[4])
    return hits[0] and hits[1] and hits[3] and day


@given(
    fields=st.tuples(*(st.sampled_from(FIELDS[place]) for place in range(5))),
    zone=st.sampled_from(ZONES),
    start=st.sampled_from(STARTS),
    minutes=st.integers(0, 1500),
)
@settings(max_examples=150, deadline=None)
def test_a_day_minute_by_minute(fields: tuple[str, ...], zone: str, start: datetime, minutes: int) -> None:
    schedule, begin = " ".join(fields), start + timedelta(minutes=minutes)
    expected = [
        moment.timestamp()
        for moment in (begin + timedelta(minutes=number) for number in range(1, 1800))
        if matches(schedule, moment.astimezone(ZoneInfo(zone)))
    ]
    parsed, end = cron.parse(schedule, zone), (begin + timedelta(minutes=1799)).timestamp()
    assert list(parsed.due_within(begin.timestamp(), end)) == expected
    assert parsed.last_within(begin.timestamp(), end) == max(expected, default=None)
