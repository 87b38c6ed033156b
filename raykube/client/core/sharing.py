"""Objects whose parts are one with the same parts of others: a copy of 150,000 pods in a quarter of the memory.

    {"metadata": {"labels": ─┐ …}, "spec": {"containers": ─┐ …}}
    {"metadata": {"labels": ─┴► one dict  "spec": {"containers": ─┴► one list

What stands in `metadata`, `spec` and `status` is looked up by its JSON, among what was met lately: pods that come from
one template differ by little, and what differs (conditions of one second) often does so by the hundred. Only so many
parts are remembered; the least used are forgotten first, and objects keep what they have.

A spec, most of a pod's text, is not read again when it was met before:

    {"kind":…,"metadata":{…}  ,"spec":{ …   ,"nodeName":"n1"}  ,"status":{…}}
    └ head ────────────────┘          └stem┘└ the pod's own ┘   └ rest ─────┘

The pieces themselves show that the cuts are where they seem: head and stem are objects once a brace closes them, which
no text is that ends within a string or deeper inside. What is laid out in another way is read whole.

In the specs of one template a name is drawn for each pod, that of the volume with the ServiceAccount's token. A reader
to whom it does not matter has all of them under one name, and thereby their specs in one.

Parts are shared with objects that the caller does not know of. Nobody may change them, as with all objects of an
informer.
"""

from typing import Any

import orjson

Object = dict[str, Any]

_SECTIONS = ("metadata", "spec", "status")
# Each object's own, or nearly: not worth a look.
_OWN = frozenset({"name", "uid", "resourceVersion", "podIP", "podIPs", "renewTime"})
# Lists whose elements differ, each in one thing.
_SPLIT = frozenset({"containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"})
_OWN_OF_ELEMENTS = frozenset({"containerID"})
PARTS_MAX = 4096
SPEC_BYTES_MAX = 16_384  # of a spec that is remembered
DRAWN = 5  # letters of a name
_SPEC, _NODE, _STATUS = b',"spec":{', b',"nodeName":"', b',"status":{'


class Sharing:
    """A `Decode` for an informer of many objects."""

    __slots__ = ("_drawn", "_known", "_known_before")

    def __init__(self, drawn: str = "") -> None:
        """`drawn`: how the name begins that is not told apart from others that begin so."""
        self._drawn = f'"name":"{drawn}'.encode() if drawn else b""
        # Two generations: what is still in use when the younger is full moves on.
        self._known: dict[Any, Any] = {}
        self._known_before: dict[Any, Any] = {}

    def __call__(self, text: bytes) -> Object:
        """JSON text → object. Raises ValueError."""
        obj = self._in_pieces(text)
        if obj is None:
            obj = orjson.loads(text)
            self._share(obj, _SECTIONS)
        return obj

    def _in_pieces(self, text: bytes) -> Object | None:
        """The object that has a spec, then a status; None of others."""
        start = text.find(_SPEC)
        end = text.find(_STATUS, start)
        if start < 0 or end < 0 or end - start > SPEC_BYTES_MAX:
            return None
        try:
            obj: Object = orjson.loads(text[:start] + b"}")
            spec = self._spec(text[start + len(_SPEC) - 1 : end])
            rest: Object = orjson.loads(b"{" + text[end + 1 :])
        except orjson.JSONDecodeError:
            return None
        self._share(obj, _SECTIONS)
        self._share(rest, _SECTIONS)
        obj["spec"] = spec
        obj.update(rest)
        return obj

    def _spec(self, text: bytes) -> Object:
        """Raises ValueError where it is not cut where it seems."""
        text = self._without_draw(text)
        at = text.rfind(_NODE)
        if at < 0:
            return self._part(text)  # type: ignore[no-any-return]  # it begins with a brace
        return {**self._part(text[:at] + b"}"), "nodeName": self._part(text[at + len(_NODE) - 1 : -1])}

    def _without_draw(self, text: bytes) -> bytes:
        at = text.find(self._drawn) if self._drawn else -1
        if at < 0:
            return text
        # Bare quotes are in no string, so this is a name and no part of a value.
        end = at + len(self._drawn) + DRAWN
        letters, quote = text[end - DRAWN : end], text[end : end + 1]
        return text.replace(text[at : end + 1], self._drawn + b'"') if letters.isalnum() and quote == b'"' else text

    def _part(self, text: bytes) -> Any:
        """What a text says. Raises ValueError."""
        part = self._known.get(text)
        if part is None:
            part = orjson.loads(text)
            if type(part) is dict:
                self._take(part, _OWN)
            part = self._remember(text, part)
        return part

    def _share(self, obj: Object, sections: tuple[str, ...]) -> None:
        for section in sections:
            part = obj.get(section)
            if type(part) is dict:
                self._take(part, _OWN)

    def _take(self, part: Object, own: frozenset[str]) -> None:
        """Puts shared values into a dict that is new."""
        known = self._known
        for name, value in part.items():
            kind = type(value)
            if kind is str:
                key = value
            elif kind is not dict and kind is not list:
                continue
            elif name in _SPLIT:
                for element in value:
                    if type(element) is dict:
                        self._take(element, _OWN_OF_ELEMENTS)
                continue
            else:
                key = orjson.dumps(value)
            if name in own:
                continue
            shared = known.get(key)
            if shared is None:
                shared = self._remember(key, value)
                known = self._known
            part[name] = shared

    def _remember(self, key: Any, value: Any) -> Any:
        if len(self._known) >= PARTS_MAX:
            self._known_before, self._known = self._known, {}
        shared = self._known[key] = self._known_before.get(key, value)
        return shared
