"""OpenAPI v3: an index and a document per group-version, made from the definitions that validation uses.

kubectl reads three things here: `explain` walks the schemas; `apply` and `create` look for a patch operation of the
kind that takes `fieldValidation` (else they refuse to send) and for its strategic-merge body; strategic merges on the
client use the list keys. So every served kind has its paths, its schemas and nothing more is needed of the rest.

A document never changes while its rows stay the same: its hash is of the rows, and clients cache by it for ever.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

from raykube.api.resources import Registry, Resource
from raykube.api.shapes import SCHEMA_VERSION, definitions
from raykube.api.typetree import definition_name
from raykube.api.version import KUBERNETES_VERSION

Object = dict[str, Any]

_FORMAT = 1  # of the documents: raise it when this module writes them differently
_SCHEMAS = "#/components/schemas/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_NULL = "null"

_JSON_TYPES = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
_PATCH_TYPES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)


def path_of(group: str, version: str) -> str:
    """`api/v1`, `apis/apps/v1`: a group-version's place in URLs."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


def digest(registry: Registry, group: str, version: str) -> str:
    """The hash of a document."""
    rows = registry.in_group_version(group, version)
    seed = repr((_FORMAT, SCHEMA_VERSION, KUBERNETES_VERSION, rows))
    return hashlib.sha256(seed.encode()).hexdigest().upper()


def index(registry: Registry) -> bytes:
    """`/openapi/v3`."""
    paths = {
        path_of(group, version): {
            "serverRelativeURL": f"/openapi/v3/{path_of(group, version)}?hash={digest(registry, group, version)}"
        }
        for group, version in registry.group_versions()
    }
    return orjson.dumps({"paths": paths})


def document(registry: Registry, group: str, version: str) -> bytes | None:
    """A group-version's document, None if it is not served. Building takes milliseconds: keep it by `digest`."""
    rows = registry.in_group_version(group, version)
    if not rows:
        return None
    schemas = _Schemas()
    paths: dict[str, Object] = {}
    for row in rows:
        _resource_paths(row, schemas, paths)
    return orjson.dumps(
        {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
            "paths": paths,
            "components": {"schemas": schemas.closed()},
        },
        option=orjson.OPT_SORT_KEYS,
    )


# -- schemas


class _Schemas:
    """The schemas that a document refers to, gathered as its paths name them."""

    def __init__(self) -> None:
        self._found: dict[str, Object] = {}
        self._wanted: list[str] = []

    def reference(self, name: str) -> Object:
        if name not in self._found:
            self._found[name] = {}
            self._wanted.append(name)
        return {"$ref": _SCHEMAS + name}

    def of_kind(self, group: str, version: str, kind: str) -> Object:
        name = definition_name(group, version, kind)
        if name:
            return self.reference(name)
        # A kind without a schema takes any fields; kubectl must still find it.
        name = ".".join((*reversed(group.split(".")), version, kind)) if group else f"{version}.{kind}"
        self._found[name] = {
            "type": "object",
            "properties": {"metadata": {"allOf": [self.reference(_META + "ObjectMeta")]}},
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind}],
        }
        return {"$ref": _SCHEMAS + name}

    def closed(self) -> dict[str, Object]:
        """Every schema named so far and all that they name."""
        while self._wanted:
            name = self._wanted.pop()
            self._found[name] = self._converted(definitions()[name])
        return self._found

    def _converted(self, schema: Object) -> Object:
        """A JSON schema of the package → OpenAPI 3.0: no null types, references under allOf beside their siblings."""
        result: Object = {}
        for key, value in schema.items():
            if key == "$ref":
                result["allOf"] = [self.reference(str(value).rpartition("/")[2])]
            elif key == "type" and isinstance(value, list):
                result["type"] = next((each for each in value if each != _NULL), _NULL)
            elif key == "properties":
                result[key] = {name: self._converted(each) for name, each in value.items()}
            elif key in ("items", "additionalProperties") and isinstance(value, dict):
                result[key] = self._converted(value)
            elif key in ("oneOf", "anyOf", "allOf"):
                result[key] = [self._converted(each) for each in value]
            elif key != "enum":  # the package pins kind and apiVersion by one; the API has no other
                result[key] = value
        return result


# -- paths


