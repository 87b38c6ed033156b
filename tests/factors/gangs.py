"""Collective requirements: jobs whose pods are of use only together, on a cluster with room for some of the jobs."""

import random
from collections import Counter

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.gangs import OLD_MINIMUM, OLD_NAME, Gang
from tests.factors.figure import Figure
from tests.scheduler.objects import Object, node, pod

NODES, JOBS = 20, 6  # a place a node
SIZES = (4, 6, 9)


def jobs(seed: int) -> dict[str, int]:
    """Each job's pods."""
    chance = random.Random(seed)
    return {f"job-{number}": chance.choice(SIZES) for number in range(JOBS)}


def job_pod(job: str, number: int, size: int, told: bool) -> Object:
    made = pod(f"{job}-{number}", "1")
    if told:
        made["metadata"]["labels"] = {OLD_NAME: job, OLD_MINIMUM: str(size)}
    return made


def held(told: bool, seed: int = 1) -> Counter[str]:
    """The places that each job has. `told`: its pods say that they are a gang. They come in no order."""
    chance = random.Random(seed)
    sizes = jobs(seed)
    cluster = Cluster()
    for number in range(NODES):
        cluster.on_node(node(f"n{number}", "1"))
    pods = [cluster.read_pod(job_pod(job, number, size, told)) for job, size in sizes.items() for number in range(size)]
    chance.shuffle(pods)
    found: Counter[str] = Counter()
    for one in pods:
        cluster.on_waiting(one)
        if one.gang is None:
            found[one.name.rpartition("-")[0]] += isinstance(cluster.schedule(one), Placement)
            continue
        gang = cluster.gangs.gang(one.gang)
        if isinstance(gang, Gang):
            waiting = set(cluster.gangs.waiting(gang.key))
            members = [other for other in pods if other.uid in waiting]
            placed = cluster.gang_placing.place(gang, members, 0.0, 0.0)
            found[gang.key[1]] += sum(isinstance(verdict, Placement) for verdict in placed)
    return found


def in_vain(places: Counter[str], seed: int = 1) -> int:
    """Places of jobs that have too few to begin."""
    return sum(count for job, count in places.items() if count < jobs(seed)[job])


def figure() -> Figure:
    what = f"places held by jobs that cannot begin, of {NODES}"
    return Figure("collective requirements", what, in_vain(held(False)), in_vain(held(True)))
