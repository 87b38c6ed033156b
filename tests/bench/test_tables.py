"""Tables of measurements: rows that are done are kept, those that failed are tried again, and what is shown of them."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from rich.console import Console

from raykube.bench import catalog, report
from raykube.bench.core.scenario import Scenario
from raykube.bench.core.table import Table, lines
from raykube.bench.tables import Planned, RowError, TableRun

ROWS = [
    {"name": "small", "scenario": "pods", "nodes": 2, "pods": 10},
    {"name": "large", "scenario": "deploy", "nodes": 3, "pods": 20},
]


def step(name: str, pods: int, rate: float, goal: str = "running") -> dict[str, Any]:
    return {
        "name": name,
        "goal": goal,
        "pods": pods,
        "seconds": 2.0,
        "per_s": {"created": 9e6, "bound": 9e6, "running": 9e6, "gone": 9e6} | {goal: rate},
        "latency_ms": {"bound": {}, "running": {"p50": 11.0, "p99": 12.0}},
        "api_ms": {"read": {}, "write": {"p50": 3.0, "p99": 4321.0}},
        "cpu_us_per_pod": {"lost": 50.0, "controller-manager": 23.0, "kv": 100.0},
        "rss_mib": {"kv": 1.0},
        "peak_mib": {"kv": 1024.0, "controller-manager": 1536.0},
    }


class Fake:
    """Measures at once. `broken`: what fails, and with what words."""

    def __init__(self, broken: dict[str, str] | None = None) -> None:
        self.broken = broken or {}
        self.log: list[str] = []

    def measure(self, scenario: Scenario, apiservers: int) -> dict[str, Any]:
        self.log.append(f"measure {scenario.name} {scenario.nodes} {scenario.pods} {apiservers}")
        if scenario.name in self.broken:
            raise RowError(self.broken[scenario.name])
        steps = [step("create", scenario.pods, 777.0), step("delete", scenario.pods, 555.0, "gone")]
        return {"format": 1, "scenario": scenario.name, "steps": steps}

    def row(self, number: int, of: int, planned: Planned) -> None:
        self.log.append(f"row {number}/{of} {planned.row.name}")

    def kept(self, planned: Planned) -> None:
        self.log.append(f"kept {planned.row.name}")

    def failed(self, planned: Planned, words: str) -> None:
        self.log.append(f"failed {planned.row.name} {words}")


def table(rows: list[dict[str, Any]] | None = None) -> Table:
    return Table.model_validate({"name": "t", "about": "x", "rows": rows or ROWS})


def run(folder: Path, fake: Fake, *only: str, again: bool = False, rows: list[dict[str, Any]] | None = None) -> bool:
    fake.log.clear()
    return TableRun(table(rows), folder, only).run(fake.measure, fake, again=again)


@pytest.mark.parametrize("name", catalog.names(catalog.TABLES))
def test_every_table_names_scenarios_and_steps_that_there_are(name: str) -> None:
    for row in catalog.load_table(name).rows:
        scenario = catalog.load(row.scenario).scaled(row.nodes, row.pods)
        assert {line.step for line in row.lines} <= {each.title for each in scenario.steps if each.measure}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": []}, "at least 1 item"),
        ({"rows": [{"name": "../x", "scenario": "pods"}]}, "must be lower-case"),
        ({"rows": [ROWS[0], ROWS[0]]}, "several rows 'small'"),
        ({"rows": [{"name": "x", "scenario": "pods", "apiservers": 9}]}, "less than or equal to 5"),
        ({"colour": 1}, "Extra inputs"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Table.model_validate({"about": "x", "rows": ROWS} | change)


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    fake = Fake({"deploy": "Ctrl-C"})
    measure, fake.measure = fake.measure, interrupted(fake.measure)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fake)
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]

    fake.measure, fake.broken = measure, {}  # type: ignore[method-assign]
    assert run(tmp_path, fake)
    assert fake.log == ["kept small", "row 2/2 large", "measure deploy 3 20 1"]
    assert run(tmp_path, fake)
    assert fake.log == ["kept small", "kept large"]


def interrupted(measure: Any) -> Any:
    def wrapped(scenario: Scenario, apiservers: int) -> Any:
        try:
            return measure(scenario, apiservers)
        except RowError:
            raise KeyboardInterrupt from None

    return wrapped


def test_rows_are_measured_again_when_asked_or_when_they_are_others(tmp_path: Path) -> None:
    fake = Fake()
    assert run(tmp_path, fake)
    assert run(tmp_path, fake, "large", again=True)
    assert fake.log == ["row 2/2 large", "measure deploy 3 20 1"]

    larger = [ROWS[0] | {"pods": 11}, ROWS[1] | {"apiservers": 2}]
    assert run(tmp_path, fake, rows=larger)
    assert [line for line in fake.log if line.startswith("measure")] == ["measure pods 2 11 1", "measure deploy 3 20 2"]

    (tmp_path / "small.json").write_text("{")  # the disk was full
    assert run(tmp_path, fake, rows=larger)
    assert fake.log == ["row 1/2 small", "measure pods 2 11 1", "kept large"]


def test_a_row_that_fails_does_not_hold_up_the_others_and_is_tried_again(tmp_path: Path) -> None:
    fake = Fake({"pods": "kv ended with 1:\nTraceback"})
    assert not run(tmp_path, fake)
    assert fake.log[2] == "failed small kv ended with 1:\nTraceback" and fake.log[-1] == "measure deploy 3 20 1"
    shown = list(TableRun(table(), tmp_path).lines())
    assert (shown[0].title, shown[0].words) == ("small", "kv ended with 1:")
    fake.broken = {}
    assert run(tmp_path, fake)
    assert fake.log == ["row 1/2 small", "measure pods 2 10 1", "kept large"]


def test_a_row_that_there_is_not_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="table t has no row 'huge'; it has large, small"):
        run(tmp_path, Fake(), "huge")
    with pytest.raises(ValueError, match="there is no scenario 'none'"):
        run(tmp_path, Fake(), rows=[{"name": "x", "scenario": "none"}])
    with pytest.raises(ValueError, match="there is no table 'none'; there are full, quick"):
        catalog.load_table("none")


def test_lines_show_what_each_step_waited_for(tmp_path: Path) -> None:
    only = [{"step": "delete", "aim": "9/s", "upstream": "1/s"}]
    rows = [ROWS[0], ROWS[1] | {"lines": only}]
    fake = Fake()
    run(tmp_path, fake, "small", rows=rows)
    found = list(TableRun(table(rows), tmp_path).lines())
    assert [(line.title, line.per_s, line.words) for line in found] == [
        ("small create", 777.0, ""),
        ("small delete", 555.0, ""),
        ("large", 0.0, "not measured yet"),
    ]
    assert (found[0].latency_ms["p99"], found[0].peak_gib, found[1].latency_ms) == (12.0, 2.5, {})
    run(tmp_path, fake, rows=rows)
    (line,) = [line for line in TableRun(table(rows), tmp_path).lines() if line.title == "large"]
    assert (line.per_s, line.aim, line.upstream) == (555.0, "9/s", "1/s")

    output = StringIO()
    report.show_table(Console(file=output, width=40), found)
    header, create, _, missing = output.getvalue().splitlines()
    assert [word for word in ("KV", "CTL", "CPU µS/POD", "PEAK GIB", "UPSTREAM") if word not in header] == []
    figures = "2 10 2.0 777 11 12 4,321 100 23 50 173 2.5"
    assert create.split() == f"small create {figures}".split()
    assert "not measured yet" in missing


def test_reports_of_before_there_were_peaks_are_lines_too() -> None:
    old = {key: value for key, value in step("create", 5, 7.0).items() if key not in ("peak_mib", "api_ms", "goal")}
    planned = TableRun(table(), Path("none")).rows[0]
    (line,) = lines(planned.row, planned.scenario, {"format": 1, "steps": [old]})
    assert (line.per_s, line.peak_mib, line.api_ms) == (7.0, {"kv": 1.0}, {})


def test_a_table_is_a_file_of_anybody(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"about": "x", "rows": ROWS}))
    assert catalog.load_table(str(path)).name == "mine"
    path.write_text("about: x")
    with pytest.raises(ValueError, match=r"mine\.yaml: rows: Field required"):
        catalog.load_table(str(path))
