"""endpointslice-controller and endpoints-controller on the model cluster."""

from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.controllers.core import kinds
from raykube.controllers.core.endpoints import EndpointsController
from raykube.controllers.core.endpointslice import EndpointSliceController
from raykube.controllers.core.plan import Obj
from tests.controllers.model import Cluster, Running

LABELS = {"app": "web"}


def service(**spec: Any) -> Obj:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "metadata": {"name": "web", "labels": {"tier": "front"}},
        "spec": {"selector": LABELS, "clusterIP": "10.0.0.1", "ports": ports, **spec},
    }


def pod(number: int, *, ready: bool = True, phase: str = "Running", ports: list[Obj] | None = None) -> Obj:
    return {
        "metadata": {"name": f"web-{number:03}", "labels": LABELS},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "ports": ports or []}]},
        "status": {
            "phase": phase,
            "podIP": f"10.1.{number // 250}.{number % 250 + 1}",
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def start(cluster: Cluster) -> Running:
    running = Running(cluster, [EndpointSliceController(), EndpointsController()])
    running.start()
    running.run()
    return running


def slices(cluster: Cluster) -> list[Obj]:
    return cluster.all(kinds.ENDPOINT_SLICES)


def names(endpoint_slice: Obj) -> list[str]:
    return [endpoint["targetRef"]["name"] for endpoint in endpoint_slice["endpoints"]]


def test_traffic_distribution_becomes_hints() -> None:
    zone, node = {"forZones": [{"name": "a"}]}, {"forNodes": [{"name": "node-1"}]}
    for distribution, expected in (
        ({}, None),
        ({"trafficDistribution": "PreferClose"}, zone),
        ({"trafficDistribution": "PreferSameZone"}, zone),
        ({"trafficDistribution": "PreferSameNode"}, zone | node),
    ):
        cluster = Cluster()
        labels = {"topology.kubernetes.io/zone": "a"}
        cluster.add(kinds.NODES, {"metadata": {"name": "node-1", "labels": labels}, "spec": {}})
        cluster.add(kinds.SERVICES, service(**distribution))
        cluster.add(kinds.PODS, pod(1))
        cluster.add(kinds.PODS, pod(2, ready=False))
        start(cluster)
        (found,) = slices(cluster)
        assert [endpoint.get("hints") for endpoint in found["endpoints"]] == [expected, None], distribution


def test_ready_and_unready_pods() -> None:
    cluster = Cluster()
    cluster.add(
        kinds.NODES, {"metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}}, "spec": {}}
    )
    cluster.add(kinds.SERVICES, service())
    cluster.add(kinds.PODS, pod(1))
    cluster.add(kinds.PODS, pod(2, ready=False))
    cluster.add(kinds.PODS, pod(3, phase="Succeeded"))
    start(cluster)
    (found,) = slices(cluster)
    assert found["metadata"]["labels"] == {
        "tier": "front",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Service"
    assert found["addressType"] == "IPv4"
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    first, second = found["endpoints"]
    assert first["conditions"] == {"ready": True, "serving": True, "terminating": False}
    assert first["zone"] == "a" and first["nodeName"] == "node-1" and first["addresses"] == ["10.1.0.2"]
    assert second["conditions"] == {"ready": False, "serving": False, "terminating": False}
    endpoints = cluster.get(kinds.ENDPOINTS, "default", "web")
    assert endpoints is not None
    (subset,) = endpoints["subsets"]
    assert [entry["ip"] for entry in subset["addresses"]] == ["10.1.0.2"]
    assert [entry["ip"] for entry in subset["notReadyAddresses"]] == ["10.1.0.3"]


def test_a_terminating_pod_serves_but_is_not_ready() -> None:
    cluster = Cluster()
    cluster.add(kinds.SERVICES, service())
    cluster.add(kinds.PODS, pod(1))
    running = start(cluster)
    cluster.remove(kinds.PODS, "web-001")
    running.run()
    (endpoint,) = slices(cluster)[0]["endpoints"]
    assert endpoint["conditions"] == {"ready": False, "serving": True, "terminating": True}
    endpoints = cluster.get(kinds.ENDPOINTS, "default", "web")
    assert endpoints is not None and not endpoints.get("subsets")


def test_publish_not_ready_addresses_and_headless() -> None:
    cluster = Cluster()
    cluster.add(kinds.SERVICES, service(publishNotReadyAddresses=True, clusterIP="None", ports=None))
    cluster.add(kinds.PODS, pod(1, ready=False))
    start(cluster)
    (found,) = slices(cluster)
    assert found["endpoints"][0]["conditions"]["ready"] is True and found["ports"] == []
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_named_ports_group_pods() -> None:
    cluster = Cluster()
    cluster.add(kinds.SERVICES, service(ports=[{"port": 80, "targetPort": "http", "protocol": "TCP"}]))
    for number, port in enumerate((8080, 8081, 8080)):
        cluster.add(kinds.PODS, pod(number, ports=[{"name": "http", "containerPort": port}]))
    start(cluster)
    assert sorted((each["ports"][0]["port"], len(each["endpoints"])) for each in slices(cluster)) == [
        (8080, 2),
        (8081, 1),
    ]


def test_no_pods_no_selector_and_a_removed_service() -> None:
    cluster = Cluster()
    found = cluster.add(kinds.SERVICES, service())
    bare = service(selector=None)
    bare["metadata"]["name"] = "bare"
    cluster.add(kinds.SERVICES, bare)
    running = start(cluster)
    assert [
        (each["metadata"]["labels"]["kubernetes.io/service-name"], each["endpoints"]) for each in slices(cluster)
    ] == [("web", [])]
    cluster.vanish(kinds.SERVICES, found)
    running.run()
    assert cluster.get(kinds.ENDPOINTS, "default", "web") is None


def test_one_change_rewrites_one_slice() -> None:
    cluster = Cluster()
    cluster.add(kinds.SERVICES, service())
    for number in range(250):
        cluster.add(kinds.PODS, pod(number))
    running = start(cluster)
    assert sorted(len(each["endpoints"]) for each in slices(cluster)) == [50, 100, 100]
    cluster.log.clear()
    cluster.vanish(kinds.PODS, cluster.all(kinds.PODS)[7])
    running.run()
    assert [write.verb for write in cluster.log if write.resource == kinds.ENDPOINT_SLICES] == ["patch"]
    cluster.log.clear()
    cluster.add(kinds.PODS, pod(300))
    running.run()
    assert [write.verb for write in cluster.log if write.resource == kinds.ENDPOINT_SLICES] == ["patch"]


@given(
    st.lists(st.tuples(st.sampled_from(["add", "gone", "ready", "unready"]), st.integers(0, 15)), max_size=40),
    st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_slices_say_what_the_pods_are(steps: list[tuple[str, int]], limit: int) -> None:
    cluster = Cluster()
    cluster.add(kinds.SERVICES, service())
    running = Running(cluster, [EndpointSliceController(limit)])
    running.start()
    for action, number in steps:
        name = f"web-{number:03}"
        present = cluster.get(kinds.PODS, "default", name)
        if action == "add" and present is None:
            cluster.add(kinds.PODS, pod(number))
        elif action == "gone" and present is not None:
            cluster.vanish(kinds.PODS, present)
        elif present is not None and action != "add":
            state = str(action == "ready")
            cluster.change(kinds.PODS, name, lambda obj, s=state: obj["status"]["conditions"][0].update(status=s))
        if number % 3 == 0:
            running.run()
    running.run()
    listed = [endpoint for each in slices(cluster) for endpoint in each["endpoints"]]
    wanted = {
        each["metadata"]["name"]: each["status"]["conditions"][0]["status"] == "True"
        for each in cluster.all(kinds.PODS)
    }
    assert {entry["targetRef"]["name"]: entry["conditions"]["ready"] for entry in listed} == wanted
    assert len(listed) == len(wanted) and all(len(each["endpoints"]) <= limit for each in slices(cluster))
    assert len(slices(cluster)) >= 1


CHANGES = ("add", "gone", "ready", "ended", "other", "moved", "port", "zone", "service")
CHANGES += ("slice gone", "slice changed", "slice taken", "endpoints changed", "endpoints gone")
NAMED = [{"name": "http", "port": 80, "targetPort": "web"}]


def disturb(cluster: Cluster, what: str, number: int) -> None:
    """Something happens to pods, or to what the controllers wrote."""
    name, found = f"web-{number:03}", slices(cluster)
    present = cluster.get(kinds.PODS, "default", name)
    if what == "add" and present is None:
        cluster.add(kinds.PODS, pod(number, ports=[{"name": "web", "containerPort": 8000 + number % 2}]))
    elif what == "gone" and present is not None:
        cluster.vanish(kinds.PODS, present)
    elif what in ("ready", "ended", "other", "moved", "port") and present is not None:
        edits: dict[str, Any] = {
            "ready": lambda each: each["status"]["conditions"][0].update(status=str(number % 2 == 0)),
            "ended": lambda each: each["status"].update(phase="Succeeded" if number % 2 else "Running"),
            "other": lambda each: each["metadata"].update(labels=LABELS if number % 2 else {"app": "other"}),
            "moved": lambda each: each["status"].update(podIP=f"10.2.0.{number}"),
            "port": lambda each: each["spec"].update(nodeName=f"node-{number % 3}"),
        }
        cluster.change(kinds.PODS, name, edits[what])
    elif what == "zone":
        labels = {"topology.kubernetes.io/zone": f"zone-{number}"}
        cluster.change(kinds.NODES, f"node-{number % 3}", lambda each: each["metadata"].update(labels=labels))
    elif what == "service":
        spec = {
            "ports": NAMED if number % 2 else service()["spec"]["ports"],
            "publishNotReadyAddresses": number % 4 > 1,
        }
        cluster.change(kinds.SERVICES, "web", lambda each: each["spec"].update(spec))
    elif what.startswith("slice ") and found:
        chosen = found[number % len(found)]
        if what == "slice gone":
            cluster.vanish(kinds.ENDPOINT_SLICES, chosen)
        else:
            labels = {"kubernetes.io/service-name": "other"} if what == "slice taken" else {"tier": "changed"}
            edit = lambda each: each["metadata"]["labels"].update(labels) or each["endpoints"].reverse()  # noqa: E731
            cluster.change(kinds.ENDPOINT_SLICES, chosen["metadata"]["name"], edit)
    elif what.startswith("endpoints ") and (endpoints := cluster.get(kinds.ENDPOINTS, "default", "web")):
        if what == "endpoints gone":
            cluster.vanish(kinds.ENDPOINTS, endpoints)
        else:
            cluster.change(kinds.ENDPOINTS, "web", lambda each: each.update(subsets=[]))


@given(
    st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 9)), max_size=40), st.integers(1, 4), st.integers(1, 4)
)
@settings(max_examples=150, deadline=None)
def test_what_one_remembers_is_what_another_would_find(steps: list[tuple[str, int]], limit: int, cut: int) -> None:
    cluster = Cluster()
    cluster.add(kinds.SERVICES, service())
    for number in range(3):
        cluster.add(kinds.NODES, {"metadata": {"name": f"node-{number}"}, "spec": {}})
    for number in range(4):
        disturb(cluster, "add", number)
    with patch("raykube.controllers.core.endpoints.ADDRESSES_MAX", cut):
        running = Running(cluster, [EndpointSliceController(limit), EndpointsController()])
        running.start()
        for number, (what, which) in enumerate(steps):
            disturb(cluster, what, which)
            if number % 2:
                running.run()
        running.run()
        for another in (EndpointSliceController(limit), EndpointsController()):
            assert not another.reconcile(cluster, "default/web", cluster.now).writes
    mine = [found for found in slices(cluster) if is_ours(found)]
    assert all(found["metadata"]["labels"]["tier"] == "front" for found in mine)
    listed = [(each["targetRef"]["name"], each["addresses"][0]) for found in mine for each in found["endpoints"]]
    living = [each for each in cluster.all(kinds.PODS) if each["status"]["phase"] == "Running"]
    selected = [each for each in living if each["metadata"]["labels"] == LABELS]
    assert sorted(listed) == sorted((each["metadata"]["name"], each["status"]["podIP"]) for each in selected)


def is_ours(found: Obj) -> bool:
    return bool(found["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
