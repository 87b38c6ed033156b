"""A Job's crew is kept by what changes: whatever happens, a controller that begins now finds nothing else to do."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.base.clock import rfc3339
from raykube.controllers.core import job_pods, kinds
from raykube.controllers.core.crew import Crew
from raykube.controllers.core.job import JobController
from raykube.controllers.core.plan import Obj
from tests.controllers.model import Cluster, Running, kubelet, set_pod
from tests.controllers.test_job import SELECTOR, job

OTHER = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "other", "uid": "other", "controller": True}]

moves = st.tuples(
    st.sampled_from(
        ["run", "ready", "end", "fail", "delete", "vanish", "relabel", "orphan", "sell", "untrack", "index", "job"]
    ),
    st.integers(0, 5),
)


def facts(crew: Crew, cluster: Cluster) -> tuple[Any, ...]:
    pods = {
        kind: sorted(pod["metadata"]["name"] for pod in getattr(crew, kind)(cluster))
        for kind in ("working", "others", "strays", "foreign")
    }
    places = {place: sorted(names) for place, names in crew.by_index.items()}
    return pods, places, crew.ready, crew.restarts, crew.members


def edit(move: str, number: int, cluster: Cluster) -> Any:
    """What happens to a pod."""
    phases = {"run": ("Running", False), "ready": ("Running", True), "end": ("Succeeded", False)}
    if move in phases:
        return set_pod(*phases[move], cluster.now)

    def change(pod: Obj) -> None:
        meta = pod["metadata"]
        if move == "relabel":
            meta["labels"] = {**meta["labels"], "batch.kubernetes.io/controller-uid": ("job-uid", "other")[number % 2]}
        elif move == "orphan":
            meta.pop("ownerReferences", None)
        elif move == "sell":
            meta["ownerReferences"] = OTHER
        elif move == "untrack":
            meta["finalizers"] = []
        elif move == "index":
            meta["annotations"] = {job_pods.INDEX: str(number)}
        elif move == "delete":
            meta.setdefault("deletionTimestamp", rfc3339(cluster.now))
        else:
            set_pod("Failed", False, cluster.now)(pod)
            pod["status"]["containerStatuses"] = [{"name": "c", "restartCount": number}]

    return change


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.booleans(), st.lists(moves, max_size=15))
def test_a_crew_is_what_a_new_one_would_be(indexed: bool, works: bool, steps: list[tuple[str, int]]) -> None:
    cluster, controller = Cluster(), JobController()
    mode = "Indexed" if indexed else "NonIndexed"
    cluster.add(kinds.JOBS, job(completions=6, parallelism=3, completionMode=mode, backoffLimit=1000))
    running = Running(cluster, [controller])
    running.start()
    running.run()
    for move, number in steps:
        names = sorted(pod["metadata"]["name"] for pod in cluster.all(kinds.PODS))
        if move == "job":
            cluster.change(kinds.JOBS, "sum", lambda each, to=number: each["spec"].update(parallelism=to))
        elif not names:
            continue
        elif move == "vanish":
            found = cluster.get(kinds.PODS, "default", names[number % len(names)])
            assert found is not None
            cluster.vanish(kinds.PODS, found)
        else:
            cluster.change(kinds.PODS, names[number % len(names)], edit(move, number, cluster))
        if works:
            kubelet(cluster)
        running.run()
        stored = cluster.get(kinds.JOBS, "default", "sum")
        crew = controller._crews.get("default/sum")
        assert stored is not None and (crew is not None or stored["status"].get("conditions"))
        if crew is not None:
            new = Crew(cluster, "default/sum", stored)
            for each in (crew, new):
                each.refresh(cluster)
            assert facts(crew, cluster) == facts(new, cluster)
        assert not JobController().reconcile(cluster, "default/sum", cluster.now).writes


def test_another_selector_is_another_crew() -> None:
    cluster = Cluster()
    stored = cluster.add(kinds.JOBS, job())
    crew = Crew(cluster, "default/sum", stored)
    assert crew.is_for(cluster.change(kinds.JOBS, "sum", lambda each: each["spec"].update(parallelism=2)))
    changed = {"matchLabels": {**SELECTOR["matchLabels"], "a": "b"}}
    assert not crew.is_for(cluster.change(kinds.JOBS, "sum", lambda each: each["spec"].update(selector=changed)))
