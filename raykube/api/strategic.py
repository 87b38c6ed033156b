"""Strategic merge patch: Kubernetes' merge that knows which lists are keyed.

Vocabulary
- A patch is a tree like the object; null deletes a field. The schema says of each list whether it is replaced or
  merged, and by which key its items are matched (`raykube.api.shapes`).
- Directives are keys of the patch that say more:
    `$patch: replace | delete`           this map replaces its target, or empties it; in a list item: the list
                                         becomes the patch's other items, or loses this item
    `$deleteFromPrimitiveList/F: [...]`  takes these scalars out of list F
    `$setElementOrder/F: [...]`          the order of list F after the merge
    `$retainKeys: [...]`                 the only keys the merged map keeps

        original  containers: [{name: a, image: x}, {name: b, image: y}]
        patch     containers: [{name: b, image: z}]
        merged    containers: [{name: a, image: x}, {name: b, image: z}]

The order of a merged list: items of the patch in the patch's order, the others in the object's, woven together so that
every pair that the object knows keeps its order where the patch does not say otherwise."""

from typing import Any, Protocol

import orjson

from raykube.api.errors import ApiError
from raykube.api.shapes import Shape, root_shape

PATCH = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_FROM = "$deleteFromPrimitiveList/"
ELEMENT_ORDER = "$setElementOrder/"
_NESTED = (dict, list)  # a union of types would be made anew at each question

Object = dict[str, Any]


