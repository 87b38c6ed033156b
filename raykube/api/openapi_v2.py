"""OpenAPI v2, as little of it as clients need beside v3, in the one encoding they ask for: gnostic's protobuf.

kubectl falls back to v2 for what no v3 document names: a `kind: List` (`kubectl get -o yaml | kubectl apply -f -`) and
kinds that nobody serves. It wants to find, for the Namespace or the kind itself, a patch operation that takes
`fieldValidation`; then it leaves validation to the server. So the document holds the patch operation of each kind, and
no schemas. The numbers below are those of gnostic's messages."""

from raykube.api.openapi import path_of
from raykube.api.resources import Registry, Resource
from raykube.api.version import KUBERNETES_VERSION
from raykube.base.encoded import varint

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"  # asked for …
CONTENT_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"  # … and answered: "@" is no MIME

# Document
_SWAGGER, _INFO, _PATHS, _DEFINITIONS = 1, 2, 8, 9
# Info, Named*
_TITLE, _VERSION = 1, 2
_NAME, _VALUE = 1, 2
# Paths, PathItem, Operation
_PATH = 2
_PATCH = 8
_OPERATION_ID, _PARAMETERS, _EXTENSION = 5, 8, 13
# ParametersItem → Parameter → NonBodyParameter → QueryParameterSubSchema
_PARAMETER, _NON_BODY, _QUERY = 1, 2, 3
_QUERY_IN, _QUERY_NAME, _QUERY_TYPE = 2, 4, 6
_YAML = 2  # Any


def _field(number: int, content: bytes | str) -> bytes:
    """A length-delimited protobuf field."""
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def _query_parameter(name: str) -> bytes:
    query = _field(_QUERY_IN, "query") + _field(_QUERY_NAME, name) + _field(_QUERY_TYPE, "string")
    return _field(_PARAMETER, _field(_NON_BODY, _field(_QUERY, query)))


_PARAMETERS_OF_PATCH = b"".join(
    _field(_PARAMETERS, _query_parameter(name)) for name in ("dryRun", "fieldManager", "fieldValidation")
)


def _path(row: Resource) -> bytes:
    place = "namespaces/{namespace}/" if row.namespaced else ""
    kind = f"group: {row.group or chr(34) * 2}\nkind: {row.kind}\nversion: {row.version}\n"
    extension = _field(_NAME, "x-kubernetes-group-version-kind") + _field(_VALUE, _field(_YAML, kind))
    operation = _field(_OPERATION_ID, f"patch{row.kind}") + _PARAMETERS_OF_PATCH + _field(_EXTENSION, extension)
    name = f"/{path_of(row.group, row.version)}/{place}{row.plural}/{{name}}"
    return _field(_PATH, _field(_NAME, name) + _field(_VALUE, _field(_PATCH, operation)))


def document(registry: Registry) -> bytes:
    """The document of all that `registry` serves."""
    info = _field(_TITLE, "Kubernetes") + _field(_VERSION, KUBERNETES_VERSION)
    paths = b"".join(_path(row) for row in registry.all_resources() if "patch" in row.verbs)
    return _field(_SWAGGER, "2.0") + _field(_INFO, info) + _field(_PATHS, paths) + _field(_DEFINITIONS, b"")
