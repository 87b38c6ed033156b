"""Scenarios, their pods, and the figures of a run, without a cluster."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from raykube.api.errors import ApiError
from raykube.api.quantity import parse
from raykube.bench import catalog, plot, report, runner
from raykube.bench.core import comparison, workload
from raykube.bench.core.scenario import Scenario, Step
from raykube.bench.core.timeline import Timeline, percentile
from raykube.bench.core.workload import PodTemplate
from raykube.bench.observer import Observer
from raykube.bench.site import BenchError, Progress
from raykube.client.api import ApiClient


@pytest.mark.parametrize("name", catalog.names())
def test_every_scenario_reads_and_makes_pods(name: str) -> None:
    scenario = catalog.load(name)
    small = scenario.scaled(10, 50)
    assert (small.name, small.nodes, small.pods) == (name, 10, 50)
    full = scenario.scaled()
    assert full.pods == (scenario.pods or scenario.pods_per_node * scenario.nodes) > 0
    template = PodTemplate("s1", scenario.pod)
    for number in (0, 49):
        pod_name, text = template.pod(number)
        pod = orjson.loads(text)
        assert pod["metadata"]["name"] == pod_name == f"bench-s1-{number}"
        assert b"${" not in text
        for amount in pod["spec"]["containers"][0]["resources"]["requests"].values():
            assert parse(amount) >= 0


def test_distinct_pods_are_distinct() -> None:
    template = PodTemplate("s1", catalog.load("distinct").pod)
    specs = {orjson.dumps(orjson.loads(template.pod(number)[1])["spec"]) for number in range(10_000)}
    assert len(specs) == 10_000


BASE = {"about": "x", "pods": 10, "steps": [{"create": "100%"}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pods": 0}, "one of pods and podsPerNode"),
        ({"podsPerNode": 3}, "one of pods and podsPerNode"),
        ({"steps": []}, "at least 1 item"),
        ({"steps": [{}]}, "a step does one of"),
        ({"steps": [{"create": 1, "delete": 1}]}, "a step does one of"),
        ({"steps": [{"create": "110%"}]}, "must be 0% to 100%"),
        ({"steps": [{"create": "x%"}]}, "is no share"),
        ({"steps": [{"create": 1, "template": "t"}]}, "there is no template 't'"),
        ({"parts": ["scheduler"]}, "without hollow machines nothing runs"),
        ({"parts": ["scheduler", "hollow"], "steps": [{"deploy": 1}]}, "needs the controller-manager"),
        ({"colour": 1}, "Extra inputs"),
        ({"steps": [{"create": 1, "rate": -1}]}, "must not be negative"),
        ({"steps": [{"create": 1, "rate": "50%"}]}, "there is no step before it"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Scenario.model_validate({**BASE, **change})


def test_a_scenario_is_a_file_of_anybody(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE))
    assert catalog.load(str(path)).name == "mine"
    path.write_text("about: [")
    with pytest.raises(ValueError, match="is no YAML"):
        catalog.load(str(path))
    path.write_text("about: x")
    with pytest.raises(ValueError, match=r"mine\.yaml: steps: Field required"):
        catalog.load(str(path))
    with pytest.raises(ValueError, match="there is no scenario 'none'; there are affinity, "):
        catalog.load("none")


def test_a_deployment_keeps_its_selector_when_its_step_changes() -> None:
    made = PodTemplate("s1").deployment("d", 3, 7)
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert workload.STEP_LABEL not in made["spec"]["selector"]["matchLabels"]


def test_a_rate_is_a_number_or_a_share_of_what_was_reached() -> None:
    assert Step.model_validate({"create": 1}).pods_per_s(800.0) == 0
    assert Step.model_validate({"create": 1, "rate": 30}).pods_per_s(800.0) == 30
    assert Step.model_validate({"create": 1, "rate": "50%"}).pods_per_s(800.0) == 400


def test_numbers_in_templates() -> None:
    assert workload.numbered(b"${i} ${i % 10} ${i / 10} ${i%7} ${j} $i", 123) == b"123 3 12 4 ${j} $i"


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_are_even_and_whole(whole: int, parts: int) -> None:
    found = workload.shared(whole, parts)
    assert sum(found) == whole and len(found) == parts and max(found) - min(found) <= 1


def test_a_timeline_tells_when_pods_were_what() -> None:
    timeline = Timeline()
    for number in range(100):
        timeline.on_pod(f"u{number}", "s1", "", False, False, 10.0)
        timeline.on_pod(f"u{number}", "s1", f"n{number % 10}", False, False, 10.5)
        timeline.on_pod(f"u{number}", "s1", f"n{number % 10}", True, False, 11.0 + number / 100)
    assert (timeline.bound("s1"), timeline.running(), timeline.running("s2")) == (100, 100, 0)
    figures = timeline.since(0)
    assert figures.latencies_ms("bound")["p99"] == 500.0
    assert figures.latencies_ms("running") == {"p50": 1490.0, "p90": 1890.0, "p99": 1980.0, "p100": 1990.0}
    assert figures.per_s("bound", 10.0) == 200.0
    assert figures.per_s("created", 9.0) == 100.0
    series = figures.series(10.0, 12.0, 0.5)
    assert series["bound"] == [0, 200, 0, 0, 0] and sum(series["running"]) * 0.5 == 100
    assert timeline.since(100).latencies_ms("running") == {}


def test_pods_of_lost_and_leaving_machines_do_not_run() -> None:
    timeline = Timeline()
    for number in range(10):
        timeline.on_pod(f"u{number}", "s1", f"n{number % 2}", True, False, 1.0)
    timeline.lose(["n0"])
    assert timeline.running() == 5
    timeline.on_pod("u0", "s1", "n0", False, True, 2.0)
    timeline.on_pod("u1", "s1", "n1", True, True, 2.0)
    assert timeline.running() == 4
    timeline.on_gone("u0", 3.0)
    timeline.on_gone("u1", 3.0)
    assert (timeline.running(), len(timeline.present), timeline.gone_at) == (4, 8, [3.0, 3.0])


EVENT = st.tuples(st.integers(0, 5), st.sampled_from(["", "n0", "n1"]), st.booleans(), st.booleans(), st.booleans())


@given(st.lists(EVENT))
def test_counts_are_those_of_a_look_at_every_pod(events: list[tuple[int, str, bool, bool, bool]]) -> None:
    timeline = Timeline()
    pods: dict[str, tuple[str, bool, bool]] = {}
    for number, node, ready, leaving, gone in events:
        uid = f"u{number}"
        if gone:
            timeline.on_gone(uid, 1.0)
            pods.pop(uid, None)
        else:
            timeline.on_pod(uid, "s", node, ready, leaving, 1.0)
            pods[uid] = (node, ready, leaving)
    timeline.lose(["n1"])
    counted = [each for each in pods.values() if each[0] != "n1" and not each[2]]
    assert timeline.running() == sum(ready for _, ready, _ in counted)
    assert timeline.bound("s") == sum(bool(node) for node, _, _ in counted)


@given(st.lists(st.floats(0, 100), min_size=1), st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_is_reached_by_as_many(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def made(scale: float) -> dict[str, Any]:
    series = {name: [0.0, 10.0 * scale] for name in ("created", "bound", "running", "p50_ms", "p99_ms")}
    step = {
        "name": "create",
        "pods": 10,
        "seconds": 1.0,
        "per_s": {"created": 10.0 * scale, "bound": 5.0 * scale, "running": 5.0 * scale, "gone": 0.0},
        "latency_ms": {"bound": {"p50": 4.0 / scale, "p99": 8.0 / scale}, "running": {}},
        "cpu_us_per_pod": {"kv": 100.0 / scale, "client": 5.0},
        "rss_mib": {"kv": 50.0},
        "series": {"t": [0.0, 0.5]} | series,
    }
    return {
        "format": 1,
        "scenario": "pods",
        "about": "x",
        "at": f"2026-01-0{int(scale)}T00:00:00Z",
        "version": "0",
        "machine": {"cpus": 2},
        "scale": {"nodes": 5, "pods": 10, "apiservers": 1},
        "steps": [step],
    }


def test_reports_are_written_found_again_compared_and_drawn(tmp_path: Path) -> None:
    first = report.write(made(1), tmp_path)
    assert report.latest(made(2), tmp_path) == first
    other = made(2) | {"scale": {"nodes": 6, "pods": 10, "apiservers": 1}}
    assert report.latest(other, tmp_path) is None
    console = Console(width=150, record=True, file=(tmp_path / "out").open("w"))
    report.show(console, made(2))
    report.compare(console, report.read(first), made(2))
    text = console.export_text()
    assert "5 machines, 10 pods" in text
    assert [line.split()[-1] for line in text.splitlines() if "bound/s" in line] == ["2.00"]
    assert [line.split()[-1] for line in text.splitlines() if "CPU µs/pod kv" in line] == ["0.50"]
    assert "client" not in text.partition("Beside")[2]  # equal figures are not worth a line
    plot.draw(made(1), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("", "[]", "{}", '{"format": 2}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no report"):
            report.read(path)
    with pytest.raises(ValueError, match="cannot read"):
        report.read(tmp_path / "none")


async def test_apiservers_that_are_lost_end_a_measurement_with_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def lost(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise ApiError.unavailable("no apiserver answered")
        yield

    monkeypatch.setattr(runner, "made", lost)
    wanted = Scenario.model_validate(BASE)
    with pytest.raises(BenchError, match="no apiserver answered"):
        await runner.Runner(wanted, cast(Progress, None)).run()


async def test_a_wait_ends_when_nothing_moves() -> None:
    observer = Observer(cast(ApiClient, None), "", "default")
    ticks: list[int] = []
    moving = await observer.until(lambda: len(ticks) > 4, 0.2, lambda: ticks.append(1), lambda: len(ticks))
    assert moving
    ticks.clear()
    assert not await observer.until(lambda: len(ticks) > 40, 0.2, lambda: ticks.append(1), lambda: len(ticks) // 40)


def test_rows_say_which_way_is_better() -> None:
    found = {row.figure: row for row in comparison.rows(made(1), made(2))}
    assert found["bound/s"].more_is_better and found["bound/s"].ratio == 2
    assert not found["bound p99 ms"].more_is_better and found["bound p99 ms"].ratio == 0.5
