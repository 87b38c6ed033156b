"""Request bodies → objects, strictly: media types, malformed text, duplicate fields, the wrong kind.

    body, media type ──decode_body──► any object + its duplicate fields
                     ──decode_object► an object of a resource + all strict problems (`unknown field "spec.foo"`)

Problems are for the caller to judge by `fieldValidation`: Strict refuses (`strict_error`), Warn warns, Ignore drops.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import orjson
import yaml

from raykube.api import resources, schema
from raykube.api.errors import ApiError
from raykube.api.protobuf import decode_protobuf
from raykube.api.schema import Typed

__all__ = [
    "BODY_TYPES",
    "decode_body",
    "decode_json",
    "decode_object",
    "decode_protobuf",
    "decode_yaml",
    "media_type",
    "strict_error",
    "type_object",
]

Object = dict[str, Any]

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
BODY_TYPES = (JSON, YAML, PROTOBUF)

_STRICT_PROBLEMS_MAX = 100
_YAML_NODES_MAX = 400_000  # an alias bomb is small on the wire; nothing of 3 MiB has so many nodes of its own
_DEPTH_MAX = 500


def media_type(content_type: str) -> str:
    """The bare media type of a header, JSON where there is none."""
    return content_type.partition(";")[0].strip().lower() or JSON


def decode_body(body: bytes, content_type: str = JSON, strict: bool = True) -> tuple[Object, list[str]]:
    """Any object and its duplicate fields. Raises ApiError 400 (malformed) or 415 (media type)."""
    kind = media_type(content_type)
    if kind == JSON:
        return decode_json(body, strict)
    if kind in (YAML, "text/yaml", "application/x-yaml", "application/apply-patch+yaml"):
        return _decode_yaml(body)
    if kind == PROTOBUF:
        return decode_protobuf(body), []
    raise ApiError.unsupported_media_type(BODY_TYPES)


def decode_object(
    resource: Typed, body: bytes, content_type: str = JSON, strict: bool = True
) -> tuple[Object, list[str]]:
    """An object of `resource`, conforming to its schema, and all that strict decoding finds.

    A body without kind or apiVersion is taken to have the resource's. Raises ApiError 400 or 415."""
    try:
        obj, problems = decode_body(body, content_type, strict)
    except ApiError as error:
        if error.code != 400:
            raise
        summary = _summary(body)
        raise ApiError.bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): {error.message} ({summary})"
        ) from None
    return obj, problems + type_object(resource, obj)


def type_object(resource: Typed, obj: Object) -> list[str]:
    """Makes a parsed body an object of `resource`, in place; the rest of `decode_object`. Returns unknown fields."""
    check_kind(resource, obj)
    problems = schema.conform(resource, obj)
    if not isinstance(obj.get("metadata"), dict):
        obj["metadata"] = {}
    return problems


def check_kind(resource: Typed, obj: Object) -> None:
    """Sets a missing kind and apiVersion; raises ApiError 400 where they are another's."""
    expected = f"{resource.group}/{resource.version}" if resource.group else resource.version
    api_version = obj.get("apiVersion") or expected
    kind = obj.get("kind") or resource.kind
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise schema.cannot_handle(resource, "kind and apiVersion must be strings")
    if kind != resource.kind or api_version != expected:
        version = api_version.rpartition("/")[2]
        prefix = f'{kind} in version "{version}" cannot be handled as a {resource.kind}: '
        if resources.of({"apiVersion": api_version, "kind": kind}) is None:
            raise ApiError.bad_request(prefix + f'no kind "{kind}" is registered for version "{api_version}"')
        if kind != resource.kind:
            raise ApiError.bad_request(prefix + f"a {resource.kind} is expected")
        raise ApiError.bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )
    obj["kind"], obj["apiVersion"] = kind, api_version


def strict_error(resource: Typed, problems: Sequence[str]) -> ApiError:
    """The 400 for a body with problems under `fieldValidation=Strict`."""
    shown = ", ".join(dict.fromkeys(problems[:_STRICT_PROBLEMS_MAX]))
    return schema.cannot_handle(resource, f"strict decoding error: {shown}")


def _summary(body: bytes, length_max: int = 30) -> str:
    """The start of a body that is not understood: text if it may be JSON, else hexadecimal."""
    if not body:
        return "<empty>"
    shown = body[:length_max]
    text = shown.decode(errors="replace") if body[:1] == b"{" else shown.hex()
    return text + (" ..." if len(body) > length_max else "")


# -- JSON

_NOT_AN_OBJECT = (
    "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ "
    'APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }}'
)
# Python's parser and Go's stumble at the same byte; these are Go's words for it.
_GO_WORDS = (
    ("Expecting value", "looking for beginning of value"),
    ("Expecting property name", "looking for beginning of object key string"),
    ("Illegal trailing comma before end of object", "looking for beginning of object key string"),
    ("Illegal trailing comma before end of array", "looking for beginning of value"),
    ("Expecting ':'", "after object key"),
    ("Expecting ','", "after object key:value pair"),
    ("Extra data", "after top-level value"),
    ("Invalid control character", "in string literal"),
    ("Invalid \\", "in string escape code"),
)


