"""A pod that has a node, read as far as it takes to know that nothing of it matters (`Cluster.on_status`).

Most of what a watch tells of pods is what became of them after the decision: their binding, and what kubelets say.
"""

from typing import Any

import orjson

from raykube.api import podtext

Object = dict[str, Any]


class Outline(Object):
    """An object that lacks most of its `spec`; `text` is its JSON."""

    __slots__ = ("text",)
    text: bytes

    def whole(self) -> Object:
        obj: Object = orjson.loads(self.text)
        return obj


def read(text: bytes) -> Object:
    """A pod's JSON → an Outline, or the whole object where it has no node yet, or the text is of another form."""
    found = podtext.outline(text)
    if found is None:
        obj: Object = orjson.loads(text)
        return obj
    outline = Outline(found)
    outline.text = text
    return outline
