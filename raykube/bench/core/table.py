"""A table of measurements: a small file that names rows, and the lines that their reports become.

    about: one machine, minutes                   one line, for the list
    rows:
    - name: bound-1000                            also the name of the row's file
      scenario: schedule                          a name, or a file of that form
      nodes: 1000                                 as --nodes, --pods, --apiservers; the scenario's own without
      pods: 10000
      lines:                                      which steps are shown, and beside what; all without
      - {step: create, aim: "5,000/s", upstream: "200-240/s at 500 nodes"}

A row that failed is a line that says why.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from raykube.bench.core.scenario import Scenario

Object = dict[str, Any]
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Shown(BaseModel):
    """A step of a row, with what it is to be held against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    aim: str = ""
    upstream: str = ""  # what upstream's own programs do, for orientation


class Row(BaseModel):
    """One scenario on one scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    scenario: str
    nodes: int = Field(0, ge=0)
    pods: int = Field(0, ge=0)
    apiservers: int = Field(1, ge=1, le=5)
    lines: list[Shown] = []

    @field_validator("name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"{value!r}: must be lower-case letters, digits and '-'")
        return value


class Table(BaseModel):
    """A file of tables/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    about: str
    rows: list[Row] = Field(min_length=1)

    @field_validator("rows")
    @classmethod
    def _different(cls, rows: list[Row]) -> list[Row]:
        names = [row.name for row in rows]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"there are several rows {name!r}")
        return rows


def identity(scenario: Scenario, apiservers: int) -> str:
    """What a row measures: equal where scenario and scale are."""
    return sha256(orjson.dumps([scenario.model_dump(mode="json"), apiservers])).hexdigest()[:16]


@dataclass(frozen=True)
class Line:
    """One line of the table. Without a `report`'s step there are no figures: `words` say why."""

    title: str
    nodes: int
    pods: int
    seconds: float = 0.0
    per_s: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)
    api_ms: dict[str, float] = field(default_factory=dict)  # of writes
    cpu_us: dict[str, float] = field(default_factory=dict)  # per pod, by component
    peak_mib: dict[str, float] = field(default_factory=dict)
    aim: str = ""
    upstream: str = ""
    words: str = ""

    @property
    def peak_gib(self) -> float:
        """All components at their peaks, which they need not have reached together."""
        return sum(self.peak_mib.values()) / 1024


def lines(row: Row, scenario: Scenario, report: Object | None) -> list[Line]:
    """The lines of a row: of its report, or of the failure that is kept in place of one."""
    if report is None or report.get("failed"):
        words = report["failed"] if report is not None else "not measured yet"
        return [Line(row.name, scenario.nodes, scenario.pods, words=words)]
    steps = {step["name"]: step for step in report["steps"]}
    shown = row.lines or [Shown(step=name) for name in steps]
    return [
        _line(row.name if len(shown) == 1 else f"{row.name} {each.step}", scenario, steps[each.step], each)
        for each in shown
        if each.step in steps
    ]


def _line(title: str, scenario: Scenario, step: Object, shown: Shown) -> Line:
    goal = step.get("goal", "running")
    return Line(
        title=title,
        nodes=scenario.nodes,
        pods=step["pods"],
        seconds=step["seconds"],
        per_s=step["per_s"].get(goal, 0.0),
        latency_ms=step["latency_ms"].get(goal, {}),
        api_ms=(step.get("api_ms") or {}).get("write", {}),
        cpu_us=step["cpu_us_per_pod"],
        peak_mib=step.get("peak_mib") or step["rss_mib"],
        aim=shown.aim,
        upstream=shown.upstream,
    )
