"""Sets of fields: who owns what in an object, as `metadata.managedFields` writes it down.

Vocabulary
- element   one step: `f:NAME` a field or map key, `k:{…}` an item of a keyed list, `v:VALUE` an item of a set.
- path      a tuple of elements; a set is a set of paths. A set may hold a path and its descendants, or either alone.
- leaf      where ownership ends: scalars, and whatever the schema says is atomic (replaced as a whole).

        containers: [{name: a, image: x}]   →   f:containers  k:{"name":"a"}            the item itself
                                                f:containers  k:{"name":"a"}  f:name
                                                f:containers  k:{"name":"a"}  f:image

`decode` and `encode` translate to the stored form, a trie in which "." marks a path that has descendants too."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from raykube.api.shapes import ANY, LIST, MAP, SET, STRUCT, Shape

Path = tuple[str, ...]
Fields = set[Path]

_ORDER = {"f": 0, "k": 1, "v": 2, "i": 3}


def decode(trie: dict[str, Any]) -> Fields:
    """The set that a `fieldsV1` holds."""
    found: Fields = set()
    _decode(trie, (), found)
    return found


def _decode(trie: dict[str, Any], path: Path, found: Fields) -> None:
    for element, below in trie.items():
        if element == ".":
            found.add(path)
        elif below:
            _decode(below, (*path, element), found)
        else:
            found.add((*path, element))


def encode(fields: Fields) -> dict[str, Any]:
    """The `fieldsV1` of a set, in its canonical order."""
    trie: dict[str, Any] = {}
    for path in sorted(fields, key=order):  # a path comes before its descendants
        node: dict[str, Any] = trie
        parent: Path = ()
        for element in path:
            if element not in node:
                if not node and node is not trie and parent in fields:
                    node["."] = {}
                node[element] = {}
            node, parent = node[element], (*parent, element)
    return trie


def order(path: Path) -> tuple[tuple[int, str], ...]:
    """Sort key: parents before children; fields, then keys, then values."""
    return tuple((_ORDER.get(element[:1], 4), element) for element in path)


def text(path: Path) -> str:
    """`.spec.containers[name="a"].image`, as conflicts are reported."""
    parts = []
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            parts.append(f".{rest}")
        elif kind == "k":
            keys = orjson.loads(rest)
            parts.append("[" + ",".join(f"{key}={orjson.dumps(keys[key]).decode()}" for key in sorted(keys)) + "]")
        elif kind == "v":
            parts.append(f"[={rest}]")
        else:
            parts.append(f"[{rest}]")
    return "".join(parts)


def is_map(shape: Shape, value: Any) -> bool:
    """True if the fields of `value` are owned one by one."""
    return isinstance(value, dict) and shape.kind in (STRUCT, MAP, ANY) and shape.topology != "atomic"


def is_list(shape: Shape, value: Any) -> bool:
    """True if the items of `value` are owned one by one."""
    return isinstance(value, list) and shape.kind == LIST and shape.topology in ("set", "map")


class BadList(ValueError):
    """A keyed list whose items cannot be told apart."""


def element_of(shape: Shape, item: Any) -> str:
    """The path element of an item of a keyed list or a set. Raises BadList if a key is missing."""
    if shape.topology == SET:
        return f"v:{orjson.dumps(item).decode()}"
    if not isinstance(item, dict):
        raise BadList("associative list with keys may not have non-map elements")
    keys = {}
    for key in shape.map_keys:
        value = item.get(key)
        if value is None:
            value = shape.key_default(key)
        if value is not None:
            keys[key] = value
    if not keys:
        raise BadList(
            f'associative list with keys has an element that omits key field "{(shape.map_keys or ("",))[0]}"'
            " (and doesn't have default value)"
        )
    return f"k:{orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()}"


def items(shape: Shape, values: list[Any], strict: bool = False) -> dict[str, Any]:
    """The items of a list by their elements, first wins. `strict` raises BadList for duplicates."""
    found: dict[str, Any] = {}
    for item in values:
        element = element_of(shape, item)
        if strict and element in found:
            kind, _, rest = element.partition(":")
            named = text((element,))
            raise BadList(
                f"duplicate entries for key {named}" if kind == "k" else f"duplicate entries for value {rest}"
            )
        found.setdefault(element, item)
    return found


def children(shape: Shape, value: Any, strict: bool = False) -> Iterator[tuple[str, Shape, Any]]:
    """What a map or list holds: (element, shape, value)."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield f"f:{name}", shape.child(name), each
    else:
        for element, each in items(shape, value, strict).items():
            yield element, shape.item, each


def owned(shape: Shape, value: Any, strict: bool = False) -> Fields:
    """The set that whoever writes `value` owns: leaves, empty maps, entries of maps, items of lists."""
    found: Fields = set()
    _owned(shape, value, (), found, strict, containers=False)
    return found


def everything(shape: Shape, value: Any, path: Path = ()) -> Fields:
    """Each path in `value`, containers too."""
    found: Fields = set()
    _owned(shape, value, path, found, strict=False, containers=True)
    return found


