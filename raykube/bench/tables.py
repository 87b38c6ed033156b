"""Runs the rows of a table one after the other. Each leaves a file when it is done, so that a run can go on."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from raykube.bench import catalog, report
from raykube.bench.core.scenario import Scenario
from raykube.bench.core.table import Line, Row, Table, identity, lines

Object = dict[str, Any]
Measure = Callable[[Scenario, int], Object]  # scenario, apiservers → report; raises RowError


class RowError(Exception):
    """A row cannot be measured; the message says why. Whatever else is raised ends the run of the table."""


class Planned(NamedTuple):
    """A row, what it measures, and where its file is."""

    row: Row
    scenario: Scenario
    identity: str
    path: Path


class Progress(Protocol):
    """What a run of a table tells of itself: a row begins; was measured before; failed, and the others go on."""

    def row(self, number: int, of: int, planned: Planned) -> None: ...

    def kept(self, planned: Planned) -> None: ...

    def failed(self, planned: Planned, words: str) -> None: ...


class TableRun:
    """The rows of a table in a folder. Raises ValueError for scenarios that there are not."""

    def __init__(self, table: Table, folder: Path, only: tuple[str, ...] = ()) -> None:
        """`only`: names of rows; none: all."""
        known = {row.name for row in table.rows}
        for name in only:
            if name not in known:
                raise ValueError(f"table {table.name} has no row {name!r}; it has {', '.join(sorted(known))}")
        self._table = table
        self._folder = folder
        self._only = only
        self.rows = [self._plan(row) for row in table.rows]

    def _plan(self, row: Row) -> Planned:
        scenario = catalog.load(row.scenario).scaled(row.nodes, row.pods)
        return Planned(row, scenario, identity(scenario, row.apiservers), self._folder / f"{row.name}.json")

    def run(self, measure: Measure, progress: Progress, *, again: bool = False) -> bool:
        """Measures the rows that are not there, or `again` all of them; whether all went well. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        well = True
        for number, planned in enumerate(self.rows, 1):
            row = planned.row
            if self._only and row.name not in self._only:
                continue
            found = self.read(planned)
            if found is not None and not found.get("failed") and not again:
                progress.kept(planned)
                continue
            progress.row(number, len(self.rows), planned)
            try:
                found = measure(planned.scenario, row.apiservers)
            except RowError as error:
                well = False
                at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                found = {"format": 1, "failed": str(error).splitlines()[0], "at": at}
                progress.failed(planned, str(error))
            _write(planned.path, found | {"row": planned.identity})
        return well

    def read(self, planned: Planned) -> Object | None:
        """What is there of a row; None: nothing, or of something else."""
        try:
            found = report.read(planned.path)
        except ValueError:
            return None
        return found if found.get("row") == planned.identity else None

    def lines(self) -> Iterator[Line]:
        """The table as far as it is there, row by row."""
        for planned in self.rows:
            yield from lines(planned.row, planned.scenario, self.read(planned))


def _write(path: Path, found: Object) -> None:
    """Whole or not at all."""
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    os.replace(new, path)
