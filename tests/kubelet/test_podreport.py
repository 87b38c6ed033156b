"""What a pod's report remembers of its runs."""

from types import SimpleNamespace
from typing import Any, cast

from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.podreport import PodReport


def ended(number: int) -> ObservedContainer:
    return ObservedContainer(f"id-{number}", "c", "sandbox", number, State.EXITED, 1.0)


def test_messages_are_read_once_and_kept_as_long_as_their_runs() -> None:
    read: list[str] = []

    def termination_message(pod: object, run: ObservedContainer) -> str:
        read.append(run.id)
        return f"message of {run.id}"

    tools = SimpleNamespace(containers=SimpleNamespace(termination_message=termination_message))
    report = PodReport(cast(Any, tools), cast(Any, None), cast(Any, None))
    for number in range(1, 100):
        runs = (ended(number), ended(number - 1))
        expected = {run.id: f"message of {run.id}" for run in runs}
        assert report._termination_messages({}, ObservedPod(containers=runs)) == expected
    assert len(read) == len(set(read))
