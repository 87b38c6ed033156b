"""The official Python client, through its typed API, its dynamic client and its watches."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException

from tests.kubectl.conftest import Kubectl
from tests.kubectl.manifests import CONFIG_MAP, DEPLOYMENT, POD

pytestmark = pytest.mark.integration


@pytest.fixture
def api(kubectl: Kubectl) -> Iterator[client.ApiClient]:
    made = config.new_client_from_config(str(kubectl.plane.kubeconfig))
    yield made
    made.close()


def test_typed_objects(kubectl: Kubectl, api: client.ApiClient) -> None:
    apps, core = client.AppsV1Api(api), client.CoreV1Api(api)
    made = apps.create_namespaced_deployment(kubectl.namespace, yaml.safe_load(DEPLOYMENT))
    assert made.spec.template.spec.containers[0].ports[0].protocol == "TCP"
    made.spec.replicas = 4
    assert apps.replace_namespaced_deployment("web", kubectl.namespace, made).spec.replicas == 4
    with pytest.raises(ApiException) as raised:
        apps.replace_namespaced_deployment("web", kubectl.namespace, made)  # its resourceVersion is old now
    assert (raised.value.status, yaml.safe_load(raised.value.body)["reason"]) == (409, "Conflict")
    assert apps.read_namespaced_deployment_scale("web", kubectl.namespace).spec.replicas == 4
    apps.patch_namespaced_deployment_scale("web", kubectl.namespace, {"spec": {"replicas": 1}})
    assert [each.spec.replicas for each in apps.list_namespaced_deployment(kubectl.namespace).items] == [1]
    core.create_namespaced_pod(kubectl.namespace, yaml.safe_load(POD))
    assert core.read_namespaced_pod("p", kubectl.namespace).status.phase == "Pending"
    assert core.delete_namespaced_pod("p", kubectl.namespace, grace_period_seconds=0).metadata.name == "p"
    gone = apps.delete_namespaced_deployment("web", kubectl.namespace)
    assert (gone["status"] if isinstance(gone, dict) else gone.status) == "Success"  # the client's versions differ


def test_patches(kubectl: Kubectl, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map(kubectl.namespace, yaml.safe_load(CONFIG_MAP))
    assert core.patch_namespaced_config_map("cm", kubectl.namespace, {"data": {"b": "2"}}).data == {"a": "1", "b": "2"}
    operations = [{"op": "remove", "path": "/data/a"}]
    assert core.patch_namespaced_config_map("cm", kubectl.namespace, operations).data == {"b": "2"}


def test_errors_are_status_objects(kubectl: Kubectl, api: client.ApiClient) -> None:
    with pytest.raises(ApiException) as raised:
        client.CoreV1Api(api).read_namespaced_pod("nothing", kubectl.namespace)
    status = yaml.safe_load(raised.value.body)
    assert status == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "nothing" not found',
        "reason": "NotFound",
        "details": {"name": "nothing", "kind": "pods"},
        "code": 404,
    }


def test_watch_from_a_list(kubectl: Kubectl, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    start = core.list_namespaced_config_map(kubectl.namespace).metadata.resource_version

    def change() -> None:
        mine = client.CoreV1Api(config.new_client_from_config(str(kubectl.plane.kubeconfig)))
        mine.create_namespaced_config_map(kubectl.namespace, yaml.safe_load(CONFIG_MAP))
        mine.patch_namespaced_config_map("cm", kubectl.namespace, {"data": {"a": "2"}})
        mine.delete_namespaced_config_map("cm", kubectl.namespace)

    changes = threading.Thread(target=change)
    changes.start()
    seen: list[tuple[str, Any]] = []
    watching = watch.Watch()
    for event in watching.stream(
        core.list_namespaced_config_map, kubectl.namespace, resource_version=start, timeout_seconds=30
    ):
        seen.append((event["type"], event["object"].data))
        if event["type"] == "DELETED":
            watching.stop()
    changes.join()
    assert seen == [("ADDED", {"a": "1"}), ("MODIFIED", {"a": "2"}), ("DELETED", {"a": "2"})]


def test_a_watch_ends_when_its_time_is_up(kubectl: Kubectl, api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map(kubectl.namespace, yaml.safe_load(CONFIG_MAP))
    events = list(watch.Watch().stream(core.list_namespaced_config_map, kubectl.namespace, timeout_seconds=1))
    assert [(each["type"], each["object"].metadata.name) for each in events] == [("ADDED", "cm")]


def test_dynamic_client_applies(kubectl: Kubectl, api: client.ApiClient) -> None:
    maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
    body = {**yaml.safe_load(CONFIG_MAP), "metadata": {"name": "cm", "namespace": kubectl.namespace}}
    applied = maps.server_side_apply(body=body, name="cm", namespace=kubectl.namespace, field_manager="me")
    assert applied.metadata.managedFields[0].manager == "me"
    assert [each.metadata.name for each in maps.get(namespace=kubectl.namespace).items] == ["cm"]


def test_reviews_and_version(kubectl: Kubectl, api: client.ApiClient) -> None:
    review = {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": kubectl.namespace}}}
    answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    assert answer.status.allowed
    assert client.VersionApi(api).get_code().minor == "36"
    assert "apps" in [group.name for group in client.ApisApi(api).get_api_versions().groups]
