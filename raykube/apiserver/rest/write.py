"""POST, PUT, PATCH and DELETE of resources: bodies decoded, operations made, answers given."""

from typing import Any

import orjson
from aiohttp import web

from raykube.api import serialization
from raykube.api.errors import ApiError
from raykube.api.schema import Typed
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core import options, planning, selecting
from raykube.apiserver.core.planning import Operation
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.outcome import Outcome
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest import lists, render
from raykube.apiserver.rest.context import Context
from raykube.apiserver.writer import Writer

PATCH_TYPES = {
    "application/json-patch+json": planning.JSON_PATCH,
    "application/merge-patch+json": planning.MERGE_PATCH,
    "application/strategic-merge-patch+json": planning.STRATEGIC_PATCH,
    "application/apply-patch+yaml": planning.APPLY_PATCH,
}
_COLLECTION_CHUNK = 500
_FORMS = ("Table", "PartialObjectMetadata")


class Writes:
    """Handlers of writes."""

    def __init__(self, writer: Writer, reader: Reader, authorization: Authorization) -> None:
        self._writer = writer
        self._reader = reader
        self._authorization = authorization

    async def create(self, context: Context) -> web.Response:
        op = self._operation(context, planning.CREATE, options.CREATE)
        op.name = ""
        op.body = await decode_body(context, _typed(op), op.validation)
        return self._answer(context, await self._writer.one(op))

    async def update(self, context: Context) -> web.Response:
        op = self._operation(context, planning.UPDATE, options.UPDATE)
        op.body = await decode_body(context, _typed(op), op.validation)
        return self._answer(context, await self._writer.one(op))

    async def patch(self, context: Context) -> web.Response:
        patch_type = PATCH_TYPES.get(context.request.content_type, "")
        if not patch_type:
            raise ApiError.unsupported_media_type(PATCH_TYPES)
        is_apply = patch_type == planning.APPLY_PATCH
        op = self._operation(context, planning.PATCH, options.APPLY if is_apply else options.PATCH)
        op.patch_type = patch_type
        op.body = _decode_patch(op.patch_type, await context.body(), op.validation, context.warnings)
        if is_apply:
            op.field_manager = context.query.get("fieldManager", "")  # no fall-back: an applier says who it is
        return self._answer(context, await self._writer.one(op))

    async def delete(self, context: Context) -> web.Response:
        op = self._operation(context, planning.DELETE, options.DELETE)
        op.deletion = options.delete_options(await decode_options(context), context.query)
        op.dry_run = op.dry_run or op.deletion.dry_run
        return self._answer(context, await self._writer.one(op))

    async def delete_collection(self, context: Context) -> web.StreamResponse:
        """Deletes what the same list would show, and answers with it. With a `limit` that is one page: who deletes a
        hundred at a time means to delete no more."""
        resource, info = context.target, context.info
        form = render.form_of(context.request.headers.get("Accept", ""), ())
        deletion = options.delete_options(await decode_options(context), context.query)
        wanted = options.list_options(context.query, watch=False)
        namespace = info.namespace if resource.namespaced else ""
        selection = selecting.selection(resource, namespace, wanted.label_selector, wanted.field_selector)
        page = await self._reader.page(resource, selection, wanted)
        template = self._operation(context, planning.DELETE, options.DELETE)
        for start in range(0, len(page.items), _COLLECTION_CHUNK):
            ops = [
                Operation(
                    planning.DELETE, resource, item.namespace, item.name, deletion=deletion, guard=template.guard,
                    dry_run=template.dry_run,
                )
                for item in page.items[start : start + _COLLECTION_CHUNK]
            ]  # fmt: skip
            for outcome in await self._writer.run(ops):
                if outcome.code >= 400 and outcome.code != 404:
                    raise ApiError.from_status(orjson.loads(outcome.body))
            await self._reader.turns.next()
        pieces = render.list_pieces(resource, page.items, form, context.query, lists.metadata(page))
        return await lists.answer(context, pieces, form, self._reader.turns)

    def _operation(self, context: Context, verb: str, kind: options.Kind) -> Operation:
        resource, info = context.target, context.info
        wanted = options.write_options(context.query, context.request.query.getall("dryRun", []), kind)
        create = Attributes(
            context.user, "create", resource.group, resource.plural, info.subresource, info.name,
            info.namespace if resource.namespaced else "",
        )  # fmt: skip
        return Operation(
            verb,
            resource,
            info.namespace if resource.namespaced else "",
            info.name,
            info.subresource,
            field_manager=wanted.field_manager or _manager(context),
            force=wanted.force,
            dry_run=wanted.dry_run,
            validation=wanted.field_validation,
            guard=self._authorization.guard(context.user, verb, resource, info.subresource),
            may_create=lambda: self._authorization.require(create),
            hears=True,
            may_be_blind=False,
            warnings=context.warnings,
        )

    def _answer(self, context: Context, outcome: Outcome) -> web.Response:
        body, code = outcome.body, outcome.code
        form = render.form_of(context.request.headers.get("Accept", ""), _FORMS)
        if form.kind and b'"kind":"Status"' not in body[:60]:
            obj = orjson.loads(body)
            if form.kind == "Table":
                metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
                body = orjson.dumps(render.table_of(context.target, [obj], form, context.query, metadata))
            else:
                body = orjson.dumps(render.metadata_only(obj, form.version))
        body, content_type = render.pretty(
            body, form, "pretty" in context.query and options.parse_bool(context.query["pretty"])
        )
        return context.answer(body, code, content_type)


def _typed(op: Operation) -> Typed:
    """What a body is an object of: a subresource may have a type of its own."""
    return (op.resource.subresource(op.subresource) if op.subresource else None) or op.resource


def _manager(context: Context) -> str:
    """Upstream's fall-back: the first part of the user agent."""
    return context.request.headers.get("User-Agent", "").partition("/")[0][:128]


async def decode_body(context: Context, typed: Typed, validation: str) -> Object:
    """The object of type `typed` in a request's body. Raises ApiError 400, 413 or 415."""
    data = await context.body()
    return decode(typed, data, context.request.headers.get("Content-Type", ""), validation, context.warnings)


def decode(typed: Typed, data: bytes, content_type: str, validation: str, warnings: list[str]) -> Object:
    """An object; unknown and duplicate fields are errors, warnings or nothing. Raises ApiError."""
    obj, problems = serialization.decode_object(typed, data, content_type, validation != "Ignore")
    if problems and validation == "Strict":
        raise serialization.strict_error(typed, problems)
    if validation == "Warn":
        warnings.extend(problems)
    return obj


async def decode_options(context: Context) -> Object:
    """The DeleteOptions in a DELETE's body; an empty one for no body."""
    data = await context.body()
    if not data:
        return {}
    return serialization.decode_body(data, context.request.headers.get("Content-Type", ""), False)[0]


def _decode_patch(patch_type: str, data: bytes, validation: str, warnings: list[str]) -> Any:
    if patch_type == planning.JSON_PATCH:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ApiError.bad_request(f"error decoding patch: {error}") from None
    content_type = "application/apply-patch+yaml" if patch_type == planning.APPLY_PATCH else "application/json"
    value, duplicates = serialization.decode_body(data, content_type, validation != "Ignore")
    if duplicates and validation == "Strict":
        raise ApiError.bad_request("strict decoding error: " + ", ".join(duplicates))
    if validation == "Warn":
        warnings.extend(duplicates)
    return value
