"""endpointslice-mirroring-controller on the model cluster."""

from typing import Any

import pytest

from raykube.controllers.caches import resource_table
from raykube.controllers.core import kinds
from raykube.controllers.core.endpoints import EndpointsController
from raykube.controllers.core.endpointslice import EndpointSliceController
from raykube.controllers.core.endpointslice_mirroring import EndpointSliceMirroringController
from raykube.controllers.core.garbage import GarbageCollector
from raykube.controllers.core.plan import Obj
from tests.controllers.model import Cluster, Running

PORTS = [{"name": "sql", "port": 5432, "protocol": "TCP"}]


def endpoints(*subsets: Obj, **meta: Any) -> Obj:
    return {"metadata": {"name": "db", "labels": {"tier": "back"}, **meta}, "subsets": list(subsets)}


def subset(*ready: str, down: tuple[str, ...] = (), ports: list[Obj] = PORTS) -> Obj:
    found: Obj = {"addresses": [{"ip": ip} for ip in ready], "ports": ports}
    return found | ({"notReadyAddresses": [{"ip": ip} for ip in down]} if down else {})


def start(cluster: Cluster, **spec: Any) -> Running:
    cluster.add(kinds.SERVICES, {"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}], **spec}})
    controllers = [EndpointSliceMirroringController(), EndpointSliceController(), EndpointsController()]
    running = Running(cluster, [*controllers, GarbageCollector(resource_table())])
    running.start()
    running.run()
    return running


def said(cluster: Cluster) -> list[tuple[str, list[int], dict[str, bool]]]:
    """Of each slice its family, ports and addresses, with whether they are ready."""
    return sorted(
        (
            each["addressType"],
            [port["port"] for port in each["ports"]],
            {one["addresses"][0]: one["conditions"]["ready"] for one in each["endpoints"]},
        )
        for each in cluster.all(kinds.ENDPOINT_SLICES)
    )


def test_what_a_user_says_is_said_in_slices() -> None:
    cluster = Cluster()
    made = cluster.add(kinds.ENDPOINTS, endpoints(subset("10.9.0.1", "fd00::1", down=("10.9.0.2",))))
    start(cluster)
    assert said(cluster) == [
        ("IPv4", [5432], {"10.9.0.1": True, "10.9.0.2": False}),
        ("IPv6", [5432], {"fd00::1": True}),
    ]
    for each in cluster.all(kinds.ENDPOINT_SLICES):
        assert each["metadata"]["labels"] == {
            "tier": "back",
            "kubernetes.io/service-name": "db",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        }
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Endpoints", made["metadata"]["uid"])


def test_changes_are_followed_in_place_and_slices_go_with_their_endpoints() -> None:
    cluster = Cluster()
    cluster.add(kinds.ENDPOINTS, endpoints(subset("10.9.0.1"), subset("10.9.0.1", ports=[{"port": 80}])))
    running = start(cluster)
    before = {each["metadata"]["name"] for each in cluster.all(kinds.ENDPOINT_SLICES)}
    assert said(cluster) == [("IPv4", [80], {"10.9.0.1": True}), ("IPv4", [5432], {"10.9.0.1": True})]
    cluster.change(kinds.ENDPOINTS, "db", lambda obj: obj.update(subsets=[subset("10.9.0.7")]))
    running.run()
    assert said(cluster) == [("IPv4", [5432], {"10.9.0.7": True})]
    (left,) = cluster.all(kinds.ENDPOINT_SLICES)
    assert left["metadata"]["name"] in before
    cluster.change(kinds.ENDPOINT_SLICES, left["metadata"]["name"], lambda obj: obj.update(endpoints=[], ports=[]))
    running.run()
    assert said(cluster) == [("IPv4", [5432], {"10.9.0.7": True})], "what others wrote into it does not stay"
    cluster.remove(kinds.ENDPOINTS, "db")
    running.run()
    assert not cluster.all(kinds.ENDPOINT_SLICES)


def test_endpoints_made_anew_have_slices_that_stay() -> None:
    cluster = Cluster()
    cluster.add(kinds.ENDPOINTS, endpoints(subset("10.9.0.1")))
    running = start(cluster)
    cluster.remove(kinds.ENDPOINTS, "db")
    made = cluster.add(kinds.ENDPOINTS, endpoints(subset("10.9.0.1")))
    running.run()
    (mirror,) = cluster.all(kinds.ENDPOINT_SLICES)
    assert mirror["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]


@pytest.mark.parametrize(
    "meta",
    [
        {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}},
    ],
)
def test_some_are_not_mirrored(meta: Obj) -> None:
    cluster = Cluster()
    cluster.add(kinds.ENDPOINTS, endpoints(subset("10.9.0.1"), **meta))
    running = start(cluster)
    assert not cluster.all(kinds.ENDPOINT_SLICES)
    cluster.change(kinds.ENDPOINTS, "db", lambda obj: obj["metadata"].update(labels={}, annotations={}))
    running.run()
    assert said(cluster) == [("IPv4", [5432], {"10.9.0.1": True})]


def test_a_service_that_gets_a_selector_has_the_slices_of_its_pods_only() -> None:
    cluster = Cluster()
    cluster.add(kinds.ENDPOINTS, endpoints(subset("10.9.0.1")))
    running = start(cluster)
    cluster.change(kinds.SERVICES, "db", lambda obj: obj["spec"].update(selector={"app": "db"}))
    running.run()
    assert said(cluster) == [("IPv4", [], {})]


def test_more_addresses_than_a_slice_takes_are_spread_over_several() -> None:
    cluster = Cluster()
    every = [f"10.9.{number // 250}.{number % 250 + 1}" for number in range(1500)]
    cluster.add(kinds.ENDPOINTS, endpoints(subset(*every)))
    start(cluster)
    found = [[one["addresses"][0] for one in each["endpoints"]] for each in cluster.all(kinds.ENDPOINT_SLICES)]
    assert sorted(map(len, found)) == [500, 1000] and {ip for part in found for ip in part} == set(every)
