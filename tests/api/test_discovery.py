"""Discovery documents, and kubectl reading them."""

import subprocess
from pathlib import Path

import pytest

from raykube.api import discovery
from raykube.api.resources import BUILTIN, Registry, Resource
from tests.kit.api_documents import serve_documents
from tests.kit.require import require_program


def crontab(version: str) -> Resource:
    return Resource("stable.example.com", version, "CronTab", "crontabs", "crontab", True, ("ct",))


def test_versions_stand_in_kubernetes_order() -> None:
    names = ["foo", "v1alpha1", "v1beta2", "v1", "v10", "v2", "v1beta10", "v2alpha1"]
    assert sorted(names, key=discovery.version_priority, reverse=True) == [
        "v10",
        "v2",
        "v1",
        "v1beta10",
        "v1beta2",
        "v2alpha1",
        "v1alpha1",
        "foo",
    ]


def test_the_preferred_version_is_the_most_stable() -> None:
    registry = Registry([crontab("v1beta1"), crontab("v1")])
    group = discovery.api_group(registry, "stable.example.com")
    assert group is not None
    assert group["preferredVersion"] == {"groupVersion": "stable.example.com/v1", "version": "v1"}
    items = discovery.aggregated(registry, core=False)["items"]
    assert [each["version"] for each in items[0]["versions"]] == ["v1", "v1beta1"]
    assert discovery.aggregated(registry, core=True)["items"] == []


def test_both_forms_list_the_same() -> None:
    listed = set()
    for core in (True, False):
        for group in discovery.aggregated(BUILTIN, core)["items"]:
            name = group["metadata"].get("name", "")
            assert (name == "") == core
            for version in group["versions"]:
                for row in version["resources"]:
                    listed.add((name, version["version"], row["resource"]))
                    for sub in row.get("subresources", ()):
                        listed.add((name, version["version"], f"{row['resource']}/{sub['subresource']}"))
    legacy = set()
    for group, version in BUILTIN.group_versions():
        document = discovery.api_resource_list(BUILTIN, group, version)
        assert document is not None
        legacy |= {(group, version, row["name"]) for row in document["resources"]}
    assert legacy == listed


def test_subresources_of_other_groups_say_so() -> None:
    document = discovery.api_resource_list(BUILTIN, "", "v1")
    assert document is not None
    rows = {row["name"]: row for row in document["resources"]}
    assert rows["pods/eviction"] == {
        "name": "pods/eviction",
        "singularName": "",
        "namespaced": True,
        "group": "policy",
        "version": "v1",
        "kind": "Eviction",
        "verbs": ["create"],
    }
    assert "group" not in rows["pods/status"]
    assert rows["pods"]["shortNames"] == ["po"]
    assert rows["pods"]["categories"] == ["all"]
    assert rows["replicationcontrollers/scale"]["group"] == "autoscaling"


def test_what_is_not_served_is_none() -> None:
    assert discovery.api_group(BUILTIN, "nothing") is None
    assert discovery.api_group(BUILTIN, "") is None
    assert discovery.api_resource_list(BUILTIN, "apps", "v2") is None
    assert "apps" in {group["name"] for group in discovery.api_group_list(BUILTIN)["groups"]}
    assert discovery.api_versions("h:1")["versions"] == ["v1"]


@pytest.mark.integration
@pytest.mark.parametrize("aggregated", [True, False])
def test_kubectl_api_resources(aggregated: bool, tmp_path: Path) -> None:
    kubectl = require_program("kubectl")
    (tmp_path / "config").write_text("")
    with serve_documents(BUILTIN, aggregated) as url:
        base = [kubectl, f"--kubeconfig={tmp_path}/config", f"--server={url}", f"--cache-dir={tmp_path}/cache"]
        result = subprocess.run([*base, "api-resources", "-o", "wide"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0] + " " + line.split()[-1]: line for line in result.stdout.splitlines()}
    # Of a resource with several versions kubectl names the preferred one.
    assert len(result.stdout.splitlines()) == 1 + len({row.qualified for row in BUILTIN.all_resources()})
    deployments = next(line for line in lines.values() if line.startswith("deployments "))
    assert deployments.split() == [
        "deployments",
        "deploy",
        "apps/v1",
        "true",
        "Deployment",
        "create,delete,deletecollection,get,list,patch,update,watch",
        "all",
    ]
