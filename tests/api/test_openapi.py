"""OpenAPI documents: whole, and good enough for kubectl explain."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from raykube.api import openapi
from raykube.api.resources import BUILTIN, Registry, Resource
from tests.kit.api_documents import serve_documents
from tests.kit.require import require_program


def load(group: str, version: str, registry: Registry = BUILTIN) -> dict[str, Any]:
    data = openapi.document(registry, group, version)
    assert data is not None
    document: dict[str, Any] = orjson.loads(data)
    return document


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref" and isinstance(each, str):
                yield each
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize(("group", "version"), BUILTIN.group_versions())
def test_a_document_is_closed_and_pure_openapi(group: str, version: str) -> None:
    document = load(group, version)
    schemas = document["components"]["schemas"]
    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names == set(schemas)
    assert b'"null"' not in orjson.dumps(document)


@pytest.mark.parametrize("row", BUILTIN.all_resources(), ids=lambda row: row.qualified)
def test_kubectl_finds_what_it_looks_for(row: Resource) -> None:
    document = load(row.group, row.version)
    gvk = {"group": row.group, "version": row.version, "kind": row.kind}
    assert any(
        gvk in schema.get("x-kubernetes-group-version-kind", ())
        for schema in document["components"]["schemas"].values()
    )
    patches = [
        path["patch"]
        for path in document["paths"].values()
        if "patch" in path and path["patch"]["x-kubernetes-group-version-kind"] == gvk
    ]
    assert bool(patches) == ("patch" in row.verbs)
    for patch in patches:
        assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}
        assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]


def test_merge_keys_reach_the_document() -> None:
    schemas = load("apps", "v1")["components"]["schemas"]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert containers["items"] == {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}]}
    assert "enum" not in schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["kind"]


def test_the_index_changes_with_the_rows_alone() -> None:
    index = orjson.loads(openapi.index(BUILTIN))["paths"]
    assert index == orjson.loads(openapi.index(BUILTIN.copy()))["paths"]
    assert index["api/v1"]["serverRelativeURL"].startswith("/openapi/v3/api/v1?hash=")
    more = BUILTIN.copy()
    more.add(Resource("apps", "v1", "Thing", "things", "thing", True))
    changed = orjson.loads(openapi.index(more))["paths"]
    assert {path for path in index if index[path] != changed[path]} == {"apis/apps/v1"}


def test_a_kind_without_schema_has_a_document() -> None:
    registry = Registry([Resource("stable.example.com", "v1", "CronTab", "crontabs", "crontab", True)])
    document = load("stable.example.com", "v1", registry)
    assert document["components"]["schemas"]["com.example.stable.v1.CronTab"]["x-kubernetes-group-version-kind"]
    assert "patch" in document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]
    assert openapi.document(registry, "", "v1") is None


@pytest.mark.integration
def test_kubectl_explain(tmp_path: Path) -> None:
    kubectl = require_program("kubectl")
    (tmp_path / "config").write_text("")
    with serve_documents(BUILTIN) as url:
        flags = [f"--kubeconfig={tmp_path}/config", f"--server={url}", f"--cache-dir={tmp_path}/cache"]
        for words, expected in (
            (["deploy.spec.strategy.rollingUpdate"], ["GROUP:      apps", "maxSurge\t<IntOrString>"]),
            (["pod.spec.containers.resources"], ["FIELDS:", "limits\t<map[string]Quantity>"]),
            (["svc", "--recursive"], ["KIND:       Service", "nodePort"]),
            (["jobs.spec.template.spec.containers.ports"], ["containerPort\t<integer> -required-"]),
            (["crd.spec.versions"], ["FIELD: versions <[]CustomResourceDefinitionVersion>"]),
        ):
            result = subprocess.run([kubectl, *flags, "explain", *words], capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, result.stderr
            for each in expected:
                assert each in result.stdout
