"""Data locality: pods that read large inputs, on machines that already have some of them."""

import random
from collections.abc import Iterable
from typing import Any

from raykube.api.inputs import ANNOTATION, Input, written
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.profile import DEFAULT_SCORES, Profile
from raykube.scheduler.core.scores.data_locality import DataLocality
from tests.factors.figure import Figure
from tests.scheduler.objects import node, pod

NODES, PODS, INPUTS = 20, 120, 60
GB = 10**9


def bytes_moved(inputs: Iterable[Input], places: Iterable[str]) -> int:
    """What a pod must fetch on a node that is known as `places`."""
    here = set(places)
    return sum(one.bytes for one in inputs if not here.intersection(one.at))


def profile(with_it: bool) -> Profile:
    return Profile(
        scores=tuple((score, weight) for score, weight in DEFAULT_SCORES if with_it or score is not DataLocality)
    )


def workload(seed: int) -> list[tuple[dict[str, Any], list[Input]]]:
    chance = random.Random(seed)
    there = [
        Input(chance.randrange(GB // 10, GB), tuple(sorted({f"n{chance.randrange(NODES)}" for _ in range(2)})))
        for _ in range(INPUTS)
    ]
    made = []
    for number in range(PODS):
        read = chance.sample(there, chance.randrange(1, 3))
        obj = pod(f"p{number}", cpu="500m", memory="512Mi")
        obj["metadata"]["annotations"] = {ANNOTATION: written(read)}
        made.append((obj, read))
    return made


def moved(with_it: bool, seed: int = 1) -> int:
    """Bytes that the pods must fetch from other machines."""
    cluster = Cluster([profile(with_it)])
    for number in range(NODES):
        cluster.on_node(node(f"n{number}", cpu="8", memory="32Gi"))
    total = 0
    for obj, read in workload(seed):
        placed = cluster.schedule(cluster.read_pod(obj))
        assert isinstance(placed, Placement), "locality is no reason to wait"
        total += bytes_moved(read, [placed.node])
    return total


def figure() -> Figure:
    return Figure("data locality", "GB moved between machines", moved(False) / GB, moved(True) / GB)