def decode_json(body: bytes, strict: bool = True) -> tuple[Object, list[str]]:
    """An object and, with `strict`, its duplicate fields: `duplicate field "spec.replicas"`. Raises ApiError 400."""
    try:
        obj = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        problem = _json_problem(body, str(error))
        raise ApiError.bad_request(f"couldn't get version/kind; json parse error: {problem}") from None
    if not isinstance(obj, dict):
        raise ApiError.bad_request(_NOT_AN_OBJECT.format(_describe(obj)))
    return obj, _json_duplicates(body) if strict else []


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    return "array" if isinstance(value, list) else "number" if value is not None else "null"


def _json_problem(body: bytes, fallback: str) -> str:
    try:
        text = body.decode()
        json.loads(text)
    except UnicodeDecodeError:
        return "invalid UTF-8 in JSON"
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            return "unexpected end of JSON input"
        where = next((go for python, go in _GO_WORDS if error.msg.startswith(python)), "looking for beginning of value")
        return f"invalid character {text[error.pos]!r} {where}"
    except RecursionError:
        return "exceeded max depth"
    return fallback


class _Pairs(list[tuple[str, Any]]):
    """An object whose fields are still a list."""


def _json_duplicates(body: bytes) -> list[str]:
    found = False

    def flat(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in pairs}) != len(pairs)

    # The common body has none: only then is the tree kept, for the paths.
    json.loads(body, object_pairs_hook=flat)
    if not found:
        return []
    problems: list[str] = []
    _name_duplicates(json.loads(body, object_pairs_hook=_Pairs), "", problems)
    return problems


def _name_duplicates(value: Any, path: str, problems: list[str]) -> None:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for name, child in value:
            place = f"{path}.{name}" if path else name
            if name in seen:
                problems.append(f'duplicate field "{place}"')
            seen.add(name)
            _name_duplicates(child, place, problems)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _name_duplicates(child, f"{path}[{index}]", problems)


# -- YAML, as Go's parser reads it


class _Loader(yaml.CSafeLoader):
    """No timestamps, no base-60 numbers: both are text to Go, and a port map `80:8080` is no number of seconds."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's class attribute


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"),
    list("yYnNtTfFoO"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])


def decode_yaml(body: bytes) -> Object:
    """The one object of a YAML (or JSON) document. Raises ApiError 400."""
    return _decode_yaml(body)[0]


def _decode_yaml(body: bytes) -> tuple[Object, list[str]]:
    loader = None
    try:
        loader = _Loader(body)
        node = loader.get_single_node()
        reader = _YamlReader()
        obj = reader.value(node, "", 0) if node is not None else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ApiError.bad_request(f"error converting YAML to JSON: yaml: {text}") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(obj, dict):
        raise ApiError.bad_request(_NOT_AN_OBJECT.format(_describe(obj)))
    return obj, reader.duplicates


class _YamlReader:
    """Nodes → plain JSON values. Aliases are expanded under a budget, so that a bomb is an error and not a flood."""

    def __init__(self) -> None:
        self.duplicates: list[str] = []
        self.nodes = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > _YAML_NODES_MAX:
            raise ValueError("document contains excessive aliasing")
        if depth > _DEPTH_MAX:
            raise ValueError("exceeded max depth")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, f"{path}[{index}]", depth + 1) for index, each in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        return _scalar(node)

    def mapping(self, node: yaml.MappingNode, path: str, depth: int) -> Object:
        own: Object = {}
        merged: Object = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        raise ValueError("map merge requires map or sequence of maps as the value")
                    for name, value in self.mapping(source, path, depth + 1).items():
                        merged.setdefault(name, value)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"line {key_node.start_mark.line + 1}: a key must be a scalar")
            name = _key(_scalar(key_node))
            place = f"{path}.{name}" if path else name
            if name in own:
                self.duplicates.append(f'duplicate field "{place}"')
            own[name] = self.value(value_node, place, depth + 1)
        return {**merged, **own} if merged else own


def _key(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "null" if value is None else "true" if value is True else "false" if value is False else str(value)


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    tag = node.tag.rpartition(":")[2]
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "null":
        return None
    if tag == "int":
        return _int(text.replace("_", ""))
    if tag == "float":
        number = float(text)
        if number in (float("inf"), float("-inf")):
            return text
        return int(number) if number.is_integer() and abs(number) < 2**53 else number  # Go writes 1.0 as 1
    if tag == "binary":
        return text.replace("\n", "").replace(" ", "")
    return text


def _int(text: str) -> int | float:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").lower()
    if digits.startswith(("0x", "0b", "0o")):
        number = int(digits, 0)
    elif len(digits) > 1 and digits.startswith("0"):
        number = int(digits, 8)
    elif len(digits) > 40:
        return float(digits) * sign
    else:
        number = int(digits)
    return number * sign
