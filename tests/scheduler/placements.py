# ruff: noqa: T201 - a command prints
"""Many placements on random clusters, each checked by the oracles.

    python -m tests.scheduler.placements --count 1000000

Lives of a cluster, one per seed: nodes come, change and go, pods of many classes are scheduled, bound, relabelled and
deleted. A placement is invalid when the oracle's filters reject the node, and short when another node that fits
scores more; a pod left without a node is wrong when one would have taken it. A wrong one prints its seed and ends the
run with exit code 1; `--seed N` replays that life.
"""

import argparse
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from raykube.scheduler.core.cluster import Cluster, Placement
from tests.scheduler.objects import Object, affinity, expression, node, pod, pod_affinity, pod_term, spread
from tests.scheduler.oracle import World, reasons
from tests.scheduler.score_oracle import totals

MIB = 1 << 20
STEPS = 400
NODES_MAX, CLASSES, PODS_MAX = 12, 16, 60
KEYS, VALUES = ("zone", "disk", "size"), ("1", "2", "x")
APPS = ({"app": "a"}, {"app": "b"}, {"app": "a", "version": "1"}, {"app": "a", "version": "2"}, {})


class Tally(NamedTuple):
    """What a life came to. `wrong`: what was wrong with it, in words."""

    placed: int = 0
    left: int = 0
    wrong: tuple[str, ...] = ()


