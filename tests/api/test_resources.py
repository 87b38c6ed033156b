"""The table against the schema and against what upstream serves."""

import pytest

from raykube.api import resources
from raykube.api.resources import Registry, Resource, builtin
from raykube.api.shapes import definitions


def test_every_row_and_every_subresource_body_is_a_kind_of_the_schema() -> None:
    kinds = {
        (each["group"], each["version"], each["kind"])
        for definition in definitions().values()
        for each in definition.get("x-kubernetes-group-version-kind", ())
    }
    for row in resources.all_resources():
        if row.group == "metrics.k8s.io":
            continue  # an API of its own project: Kubernetes' schema does not have it
        assert (row.group, row.version, row.kind) in kinds
        for sub in row.subresources:
            connect = sub.kind.endswith("Options")  # parameters of a stream: not a body
            assert connect or (sub.group, sub.version, sub.kind) in kinds


def test_every_listable_kind_of_a_stable_version_has_a_row() -> None:
    lists = {
        (each["group"], each["version"], each["kind"][: -len("List")])
        for definition in definitions().values()
        for each in definition.get("x-kubernetes-group-version-kind", ())
        if each["kind"].endswith("List") and each["version"] in ("v1", "v2")
    }
    absent = {kind for kind in lists if resources.by_kind(*kind) is None}
    assert absent == {("", "v1", "APIGroup"), ("", "v1", "APIResource")}


def test_names_are_unique() -> None:
    rows = resources.all_resources()
    assert len({(row.group, row.version, row.plural) for row in rows}) == len(rows)
    shorts = [(row.group, row.version, short) for row in rows for short in row.short_names]
    assert len(set(shorts)) == len(shorts)


@pytest.mark.parametrize(
    ("api_version", "kind", "plural", "short", "namespaced"),
    [
        ("v1", "Pod", "pods", ("po",), True),
        ("v1", "Endpoints", "endpoints", ("ep",), True),
        ("v1", "Node", "nodes", ("no",), False),
        ("apps/v1", "Deployment", "deployments", ("deploy",), True),
        ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", ("netpol",), True),
        ("networking.k8s.io/v1", "IngressClass", "ingressclasses", (), False),
        ("storage.k8s.io/v1", "StorageClass", "storageclasses", ("sc",), False),
        ("batch/v1", "Job", "jobs", (), True),
    ],
)
def test_rows(api_version: str, kind: str, plural: str, short: tuple[str, ...], namespaced: bool) -> None:
    row = builtin(api_version, kind)
    assert (row.plural, row.short_names, row.namespaced) == (plural, short, namespaced)
    assert row.api_version == api_version
    assert resources.by_path(row.group, row.version, plural) is row
    assert resources.of({"apiVersion": api_version, "kind": kind}) is row


def test_keys() -> None:
    assert builtin("v1", "Pod").key("ns", "x") == "/registry/pods/ns/x"
    assert builtin("v1", "Node").key("", "x") == "/registry/nodes/x"
    assert builtin("apps/v1", "Deployment").key("ns", "x") == "/registry/apps/deployments/ns/x"
    assert builtin("apps/v1", "Deployment").qualified == "deployments.apps"
    assert builtin("v1", "Pod").namespace_prefix("ns") == "/registry/pods/ns/"
    assert builtin("v1", "Pod").namespace_prefix("") == "/registry/pods/"
    assert builtin("events.k8s.io/v1", "Event").key("ns", "x") == builtin("v1", "Event").key("ns", "x")


def test_no_prefix_holds_keys_of_another_resource() -> None:
    prefixes = {row.key_prefix for row in resources.all_resources()}
    for one in prefixes:
        assert not any(other != one and other.startswith(one) for other in prefixes)


def test_subresources_have_the_kinds_that_clients_look_for() -> None:
    pods = builtin("v1", "Pod")
    eviction = pods.subresource("eviction")
    assert eviction is not None
    assert (eviction.group, eviction.version, eviction.kind, eviction.verbs) == (
        "policy",
        "v1",
        "Eviction",
        ("create",),
    )
    scale = builtin("apps/v1", "Deployment").subresource("scale")
    assert scale is not None
    assert scale.api_version == "autoscaling/v1"
    assert pods.subresource("nothing") is None


def test_a_copy_takes_rows_of_its_own() -> None:
    row = Resource("stable.example.com", "v1", "CronTab", "crontabs", "crontab", True)
    registry = resources.BUILTIN.copy()
    registry.add(row)
    assert registry.by_kind("stable.example.com", "v1", "CronTab") is row
    assert registry.group_versions()[-1] == ("stable.example.com", "v1")
    assert registry.in_group_version("stable.example.com", "v1") == [row]
    renamed = Resource("stable.example.com", "v1", "Tab", "crontabs", "tab", True)
    registry.add(renamed)
    assert registry.by_kind("stable.example.com", "v1", "CronTab") is None
    registry.remove(renamed)
    assert registry.by_path("stable.example.com", "v1", "crontabs") is None
    assert resources.by_path("stable.example.com", "v1", "crontabs") is None


def test_an_empty_registry() -> None:
    assert Registry().all_resources() == []
    with pytest.raises(KeyError):
        builtin("v1", "Nothing")