def _resource_paths(row: Resource, schemas: _Schemas, paths: dict[str, Object]) -> None:
    root = f"/{path_of(row.group, row.version)}/"
    place = f"{root}namespaces/{{namespace}}/{row.plural}" if row.namespaced else root + row.plural
    body = schemas.of_kind(row.group, row.version, row.kind)
    listed = schemas.of_kind(row.group, row.version, row.list_kind) if "list" in row.verbs else body
    verbs = set(row.verbs)
    gvk = {"group": row.group, "version": row.version, "kind": row.kind}
    scope = [_NAMESPACE] if row.namespaced else []
    collection = _operations(
        gvk,
        schemas,
        get=("list", listed) if "list" in verbs else None,
        post=body if "create" in verbs else None,
        delete="deletecollection" if "deletecollection" in verbs else "",
    )
    if row.namespaced and "list" in verbs:
        paths[root + row.plural] = _operations(gvk, schemas, get=("list", listed))
    paths[place] = {**collection, "parameters": [*scope, _PRETTY]}
    single = _operations(
        gvk,
        schemas,
        get=("get", body) if "get" in verbs else None,
        put=body if "update" in verbs else None,
        patch=body if "patch" in verbs else None,
        delete="delete" if "delete" in verbs else "",
    )
    if single:
        paths[f"{place}/{{name}}"] = {**single, "parameters": [_NAME, *scope, _PRETTY]}
    for sub in row.subresources:
        own = {"group": sub.group, "version": sub.version, "kind": sub.kind}
        sub_body: Object = {"type": "string"}
        if definition_name(sub.group, sub.version, sub.kind):
            sub_body = schemas.of_kind(sub.group, sub.version, sub.kind)
        operations = _operations(
            own,
            schemas,
            get=("get", sub_body) if "get" in sub.verbs else None,
            post=sub_body if "create" in sub.verbs else None,
            put=sub_body if "update" in sub.verbs else None,
            patch=sub_body if "patch" in sub.verbs else None,
        )
        paths[f"{place}/{{name}}/{sub.name}"] = {**operations, "parameters": [_NAME, *scope, _PRETTY]}


def _operations(
    gvk: Object,
    schemas: _Schemas,
    get: tuple[str, Object] | None = None,
    post: Object | None = None,
    put: Object | None = None,
    patch: Object | None = None,
    delete: str = "",
) -> Object:
    operations: Object = {}
    if get is not None:
        action, body = get
        parameters = _LIST_PARAMETERS if action == "list" else []
        operations["get"] = _operation(action, gvk, parameters, _content(_JSON_TYPES, body))
    for method, action, sent in (("post", "post", post), ("put", "put", put)):
        if sent is not None:
            operations[method] = _operation(action, gvk, _WRITE_PARAMETERS, _content(_JSON_TYPES, sent))
            operations[method]["requestBody"] = {"content": _content(("*/*",), sent), "required": True}
    if patch is not None:
        operations["patch"] = _operation("patch", gvk, _PATCH_PARAMETERS, _content(_JSON_TYPES, patch))
        sent = schemas.reference(_META + "Patch")
        operations["patch"]["requestBody"] = {"content": _content(_PATCH_TYPES, sent), "required": True}
    if delete:
        status = schemas.reference(_META + "Status")
        parameters = _LIST_PARAMETERS if delete == "deletecollection" else _DELETE_PARAMETERS
        operations["delete"] = _operation(delete, gvk, parameters, _content(_JSON_TYPES, status))
        options = schemas.reference(_META + "DeleteOptions")
        operations["delete"]["requestBody"] = {"content": _content(("*/*",), options)}
    return operations


def _operation(action: str, gvk: Object, parameters: list[Object], content: Object) -> Object:
    operation: Object = {
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
    }
    if parameters:
        operation["parameters"] = parameters
    return operation


def _content(types: Iterable[str], schema: Object) -> Object:
    return {each: {"schema": schema} for each in types}


def _query(name: str, type_: str, description: str) -> Object:
    return {"name": name, "in": "query", "description": description, "schema": {"type": type_, "uniqueItems": True}}


def _path(name: str, description: str) -> Object:
    return {
        "name": name,
        "in": "path",
        "description": description,
        "required": True,
        "schema": {"type": "string", "uniqueItems": True},
    }


_NAME = _path("name", "name of the object")
_NAMESPACE = _path("namespace", "namespace of the object")
_PRETTY = _query("pretty", "string", "If 'true', the answer is indented.")
_DRY_RUN = _query("dryRun", "string", "All: every stage runs, and nothing is stored.")
_MANAGER = _query("fieldManager", "string", "The name of the actor who makes the change.")
_VALIDATION = _query(
    "fieldValidation", "string", "What unknown and duplicate fields do: Ignore, Warn (the default) or Strict."
)
_WRITE_PARAMETERS = [_DRY_RUN, _MANAGER, _VALIDATION]
_PATCH_PARAMETERS = [
    *_WRITE_PARAMETERS,
    _query("force", "boolean", "Apply takes fields over from other managers."),
]
_DELETE_PARAMETERS = [
    _DRY_RUN,
    _query("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0: now."),
    _query("orphanDependents", "boolean", "Replaced by propagationPolicy."),
    _query("propagationPolicy", "string", "Orphan, Background or Foreground."),
]
_LIST_PARAMETERS = [
    _query("allowWatchBookmarks", "boolean", "A watch may send BOOKMARK events."),
    _query("continue", "string", "Where the list before ended."),
    _query("fieldSelector", "string", "Only objects whose fields match."),
    _query("labelSelector", "string", "Only objects whose labels match."),
    _query("limit", "integer", "The most objects in one answer."),
    _query("resourceVersion", "string", "The revision to list or to watch from."),
    _query("resourceVersionMatch", "string", "Exact or NotOlderThan."),
    _query("sendInitialEvents", "boolean", "A watch begins with the objects there are."),
    _query("timeoutSeconds", "integer", "How long the call may take."),
    _query("watch", "boolean", "Changes as a stream of events."),
]
