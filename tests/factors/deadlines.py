"""Deadlines: tasks in simulated time, in the order in which they came or with what they say of their deadlines.

Small tasks without end keep the nodes full; some wide ones and some urgent ones come in between.
"""

from dataclasses import dataclass

from raykube.api.deadlines import DEADLINE, DURATION
from raykube.base.clock import rfc3339
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.queue import PodQueue
from tests.factors.figure import Figure
from tests.scheduler.objects import Object, node, pod

START = 1_800_000_000.0


@dataclass(frozen=True)
class Task:
    """Times in seconds since START."""

    name: str
    arrives: int
    cpu: int
    takes: int
    deadline: int | None = None


def task_pod(task: Task, told: bool) -> Object:
    made = pod(task.name, str(task.cpu))
    notes = {DURATION: f"{task.takes}s"}
    if task.deadline is not None:
        notes[DEADLINE] = rfc3339(START + task.deadline)
    if told:
        made["metadata"]["annotations"] = notes
    return made


def run(tasks: list[Task], told: bool, nodes: int = 2, cpu: int = 4, last: str = "") -> dict[str, int]:
    """When each task ended, on the real queue and columns; without the annotations: first come, first served."""
    cluster, queue = Cluster(), PodQueue()
    for number in range(nodes):
        cluster.on_node(node(f"n{number}", str(cpu)))
    by_name = {task.name: task for task in tasks}
    ends: dict[str, int] = {}
    now = 0
    while last not in ends and (len(ends) < len(tasks) or any(end > now for end in ends.values())):
        for name, end in ends.items():
            if end == now:
                cluster.on_pod_gone(f"uid-{name}")
        cluster.deadlines.now = START + now
        for task in tasks:
            if task.arrives == now:
                one = cluster.read_pod(task_pod(task, told))
                at = cluster.deadlines.urgency(one)
                queue.add(one, float(now), None if at is None else at - START)
        # Whoever waits looks again: the pauses of the queue are not what is measured.
        for name in by_name:
            queue.wake(f"uid-{name}", now + 100.0)
        for pending in PodQueue.by_class(queue.pop(1000, now + 100.0)):
            if pending.due <= now:
                cluster.deadlines.age(pending.pod)
            found = cluster.schedule(pending.pod)
            if isinstance(found, Diagnosis) and cluster.deadlines.hopeless(pending.pod):
                queue.without_deadline(pending)
            if isinstance(found, Placement):
                queue.remove(pending.pod.uid)
                ends[pending.pod.name] = now + by_name[pending.pod.name].takes
            else:
                queue.on_unschedulable(pending, found, float(now))
        now += 1
        assert now < 10_000
    return ends


def missed(tasks: list[Task], ends: dict[str, int]) -> list[str]:
    return [task.name for task in tasks if task.deadline is not None and ends[task.name] > task.deadline]


def longest_wait(tasks: list[Task], ends: dict[str, int]) -> int:
    """Of the tasks without a deadline."""
    return max(ends[task.name] - task.takes - task.arrives for task in tasks if task.deadline is None)


def workload() -> list[Task]:
    tasks = [Task(f"small-{number}", number // 2, 1, 14 + number % 5) for number in range(160)]
    tasks += [Task(f"wide-{number}", 10 + 30 * number, 4, 6, 40 + 30 * number) for number in range(3)]
    tasks += [Task(f"urgent-{number}", 15 + 12 * number, 2, 5, 35 + 12 * number) for number in range(5)]
    return tasks


def figure() -> Figure:
    tasks = workload()
    without, with_it = (len(missed(tasks, run(tasks, told))) for told in (False, True))
    count = sum(task.deadline is not None for task in tasks)
    return Figure("deadlines", f"deadlines missed, of {count}", without, with_it)
