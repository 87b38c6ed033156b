"""The metrics page, in Prometheus' text format, with upstream's names where upstream has them."""

from collections.abc import Callable, Sequence

from raykube.controllers.runner import Runner


def render(runners: Sequence[Runner], leading: bool, lease: str) -> str:
    """One line per controller and number."""
    lines = [
        "# TYPE leader_election_master_status gauge",
        f'leader_election_master_status{{name="{lease}"}} {int(leading)}',
    ]
    families: tuple[tuple[str, str, Callable[[Runner], int]], ...] = (
        ("workqueue_depth", "gauge", lambda runner: runner.depth),
        ("workqueue_work_total", "counter", lambda runner: runner.counters.reconciles),
        ("workqueue_retries_total", "counter", lambda runner: runner.counters.retries),
        ("raykube_controller_writes_total", "counter", lambda runner: runner.counters.writes),
        ("raykube_controller_failures_total", "counter", lambda runner: runner.counters.failures),
    )
    for name, kind, number in families:
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f'{name}{{name="{runner.name}"}} {number(runner)}' for runner in runners)
    return "\n".join(lines) + "\n"
