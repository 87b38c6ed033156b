"""What a failure on a real cluster needs to be understood: the cluster's own words, and none of the failures it causes.

The tests of a file share one cluster, each from the state that the one before left: behind a failure, the rest is
skipped. The run has failed by then, wherever it runs.
"""

import traceback
from collections.abc import Generator

import pytest

from tests.cluster.running import Cluster

_broken: set[str] = set()  # files with a failure


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("ray") and item.nodeid.partition("::")[0] in _broken:
        pytest.skip("an earlier test left the cluster broken")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, object, object]:
    report = yield
    assert isinstance(report, pytest.TestReport)
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and isinstance(cluster, Cluster):
        _broken.add(item.nodeid.partition("::")[0])
        report.sections.append(("the cluster", _told(cluster)))
    return report


def _told(cluster: Cluster) -> str:
    """The cluster's report and logs: what broke the cluster must not hide the test's own failure."""
    try:
        told = cluster.report()
    except Exception:
        told = traceback.format_exc()
    return f"{told}\n\n{cluster.logs()}"