def _owned(shape: Shape, value: Any, path: Path, found: Fields, strict: bool, containers: bool) -> None:
    if not (is_map(shape, value) or is_list(shape, value)):
        found.add(path)
        return
    if containers and path:
        found.add(path)
    try:
        for element, below, each in children(shape, value, strict):
            here = (*path, element)
            _owned(below, each, here, found, strict, containers)
            named = shape.kind == STRUCT and shape.has(element[2:])
            if not named or each is None or each == {}:
                found.add(here)
    except BadList as error:
        if strict:
            raise BadList(f"{text(path)}: {error}") from None
        found.add(path)


@dataclass(slots=True)
class Difference:
    """What a write did, path by path."""

    added: Fields = field(default_factory=set)
    modified: Fields = field(default_factory=set)
    removed: Fields = field(default_factory=set)

    @property
    def written(self) -> Fields:
        return self.added | self.modified


def compare(shape: Shape, old: Any, new: Any) -> Difference:
    """The difference from `old` to `new`. Equal branches cost one comparison."""
    difference = Difference()
    _compare(shape, old, new, (), difference)
    return difference


def _compare(shape: Shape, old: Any, new: Any, path: Path, difference: Difference) -> None:
    if old == new:
        return
    both_maps = is_map(shape, old) and is_map(shape, new)
    if not both_maps and not (is_list(shape, old) and is_list(shape, new)):
        difference.modified.add(path)
        return
    try:
        before = {element: (below, each) for element, below, each in children(shape, old)}
        after = {element: (below, each) for element, below, each in children(shape, new)}
    except BadList:
        difference.modified.add(path)
        return
    for element, (below, each) in after.items():
        here = (*path, element)
        if element in before:
            _compare(below, before[element][1], each, here, difference)
        else:
            _add(below, each, here, difference.added)
    for element, (below, each) in before.items():
        if element not in after:
            difference.removed |= everything(below, each, (*path, element))


def _add(shape: Shape, value: Any, path: Path, added: Fields) -> None:
    """A new branch: its paths, without the structs that are there just to hold something."""
    for each in everything(shape, value, path):
        added.add(each)
    if shape.kind == STRUCT and value:
        added.discard(path)


def undeclared(shape: Shape, value: Any, path: Path = ()) -> list[Path]:
    """The fields in `value` that no struct of the schema has, in order."""
    found: list[Path] = []
    if isinstance(value, dict) and shape.kind in (STRUCT, MAP):
        for name, each in sorted(value.items()):
            here = (*path, f"f:{name}")
            if shape.closed and not shape.has(name):
                found.append(here)
            else:
                found.extend(undeclared(shape.child(name), each, here))
    elif isinstance(value, list) and shape.kind == LIST:
        for index, each in enumerate(value):
            try:
                element = element_of(shape, each) if is_list(shape, value) else f"i:{index}"
            except BadList:
                element = f"i:{index}"
            found.extend(undeclared(shape.item, each, (*path, element)))
    return found


def with_parents(shape: Shape, fields: Fields) -> Fields:
    """`fields`, and every named field of a struct on the way to them."""
    found = set(fields)
    for path in fields:
        at = shape
        for length, element in enumerate(path[:-1], 1):
            if element[:2] == "f:" and at.kind == STRUCT and at.has(element[2:]):
                found.add(path[:length])
            at = at.child(element[2:]) if element[:2] == "f:" else at.item
    return found


def without(shape: Shape, value: Any, trie: dict[str, Any]) -> Any:
    """`value` less what `trie` (of `encode`) holds; None if nothing is left, as with emptied maps and lists."""
    if not (is_map(shape, value) or is_list(shape, value)):
        return value
    kept: list[tuple[str, Any]] = []
    listed = list(value.items()) if isinstance(value, dict) else [(None, each) for each in value]
    for name, each in listed:
        try:
            element = f"f:{name}" if name is not None else element_of(shape, each)
        except BadList:
            return value
        below = trie.get(element)
        if below is None:
            kept.append((name or "", each))
        elif below and "." not in below:
            left = without(shape.child(name) if name is not None else shape.item, each, below)
            if left is not None:
                kept.append((name or "", left))
    if not kept:
        return None
    return dict(kept) if isinstance(value, dict) else [each for _, each in kept]


def merge(shape: Shape, live: Any, applied: Any) -> Any:
    """`live` with `applied` laid over it: maps and keyed lists merge, leaves are replaced."""
    if is_map(shape, applied) and is_map(shape, live):
        merged = dict(live)
        for name, each in applied.items():
            merged[name] = merge(shape.child(name), live.get(name), each)
        return merged
    if is_list(shape, applied) and is_list(shape, live):
        try:
            return _merge_list(shape, items(shape, live), items(shape, applied))
        except BadList:
            return applied
    return applied


def _merge_list(shape: Shape, live: dict[str, Any], applied: dict[str, Any]) -> list[Any]:
    """Items of `applied` in its order; items of `live` alone stay in front of the shared item that they preceded."""
    merged: list[Any] = []
    waiting = list(live)
    shared = [element for element in applied if element in live]
    at = turn = 0
    for element, each in applied.items():
        next_shared = shared[turn] if turn < len(shared) else None
        while at < len(waiting) and waiting[at] != next_shared:
            if waiting[at] not in applied:
                merged.append(live[waiting[at]])
            at += 1
        if element == next_shared:
            at, turn = at + 1, turn + 1
        merged.append(merge(shape.item, live.get(element), each))
    merged.extend(live[element] for element in waiting[at:] if element not in applied)
    return merged