class Kinded(Protocol):
    """A resource or subresource: whatever names the type of a body."""

    @property
    def group(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def kind(self) -> str: ...


def strategic_merge(resource: Kinded, obj: Object, patch: Any) -> Object:
    """`obj` with `patch` merged in, by the schema of `resource`'s kind. Neither argument is changed.

    The outcome has nothing of `patch` in it, but shares with `obj` the maps and lists that the patch leaves alone."""
    if not isinstance(patch, dict):
        raise ApiError.bad_request("Invalid JSON document")
    return _merge_map(obj, patch, root_shape(resource.group, resource.version, resource.kind))


def _bad_format(what: str) -> ApiError:
    return ApiError.bad_request(f"invalid patch format of {what}")


def _server_error(message: str) -> ApiError:
    """Upstream answers these with 500 and no reason."""
    return ApiError(500, "", message)


def _merge_map(original: Object, patch: Object, shape: Shape) -> Object:
    merged = dict(original)
    if any(name.startswith("$") for name in patch):
        patch = dict(patch)
        if PATCH in patch:
            return _directed(patch)
        _retain_keys(merged, patch)
        _set_element_orders(merged, patch, shape)
        for directive in [name for name in patch if name.startswith(DELETE_FROM)]:
            _delete_from(merged, directive.removeprefix(DELETE_FROM), patch.pop(directive))
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif not isinstance(value, _NESTED):
            merged[name] = value
        else:
            _merge_field(merged, name, value, shape.child(name))
    return merged


def _merge_field(merged: Object, name: str, value: Any, field: Shape) -> None:
    """A map or list of the patch goes into the field `name`."""
    target = merged.get(name)
    if isinstance(target, dict) and isinstance(value, dict):
        replaced = "replace" in field.strategies
        merged[name] = _copy(value) if replaced else _merge_map(target, value, field)
    elif isinstance(target, list) and isinstance(value, list):
        merged[name] = _merge_list(target, value, field) if "merge" in field.strategies else _copy(value)
    elif (fresh := _fresh(value)) is not _NOTHING:
        merged[name] = fresh


def _directed(patch: Object) -> Object:
    """What a map becomes whose patch says `$patch`."""
    directive = patch.pop(PATCH)
    if directive == "replace":
        replacement: Object = _copy(patch)
        return replacement
    if directive == "delete":
        return {}
    raise _server_error(f"unknown patch type: {go_text(directive)} in map: {go_text(patch)}")


def _copy(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def _retain_keys(original: Object, patch: Object) -> None:
    """`$retainKeys`: what is not named goes; the patch may set only what is named."""
    if RETAIN_KEYS not in patch:
        return
    retained = patch.pop(RETAIN_KEYS)
    if not isinstance(retained, list):
        raise _bad_format("retainKeys")
    for name, value in patch.items():
        if name in retained or value is None or _is_directive(name):
            continue
        raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request")
    for name in [name for name in original if name not in retained]:
        del original[name]


def _delete_from(original: Object, name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise _bad_format("primitive list")
    target = original.get(name)
    if isinstance(target, list):
        original[name] = [item for item in target if item not in values]


def _set_element_orders(original: Object, patch: Object, shape: Shape) -> None:
    """`$setElementOrder/F`: merges F now and puts it in order; takes both out of the patch."""
    for directive in [name for name in patch if name.startswith(ELEMENT_ORDER)]:
        name = directive.removeprefix(ELEMENT_ORDER)
        order = patch.pop(directive)
        target, change = original.get(name), patch.get(name)
        if not isinstance(order, list) or not all(
            value is None or isinstance(value, list) for value in (target, change)
        ):
            raise _bad_format("setElementOrder list")
        if name not in original and name not in patch:
            continue
        field = shape.child(name)
        key = field.merge_key
        _check_order(change or [], order, key)
        if name not in patch:
            merged = target or []
        elif name not in original:
            merged = _fresh(change or [])
        elif "merge" in field.strategies:
            merged = _merge_list(target or [], change or [], field)
        else:
            merged = _copy(change or [])
        original[name] = _ordered(merged, order, target or [], key)
        patch.pop(name, None)


def _check_order(change: list[Any], order: list[Any], key: str) -> None:
    """The items of the patch must come in the order that the directive gives."""
    wanted = [_identity(item, key) for item in order]
    at = 0
    for item in change:
        if key and isinstance(item, dict) and PATCH in item:
            continue
        identity = _identity(item, key)
        while at < len(wanted) and wanted[at] != identity:
            at += 1
        if at == len(wanted):
            raise _server_error(
                f"The order in patch list:\n{go_text(change)}\n doesn't match {ELEMENT_ORDER} list:\n{go_text(order)}\n"
            )
        at += 1


def _identity(item: Any, key: str) -> Any:
    if not key:
        return item
    if not isinstance(item, dict) or key not in item:
        raise _server_error(f"map: {go_text(item)} does not contain declared merge key: {key}")
    return item[key]


def _merge_list(original: list[Any], patch: list[Any], field: Shape) -> list[Any]:
    if not original and not patch:
        return original
    items = original + patch
    kinds = set(map(type, items))
    if list in kinds or (dict in kinds and len(kinds) > 1):
        raise _server_error("list element types are not identical")
    key = field.merge_key
    if dict not in kinds:
        merged = list(dict.fromkeys(items))
        return _ordered(merged, patch, original, "")
    if not key:
        raise _server_error(f"cannot merge lists without merge key for {field.name or field.item.name}")
    merged, changes = _apply_item_directives(original, patch, key)
    places = _places(merged, key)
    for change in changes:
        mark = _mark(_identity(change, key))
        at = places.get(mark)
        if at is None:
            places[mark] = len(merged)
            merged.append(_appended(change))
        else:
            merged[at] = _merge_map(merged[at], change, field.item)
    return _ordered(merged, patch, original, key)


def _apply_item_directives(original: list[Object], patch: list[Object], key: str) -> tuple[list[Object], list[Object]]:
    """Deletes what `$patch: delete` items name; `$patch: replace` empties the list. Returns (list, other items)."""
    merged = list(original)
    changes = []
    replace = False
    for item in patch:
        directive = item.get(PATCH)
        if directive is None:
            changes.append(item)
        elif directive == "delete":
            identity = _identity(item, key)
            merged = [each for each in merged if each.get(key) != identity]
        elif directive == "replace":
            replace = True
        elif directive == "merge":
            raise _server_error("merging lists cannot yet be specified in the patch")
        else:
            raise _server_error(f"unknown patch type: {go_text(directive)} in map: {go_text(item)}")
    return (_copy(changes), []) if replace else (merged, changes)


def _ordered(merged: list[Any], order: list[Any], server_order: list[Any], key: str) -> list[Any]:
    """Weaves `merged`: items named in `order` by that order, the others by the server's, pair by pair."""
    wanted, known = _places(order, key), _places(server_order, key)
    marks = [_mark(item.get(key) if key else item) for item in merged]
    ours = sorted((at for at, mark in enumerate(marks) if mark in wanted), key=lambda at: wanted[marks[at]])
    if len(ours) == len(merged):
        return [merged[at] for at in ours]
    rest = (at for at, mark in enumerate(marks) if mark not in wanted)
    theirs = sorted(rest, key=lambda at: known.get(marks[at], -1))
    woven: list[int] = []
    left = right = 0
    while left < len(theirs) and right < len(ours):
        if 0 <= known.get(marks[theirs[left]], -1) < known.get(marks[ours[right]], -1):
            woven.append(theirs[left])
            left += 1
        else:
            woven.append(ours[right])
            right += 1
    return [merged[at] for at in (*woven, *theirs[left:], *ours[right:])]


def _places(items: list[Any], key: str) -> dict[Any, int]:
    """Where the first item of each identity stands."""
    places: dict[Any, int] = {}
    for at, item in enumerate(items):
        places.setdefault(_mark(item.get(key) if key else item), at)
    return places


def _mark(identity: Any) -> Any:
    """What equal identities have in common that can be a key: themselves, unless they are maps or lists."""
    if isinstance(identity, _NESTED):
        return orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    return identity


_NOTHING = object()


def _fresh(value: Any) -> Any:
    """A patch's value for a field that the object lacks: nulls vanish, and so does whatever carries `$patch`."""
    text = orjson.dumps(value)
    return orjson.loads(text) if _is_plain(text) else _sifted(value)


def _sifted(value: Any) -> Any:
    if isinstance(value, dict):
        if PATCH in value:
            return _NOTHING
        fresh = {name: _sifted(each) for name, each in value.items() if each is not None and not _is_directive(name)}
        return {name: each for name, each in fresh.items() if each is not _NOTHING}
    if isinstance(value, list):
        return [each for each in map(_sifted, value) if each is not _NOTHING]
    return value


def _appended(value: Any) -> Any:
    """A patch's item that is new to a list: nulls and directives vanish, what they stand in stays."""
    if isinstance(value, dict):
        return {
            name: _appended(each) if isinstance(each, _NESTED) else each
            for name, each in value.items()
            if each is not None and not _is_directive(name)
        }
    return [_appended(each) for each in value] if isinstance(value, list) else value


def _is_plain(text: bytes) -> bool:
    """Whether encoded JSON surely has neither nulls nor directives."""
    return b"null" not in text and b'"$' not in text


def _is_directive(name: str) -> bool:
    return name.startswith("$") and (name in (PATCH, RETAIN_KEYS) or name.startswith((DELETE_FROM, ELEMENT_ORDER)))


def go_text(value: Any) -> str:
    """Go's `%v` of decoded JSON: `map[a:1 b:[x y]]`."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{go_text(value[name])}" for name in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_text(each) for each in value) + "]"
    return str(value)