class Life:
    """One cluster from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.cluster, self.world = Cluster(), World()
        self.count = self.placed = self.left = 0
        self.classes = [self.spec() for _ in range(CLASSES)]

    def chance(self, one_in: int) -> bool:
        return self.draw.randrange(one_in) == 0

    # What there is

    def node(self, name: str) -> Object:
        draw = self.draw
        labels = {key: draw.choice(VALUES) for key in KEYS if not self.chance(4)}
        taints = [
            (draw.choice("kl"), draw.choice(("", "v")), draw.choice(("NoSchedule", "NoExecute", "PreferNoSchedule")))
            for _ in range(draw.choice((0, 0, 0, 1, 2)))
        ]
        return node(
            name,
            draw.choice(("1", "4", "16", "64")),
            draw.choice(("1Gi", "8Gi", "64Gi")),
            draw.choice(("3", "110", "110")),
            labels=labels,
            taints=taints,
            unschedulable=self.chance(12),
            extra={"example.com/gpu": "2"} if self.chance(3) else {},
            images={name: size * MIB for name, size in (("i:latest", 800), ("j:1", 2000)) if self.chance(2)},
        )

    def expression(self) -> Object:
        draw = self.draw
        operator = draw.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
        values = {"Exists": (), "DoesNotExist": (), "Gt": ("1",), "Lt": ("2",)}.get(operator, (draw.choice(VALUES),))
        return expression(draw.choice(KEYS), operator, *values)

    def term(self) -> Object:
        more: Object = self.draw.choice(
            (
                {},
                {},
                {"namespaces": ["e"]},
                {"namespaceSelector": {}},
                {"namespaceSelector": {"matchLabels": {"team": "1"}}},
                {"matchLabelKeys": ["version"]},
                {"mismatchLabelKeys": ["version"]},
            )
        )
        return pod_term(self.draw.choice(("zone", "kubernetes.io/hostname")), self.draw.choice(APPS[:2]), **more)

    def constraint(self, key: str) -> Object:
        draw = self.draw
        when = draw.choice(("DoNotSchedule", "ScheduleAnyway"))
        more: Object = {}
        if when == "DoNotSchedule" and self.chance(3):
            more["minDomains"] = 3
        if self.chance(3):
            more["nodeAffinityPolicy"] = "Ignore"
        if self.chance(3):
            more["nodeTaintsPolicy"] = "Honor"
        if self.chance(3):
            more["matchLabelKeys"] = ["version"]
        return spread(key, draw.choice((1, 2, 5)), {"app": "a"}, when, **more)

    def toleration(self) -> Object:
        draw = self.draw
        if self.chance(4):
            return {"operator": "Exists"}
        effect = draw.choice(("", "NoSchedule", "NoExecute", "PreferNoSchedule"))
        return {"key": draw.choice("kl"), "value": draw.choice(("", "v")), "effect": effect}

    def spec(self) -> dict[str, Any]:
        """The arguments of `pod` for one class."""
        draw = self.draw
        more: dict[str, Any] = {
            "cpu": draw.choice(("", "100m", "500m", "1")),
            "memory": draw.choice(("", "64Mi", "512Mi", "2Gi")),
            "labels": draw.choice(APPS),
            "namespace": draw.choice("dde"),
            "image": draw.choice(("i", "j:1", "registry:5000/k")),
            "tolerations": [self.toleration() for _ in range(draw.choice((0, 0, 1, 2)))],
        }
        if self.chance(6):
            more["extra"] = {"example.com/gpu": "1"}
        if self.chance(6):
            more["nodeSelector"] = {draw.choice(KEYS): draw.choice(VALUES)}
        rules: Object = {}
        if self.chance(5):
            rules = affinity(*([self.expression()] for _ in range(draw.choice((1, 2)))))
        if self.chance(4):
            preferred = [
                {"weight": draw.randint(1, 100), "preference": {"matchExpressions": [self.expression()]}}
                for _ in range(2)
            ]
            rules.setdefault("nodeAffinity", {})["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
        if self.chance(4):
            near, away = ([self.term()] if self.chance(3) else [] for _ in range(2))
            liked, disliked = ([(draw.randint(1, 100), self.term())] if self.chance(2) else [] for _ in range(2))
            rules |= pod_affinity(near, away, liked, disliked)
        if rules:
            more["affinity"] = rules
        if self.chance(8):
            more["ports"] = [8080]
        if self.chance(3):
            keys = draw.sample(("zone", "kubernetes.io/hostname"), draw.choice((1, 2)))
            more["topologySpreadConstraints"] = [self.constraint(key) for key in keys]
        elif self.chance(2):
            more["owner"] = draw.choice(("rs-1", "rs-2"))
        return more

    # What happens

    def run(self, steps: int) -> Tally:
        for number in range(4):
            self.set_node(f"n{number}")
        for _ in range(steps):
            wrong = self.step()
            if wrong:
                return Tally(self.placed, self.left, (f"seed {self.seed}: {wrong}",))
        return Tally(self.placed, self.left)

    def step(self) -> str:
        """One change; what was wrong with a decision."""
        draw = self.draw
        roll = draw.randrange(100)
        running = list(self.world.pods)
        if roll < 70 and len(running) < PODS_MAX:
            return self.schedule()
        if roll < 80 or len(running) >= PODS_MAX:
            if running:
                uid = draw.choice(running)
                del self.world.pods[uid]
                self.cluster.on_pod_gone(uid)
        elif roll < 88:
            if running:
                self.bound(draw.choice(running), draw.choice(APPS) if self.chance(2) else None)
        elif roll < 95:
            self.set_node(f"n{draw.randrange(NODES_MAX)}")
        elif roll < 97:
            name = f"n{draw.randrange(NODES_MAX)}"
            self.world.nodes.pop(name, None)
            self.cluster.on_node_gone(name)
        elif roll < 98:
            name, about = draw.choice("de"), draw.choice(({}, {"team": "1"}))
            self.world.namespaces[name] = about
            self.cluster.on_namespace(name, about)
        else:
            self.classes[draw.randrange(CLASSES)] = self.spec()
        return ""

    def set_node(self, name: str) -> None:
        made = self.node(name)
        self.world.nodes[name] = made
        self.cluster.on_node(made)

    def bound(self, uid: str, labels: dict[str, str] | None) -> None:
        obj, name = self.world.pods[uid]
        metadata = obj["metadata"] | ({} if labels is None else {"labels": labels})
        obj = obj | {"spec": obj["spec"] | {"nodeName": name}, "metadata": metadata}
        self.world.pods[uid] = obj, name
        self.cluster.on_pod(self.cluster.read_pod(obj))

    def schedule(self) -> str:
        self.count += 1
        obj = pod(f"p{self.count}", **dict(self.draw.choice(self.classes)))
        view = self.cluster.read_pod(obj)
        found = self.cluster.schedule(view)
        if not isinstance(found, Placement):
            self.left += 1
            taker = next((name for name in self.world.nodes if not reasons(self.world, obj, name)), "")
            return f"{view.name} was left though {taker} takes it: {found.message}" if taker else ""
        self.placed += 1
        why = reasons(self.world, obj, found.node)
        if why:
            return f"{view.name} was placed on {found.node}: {why}"
        scores = totals(self.world, obj)
        best = max(scores, key=scores.__getitem__)
        if scores[found.node] < scores[best] - 1e-6:
            return f"{view.name} was placed on {found.node} ({scores[found.node]}), not on {best} ({scores[best]})"
        self.world.pods[view.uid] = obj, found.node
        return ""


def live(seed: int) -> Tally:
    return Life(seed).run(STEPS)


def main() -> None:
    """Lives lives until so many pods were placed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="placements")
    parser.add_argument("--seed", type=int, help="one life")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    if asked.seed is not None:
        print(live(asked.seed))
        return
    began, placed, left, lives = time.monotonic(), 0, 0, 0
    batch = 16 * asked.workers
    with ProcessPoolExecutor(asked.workers) as pool:
        while placed < asked.count:
            first = asked.first_seed + lives
            for tally in pool.map(live, range(first, first + batch)):
                placed, left = placed + tally.placed, left + tally.left
                if tally.wrong:
                    print("\n".join(tally.wrong))
                    sys.exit(1)
            lives += batch
            print(f"{placed:,} placed, {left:,} left, {lives:,} lives, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{placed:,} placements, 0 invalid, none short of the best; {left:,} pods left without a node, rightly")


if __name__ == "__main__":
    main()
