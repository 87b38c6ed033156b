"""The manifests in examples/, with kubectl alone."""

import urllib.request
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.user import User, until

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_web_example(user: User) -> None:
    user("apply", "-f", str(EXAMPLES / "web.yaml"))
    user("rollout", "status", "deployment/web", "--timeout=60s")
    user.wait("condition=Complete", "job/sums")
    urls = [f"http://{user.get('service', 'web')['spec']['clusterIP']}:8080"]
    urls += [f"http://{machine.address}:30080" for machine in user.plane.state.machines]

    def serves(url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return b"Served by raykube" in answer.read()
        except OSError:
            return False

    for url in urls:
        until(f"the page at {url}", partial(serves, url))
    assert user("logs", "job/sums").strip() == str(sum(range(1_000_000)))
    assert "unchanged" in user("apply", "-f", str(EXAMPLES / "web.yaml"))
