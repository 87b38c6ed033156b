"""Objects and lists in the form a client asked for: stored bytes as they are, Tables, metadata only, YAML."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
import yaml

from raykube.api import table
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core import conversion, negotiation
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.negotiation import Form
from raykube.apiserver.core.strategy import Object

# How many items one piece of a list has. A Table has each of them parsed.
LIST_ITEMS, TABLE_ITEMS = 200, 50
_ACCEPTED = (negotiation.JSON, negotiation.YAML)


def form_of(accept: str, kinds: tuple[str, ...]) -> Form:
    """The form to answer in. Raises ApiError 406."""
    form = negotiation.choose(accept, kinds)
    if form is None:
        raise ApiError.not_acceptable(_ACCEPTED)
    return form


def data_of(resource: Resource, item: Item) -> bytes:
    """An item's bytes in the version that the client speaks."""
    stored = conversion.stored(resource)
    if stored is resource:
        return item.data
    return item.form(
        resource.api_version, lambda data: orjson.dumps(conversion.convert(orjson.loads(data), stored, resource))
    )


def object_bytes(
    resource: Resource, item: Item, form: Form, query: Mapping[str, str], with_columns: bool = True
) -> bytes:
    """One object as the answer to a GET, or as a watch's event has it."""
    data = data_of(resource, item)
    if form.kind == "Table":
        metadata = {"resourceVersion": str(item.revision)}
        return orjson.dumps(table_of(resource, [orjson.loads(data)], form, query, metadata, with_columns))
    if form.kind == "PartialObjectMetadata":
        return orjson.dumps(metadata_only(orjson.loads(data), form.version))
    return data


def list_pieces(
    resource: Resource, items: list[Item], form: Form, query: Mapping[str, str], metadata: Object
) -> Iterator[bytes]:
    """A list, or a chunk of one, in pieces that take some milliseconds each. `metadata`: the list's own.

    Raises ApiError before the first."""
    if form.kind == "Table":
        head = orjson.dumps(table_of(resource, [], form, query, metadata))[:-2]
        return _pieces(head, items, TABLE_ITEMS, partial(_rows, resource, form, query))
    if form.kind == "PartialObjectMetadataList":
        kind, api_version = "PartialObjectMetadataList", f"meta.k8s.io/{form.version}"
        encode = partial(_metadata_only, resource, form.version)
    else:
        kind, api_version = resource.list_kind, resource.api_version
        encode = partial(_objects, resource)
    head = f'{{"kind":"{kind}","apiVersion":"{api_version}","metadata":'.encode() + orjson.dumps(metadata)
    return _pieces(head + b',"items":[', items, LIST_ITEMS if not form.kind else TABLE_ITEMS, encode)


def _pieces(head: bytes, items: list[Item], at_once: int, encode: Callable[[list[Item]], bytes]) -> Iterator[bytes]:
    """A document whose last member is a list: `encode` makes its elements, and the commas between them."""
    yield head
    for start in range(0, len(items), at_once):
        if start:
            yield b","
        yield encode(items[start : start + at_once])
    yield b"]}"


def _objects(resource: Resource, items: list[Item]) -> bytes:
    return b",".join([data_of(resource, item) for item in items])


def _metadata_only(resource: Resource, version: str, items: list[Item]) -> bytes:
    return b",".join([orjson.dumps(metadata_only(orjson.loads(data_of(resource, item)), version)) for item in items])


def _rows(resource: Resource, form: Form, query: Mapping[str, str], items: list[Item]) -> bytes:
    objects = [orjson.loads(data_of(resource, item)) for item in items]
    return orjson.dumps(table_of(resource, objects, form, query, {}, with_columns=False)["rows"])[1:-1]


def metadata_only(obj: Object, version: str) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": obj["metadata"]}


def table_of(
    resource: Resource,
    objects: list[Object],
    form: Form,
    query: Mapping[str, str],
    metadata: Object,
    with_columns: bool = True,
) -> Object:
    """A Table of objects. Raises ApiError 400 for an unknown includeObject."""
    include = query.get("includeObject") or "Metadata"
    if include not in table.INCLUDE_OBJECT:
        raise ApiError.bad_request(f'unrecognized includeObject value: "{include}"')
    return table.table(
        resource,
        objects,
        time.time(),
        include_object=include,
        metadata=metadata,
        with_columns=with_columns,
        version=form.version,
    )


def pretty(data: bytes, form: Form, wanted: bool) -> tuple[bytes, str]:
    """(body, content type) for a complete answer: indented or as YAML where the client wants that."""
    if form.media_type == negotiation.YAML:
        return yaml.safe_dump(orjson.loads(data), sort_keys=False).encode(), negotiation.YAML
    if wanted:
        return orjson.dumps(orjson.loads(data), option=orjson.OPT_INDENT_2), negotiation.JSON
    return data, negotiation.JSON


def watch_line(kind: str, data: bytes) -> bytes:
    """One event of a watch stream."""
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), data)


def bookmark(resource: Resource, revision: int, form: Form, initial_events_end: bool) -> bytes:
    """A BOOKMARK event: everything up to `revision` has been sent."""
    metadata: dict[str, Any] = {"resourceVersion": str(revision)}
    if initial_events_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    if form.kind == "Table":
        obj: Object = {"kind": "Table", "apiVersion": f"meta.k8s.io/{form.version}", "metadata": metadata}
        obj["columnDefinitions"] = []
        obj["rows"] = []
    elif form.kind:
        obj = {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{form.version}", "metadata": metadata}
    else:
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return watch_line("BOOKMARK", orjson.dumps(obj))
