"""deployment-controller, together with replicaset-controller, on the model cluster."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.controllers.core import conditions, kinds, revisions
from raykube.controllers.core.deployment import DeploymentController
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.pods import is_active, is_ready
from raykube.controllers.core.replicaset import ReplicaSetController
from tests.controllers.model import Cluster, Crash, Running, kubelet, template

LABELS = {"app": "web"}


def deployment(replicas: int, **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "annotations": {"team": "a"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": template(LABELS),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            **spec,
        },
    }


def rolling(surge: int | str, unavailable: int | str) -> Obj:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


def controllers() -> list[Any]:
    return [DeploymentController(), ReplicaSetController()]


def start(cluster: Cluster) -> Running:
    running = Running(cluster, controllers())
    running.start()
    running.run()
    return running


def roll(cluster: Cluster, running: Running) -> None:
    """Lets the roll-out go on until nothing moves."""
    running.run()
    while kubelet(cluster):
        running.run()


def get(cluster: Cluster) -> Obj:
    found = cluster.get(kinds.DEPLOYMENTS, "default", "web")
    assert found is not None
    return found


def reasons(cluster: Cluster) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in get(cluster)["status"]["conditions"]}


def set_image(cluster: Cluster, image: str) -> None:
    cluster.change(kinds.DEPLOYMENTS, "web", lambda obj: obj["spec"].update(template=template(LABELS, image)))


def sizes(cluster: Cluster) -> dict[str, int]:
    return {
        each["spec"]["template"]["spec"]["containers"][0]["image"]: each["spec"]["replicas"]
        for each in cluster.all(kinds.REPLICA_SETS)
    }


def test_creates_a_replica_set_and_reports() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(3))
    running = start(cluster)
    (replica_set,) = cluster.all(kinds.REPLICA_SETS)
    value = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{value}"
    assert replica_set["spec"]["selector"]["matchLabels"] == {**LABELS, "pod-template-hash": value}
    assert replica_set["metadata"]["annotations"] == {
        "team": "a",
        "deployment.kubernetes.io/revision": "1",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
    }
    assert get(cluster)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert get(cluster)["status"]["unavailableReplicas"] == 3
    assert reasons(cluster)["Available"] == ("False", "MinimumReplicasUnavailable")
    roll(cluster, running)
    status = get(cluster)["status"]
    assert {field: status[field] for field in status if field != "conditions"} == {
        "observedGeneration": 1,
        "replicas": 3,
        "updatedReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
    }
    assert reasons(cluster) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    scaled = [event.message for event in cluster.events if event.reason == "ScalingReplicaSet"]
    assert scaled == [f"Scaled up replica set web-{value} from 0 to 3"]


def test_rolls_out_within_the_fence_posts() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(4, strategy=rolling(1, 0)))
    running = start(cluster)
    roll(cluster, running)
    set_image(cluster, "web:2")
    running.run()
    while True:
        pods = [pod for pod in cluster.all(kinds.PODS) if is_active(pod)]
        assert len(pods) <= 5
        assert sum(map(is_ready, pods)) >= 4
        if not kubelet(cluster):
            break
        running.run()
    assert sizes(cluster) == {"web:1": 0, "web:2": 4}
    assert reasons(cluster)["Progressing"] == ("True", "NewReplicaSetAvailable")
    assert get(cluster)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


def test_undo_reuses_the_old_replica_set_with_a_new_revision() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(2))
    running = start(cluster)
    for image in ("web:2", "web:1"):
        roll(cluster, running)
        set_image(cluster, image)
    roll(cluster, running)
    assert sizes(cluster) == {"web:1": 2, "web:2": 0}
    annotations = {
        each["spec"]["replicas"]: each["metadata"]["annotations"] for each in cluster.all(kinds.REPLICA_SETS)
    }
    assert annotations[2]["deployment.kubernetes.io/revision"] == "3"
    assert annotations[2]["deployment.kubernetes.io/revision-history"] == "1"
    assert get(cluster)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


def test_recreate_waits_for_the_old_pods() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(2, strategy={"type": "Recreate"}))
    running = start(cluster)
    roll(cluster, running)
    set_image(cluster, "web:2")
    running.run()
    assert sizes(cluster) == {"web:1": 0}, "the old pods still run"
    roll(cluster, running)
    assert sizes(cluster) == {"web:1": 0, "web:2": 2}
    assert reasons(cluster)["Available"][0] == "True"


def test_scales_in_proportion_in_the_middle_of_a_roll_out() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(10, strategy=rolling(3, 2)))
    running = start(cluster)
    roll(cluster, running)
    set_image(cluster, "web:2")
    running.run()
    assert sizes(cluster) == {"web:1": 8, "web:2": 5}
    cluster.change(kinds.DEPLOYMENTS, "web", lambda obj: obj["spec"].update(replicas=15))
    running.run()
    assert sizes(cluster) == {"web:1": 11, "web:2": 7}
    roll(cluster, running)
    assert sizes(cluster) == {"web:1": 0, "web:2": 15}


def test_paused_scales_but_does_not_roll() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(2))
    running = start(cluster)
    roll(cluster, running)
    cluster.change(kinds.DEPLOYMENTS, "web", lambda obj: obj["spec"].update(paused=True, replicas=3))
    set_image(cluster, "web:2")
    roll(cluster, running)
    assert sizes(cluster) == {"web:1": 3}
    assert reasons(cluster)["Progressing"] == ("Unknown", "DeploymentPaused")
    cluster.change(kinds.DEPLOYMENTS, "web", lambda obj: obj["spec"].pop("paused"))
    roll(cluster, running)
    assert sizes(cluster) == {"web:1": 0, "web:2": 3}
    assert reasons(cluster)["Progressing"] == ("True", "NewReplicaSetAvailable")


def test_misses_its_progress_deadline() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(2, progressDeadlineSeconds=60))
    running = start(cluster)
    running.advance(59)
    assert reasons(cluster)["Progressing"][0] == "True"
    running.advance(3)
    assert reasons(cluster)["Progressing"] == ("False", "ProgressDeadlineExceeded")
    roll(cluster, running)
    assert reasons(cluster)["Progressing"] == ("True", "NewReplicaSetAvailable")


def test_keeps_as_much_history_as_asked_for() -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(1, revisionHistoryLimit=2))
    running = start(cluster)
    for number in range(2, 7):
        roll(cluster, running)
        set_image(cluster, f"web:{number}")
    roll(cluster, running)
    assert sizes(cluster) == {"web:4": 0, "web:5": 0, "web:6": 1}


def test_a_taken_name_counts_as_a_collision() -> None:
    cluster = Cluster()
    value = revisions.template_hash(template(LABELS), 0)
    stranger = {"metadata": {"name": f"web-{value}"}, "spec": {"replicas": 0, "template": template({"x": "y"})}}
    cluster.add(kinds.REPLICA_SETS, stranger)
    cluster.add(kinds.DEPLOYMENTS, deployment(1))
    start(cluster)
    assert get(cluster)["status"]["collisionCount"] == 1
    assert len(cluster.all(kinds.REPLICA_SETS)) == 2


def test_the_hash_is_of_the_content() -> None:
    one = {"metadata": {"labels": {"a": "b", "c": "d"}}, "spec": {"x": 1, "y": [1]}}
    two = {"spec": {"y": [1], "x": 1}, "metadata": {"creationTimestamp": None, "labels": {"c": "d", "a": "b"}}}
    assert revisions.template_hash(one, 0) == revisions.template_hash(two, 0)
    assert revisions.template_hash(one, 0) != revisions.template_hash(one, 1)
    assert revisions.template_hash({**one, "spec": {"x": 2}}, 0) != revisions.template_hash(one, 0)


@pytest.mark.parametrize(
    ("surge", "unavailable", "desired", "expected"),
    [("25%", "25%", 3, (1, 0)), (0, "25%", 3, (0, 1)), ("100%", 0, 5, (5, 0)), (2, 9, 4, (2, 4)), (1, 1, 0, (1, 0))],
)
def test_fence_posts(surge: Any, unavailable: Any, desired: int, expected: tuple[int, int]) -> None:
    assert revisions.fenceposts(deployment(desired, strategy=rolling(surge, unavailable))) == expected


STEPS = st.lists(
    st.tuples(st.sampled_from(["image", "scale", "kubelet", "pause", "resume", "crash"]), st.integers(0, 5)),
    min_size=1,
    max_size=10,
)


@given(steps=STEPS, surge=st.integers(0, 2), unavailable=st.integers(0, 2))
@settings(max_examples=120, deadline=None)
def test_converges_whatever_happens(steps: list[tuple[str, int]], surge: int, unavailable: int) -> None:
    cluster = Cluster()
    cluster.add(kinds.DEPLOYMENTS, deployment(3, strategy=rolling(surge, unavailable)))
    for action, number in steps:
        if action == "image":
            set_image(cluster, f"web:{number}")
        elif action == "scale":
            cluster.change(kinds.DEPLOYMENTS, "web", lambda obj, number=number: obj["spec"].update(replicas=number))
        elif action == "kubelet":
            kubelet(cluster)
        elif action == "crash":
            cluster.writes_left = number
        else:
            paused = action == "pause"
            cluster.change(kinds.DEPLOYMENTS, "web", lambda obj, paused=paused: obj["spec"].update(paused=paused))
        with contextlib.suppress(Crash):
            start(cluster)
    cluster.writes_left = -1
    cluster.change(kinds.DEPLOYMENTS, "web", lambda obj: obj["spec"].update(paused=False))
    running = start(cluster)
    for _ in range(60):
        if not kubelet(cluster):
            break
        running.run()
    spec = get(cluster)["spec"]
    wanted = spec["template"]["spec"]["containers"][0]["image"]
    assert {image: size for image, size in sizes(cluster).items() if size} == (
        {wanted: spec["replicas"]} if spec["replicas"] else {}
    )
    assert len([pod for pod in cluster.all(kinds.PODS) if is_active(pod)]) == spec["replicas"]
    assert conditions.is_true(get(cluster)["status"]["conditions"], "Available")
