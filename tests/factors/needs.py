"""What pods need of a node, and what they need of each other: places where they could not run, or not well.

Machines of two architectures, some with GPUs, some with a runtime of their own, some for one team only; pods that need
one thing or another. Without the factor the same scheduler goes by its other filters and scores.
"""

import random
from collections import Counter
from typing import Any

from raykube.api import quantity
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.filters import FILTERS
from raykube.scheduler.core.filters.inter_pod_affinity import InterPodAffinity
from raykube.scheduler.core.filters.node_affinity import NodeAffinity
from raykube.scheduler.core.filters.node_resources_fit import NodeResourcesFit
from raykube.scheduler.core.filters.pod_topology_spread import PodTopologySpread
from raykube.scheduler.core.filters.taint_toleration import TaintToleration
from raykube.scheduler.core.plugin import Filter
from raykube.scheduler.core.profile import Profile
from tests.factors.figure import Figure
from tests.scheduler.objects import Object, node, pod, pod_affinity, pod_term, spread

ARCH, RUNTIME, TEAM, ZONE = "kubernetes.io/arch", "runtime", "team", "zone"
PODS = 60
ANYWHERE = {"tolerations": [{"operator": "Exists"}]}


def profile(without: tuple[type[Filter], ...]) -> Profile:
    return Profile(filters=tuple(one for one in FILTERS if one not in without))


def machines() -> list[Object]:
    made = []
    for number in range(24):
        labels = {ARCH: "arm64" if number % 3 == 0 else "amd64", ZONE: str(number % 3)}
        if number % 4 == 1:
            labels[RUNTIME] = "sandboxed"
        more: dict[str, Any] = {"labels": labels}
        if number % 6 == 5:
            more["taints"] = [(TEAM, "red", "NoSchedule")]
        if number % 8 == 2:
            more["extra"] = {"nvidia.com/gpu": "1"}
        made.append(node(f"n{number}", cpu="4", memory="16Gi", **more))
    return made


def place(objects: list[Object], without: tuple[type[Filter], ...] = ()) -> dict[str, str]:
    """Each pod's node; pods that fit nowhere have none."""
    cluster = Cluster([profile(without)])
    for machine in machines():
        cluster.on_node(machine)
    found = {}
    for obj in objects:
        verdict = cluster.schedule(cluster.read_pod(obj))
        if isinstance(verdict, Placement):
            found[obj["metadata"]["name"]] = verdict.node
    return found


# Hardware, software and policy


def constrained(seed: int = 1) -> list[Object]:
    chance = random.Random(seed)
    made = []
    for number in range(PODS):
        kind = chance.choice(("arch", "runtime", "team", "none"))
        more: dict[str, Any] = {}
        if kind == "arch":
            more["nodeSelector"] = {ARCH: chance.choice(("arm64", "amd64"))}
        elif kind == "runtime":  # as the scheduling of its RuntimeClass says
            more["nodeSelector"] = {RUNTIME: "sandboxed"}
        elif kind == "team":
            more["tolerations"] = [{"key": TEAM, "operator": "Equal", "value": "red", "effect": "NoSchedule"}]
        made.append(pod(f"p{number}", "500m", "512Mi", **more))
    return made


def misplaced(objects: list[Object], places: dict[str, str]) -> int:
    """Pods where they cannot run, or must not."""
    by_name = {machine["metadata"]["name"]: machine for machine in machines()}
    count = 0
    for obj in objects:
        if (name := places.get(obj["metadata"]["name"])) is None:
            continue
        labels, spec = by_name[name]["metadata"]["labels"], obj["spec"]
        fits = all(labels.get(key) == value for key, value in spec.get("nodeSelector", {}).items())
        count += not fits or bool(by_name[name]["spec"].get("taints") and not spec.get("tolerations"))
    return count


def constraints() -> Figure:
    objects = constrained()
    without = misplaced(objects, place(objects, (NodeAffinity, TaintToleration)))
    what = f"pods on machines that are not for them, of {PODS}"
    return Figure("hardware, software, policy", what, without, misplaced(objects, place(objects)))


# Individual resources


def hungry(seed: int = 1) -> list[Object]:
    chance = random.Random(seed)
    return [
        pod(f"p{number}", f"{chance.randrange(1, 8) * 500}m", f"{chance.randrange(1, 6)}Gi")
        for number in range(2 * PODS)
    ]


def overcommitted(objects: list[Object], places: dict[str, str]) -> int:
    """Nodes whose pods ask for more than there is."""
    asked: Counter[tuple[str, str]] = Counter()
    for obj in objects:
        if (name := places.get(obj["metadata"]["name"])) is not None:
            for resource, text in obj["spec"]["containers"][0]["resources"]["requests"].items():
                asked[name, resource] += quantity.parse(text)
    over = {
        machine["metadata"]["name"]
        for machine in machines()
        for resource, text in machine["status"]["allocatable"].items()
        if asked[machine["metadata"]["name"], resource] > quantity.parse(text)
    }
    return len(over)


def resources() -> Figure:
    objects = hungry()
    without = overcommitted(objects, place(objects, (NodeResourcesFit,)))
    return Figure("individual resources", "overcommitted nodes, of 24", without, overcommitted(objects, place(objects)))


# Affinity and anti-affinity


def replicated() -> list[Object]:
    """Services of three replicas that avoid each other and spread over zones; each has a cache beside some replica."""
    made = []
    for number in range(6):
        labels = {"app": f"s{number}"}
        apart = pod_affinity(away=[pod_term("kubernetes.io/hostname", labels)])
        rules: Object = {"affinity": apart, "topologySpreadConstraints": [spread(ZONE, 1, labels)]}
        made += [pod(f"s{number}-{replica}", "250m", labels=labels, **rules, **ANYWHERE) for replica in range(3)]
        beside = pod_affinity(near=[pod_term("kubernetes.io/hostname", labels)])
        made.append(pod(f"c{number}", "250m", affinity=beside, **ANYWHERE))
    return made


def broken(places: dict[str, str]) -> int:
    """Rules that do not hold: of a service two on one node, or a zone with two more than another; a cache alone."""
    zones = {machine["metadata"]["name"]: machine["metadata"]["labels"][ZONE] for machine in machines()}
    count = 0
    for number in range(6):
        nodes = [places[f"s{number}-{replica}"] for replica in range(3)]
        count += len(set(nodes)) < 3
        per_zone = Counter(zones[name] for name in nodes)
        count += max(per_zone.values()) - min(per_zone[zone] for zone in set(zones.values())) > 1
        count += places[f"c{number}"] not in nodes
    return count


def company() -> Figure:
    objects = replicated()
    without = broken(place(objects, (InterPodAffinity, PodTopologySpread)))
    return Figure("affinity, anti-affinity, spread", "rules broken, of 18", without, broken(place(objects)))
