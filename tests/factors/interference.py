"""Interference: services that suffer beside memory hogs, whose kubelets tell how long their work takes.

Simulated machines with a true slowdown for each pair, which the scheduler does not know: it sees reports with noise.
"""

import random
from collections import Counter
from typing import Any

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.interference import CLASS_LABEL
from raykube.scheduler.core.profile import DEFAULT_SCORES, Profile
from raykube.scheduler.core.scores.interference import Interference
from tests.factors.figure import Figure
from tests.scheduler.objects import node, pod

NODES, ROUNDS, MEASURED = 12, 400, 200
TRUTH = {("service", "hog"): 0.8, ("hog", "hog"): 0.3, ("service", "service"): 0.05}
MIX = ("service", "service", "hog", "batch")


def slowdown(name: str, here: Counter[str]) -> float:
    return 1.0 + sum(TRUTH.get((name, other), 0.0) * (count - (other == name)) for other, count in here.items())


def labelled(name: str, number: int) -> dict[str, Any]:
    obj = pod(f"{name}-{number}", cpu="500m", memory="512Mi")
    obj["metadata"]["labels"] = {CLASS_LABEL: name}
    return obj


def mean_slowdown(with_it: bool, seed: int = 1, lies: bool = False) -> float:
    """Of services, once the cluster had time to learn. `lies`: kubelets report nonsense."""
    chance = random.Random(seed)
    scores = tuple((score, weight) for score, weight in DEFAULT_SCORES if with_it or score is not Interference)
    cluster = Cluster([Profile(scores=scores)])
    names = [f"n{number}" for number in range(NODES)]
    for name in names:
        cluster.on_node(node(name, cpu="4", memory="16Gi"))
    running: list[tuple[str, str, str]] = []  # uid, workload, node
    seen: list[float] = []
    for turn in range(ROUNDS):
        while len(running) < 4 * NODES:
            kind = chance.choice(MIX)
            found = cluster.read_pod(labelled(kind, len(seen) * 1000 + turn * 50 + len(running)))
            placed = cluster.schedule(found)
            assert isinstance(placed, Placement), "what is not known, or wrong, blocks nobody"
            running.append((found.uid, kind, placed.node))
        for name in names:
            here = Counter(kind for _, kind, at in running if at == name)
            true = {uid: slowdown(kind, here) for uid, kind, at in running if at == name}
            if turn >= MEASURED:
                seen += [true[uid] for uid, kind, at in running if at == name and kind == "service"]
            told = {uid: value * chance.uniform(0.9, 1.1) for uid, value in true.items()}
            if lies:
                told = {uid: chance.choice([float("nan"), -1.0, 1e9, 0.0, 1.0]) for uid in told}
            cluster.on_slowdowns(name, told, turn * 10.0)
        for _ in range(4):
            uid, _, _ = running.pop(chance.randrange(len(running)))
            cluster.on_pod_gone(uid)
    return sum(seen) / len(seen)


def figure() -> Figure:
    return Figure("interference", "mean slowdown of services", mean_slowdown(False), mean_slowdown(True))
