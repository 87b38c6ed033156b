"""What a kubelet says where there is no log."""

import pytest

from raykube.kubelet.server import _no_log


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("ErrImagePull", "image can't be pulled"),
        ("ImagePullBackOff", "trying and failing to pull image"),
        ("ContainerCreating", "ContainerCreating"),
    ],
)
def test_why_a_container_waits(reason: str, words: str) -> None:
    waiting = {"name": "x", "state": {"waiting": {"reason": reason}}}
    pod = {"metadata": {"name": "y"}, "status": {"containerStatuses": [waiting]}}
    assert _no_log(pod, "x", False) == f'container "x" in pod "y" is waiting to start: {words}'
