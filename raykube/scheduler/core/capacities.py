"""How much room for new volumes CSI drivers say there is, and on which nodes (CSIStorageCapacity).

    CSIDriver hostpath      storageCapacity: true        drivers that do not say so are asked nothing
    CSIStorageCapacity      class fast, 100Gi, maximumVolumeSize 40Gi, nodes with zone=1

A volume fits where one object with its class and a selector that matches the node has as much.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from raykube.api import quantity
from raykube.scheduler.core.nodes import Mask, NodeTable

Object = dict[str, Any]
Key = tuple[str, str]  # namespace, name


class StorageCapacities:
    """What drivers have told. `enough` → a mask of nodes."""

    def __init__(self, nodes: NodeTable, matching: Callable[[Object], Mask]) -> None:
        """`matching`: the nodes that a NodeSelector selects."""
        self._nodes = nodes
        self._matching = matching
        self._telling: set[str] = set()  # drivers
        self._of_class: dict[str, dict[Key, Object]] = {}

    def set_driver(self, name: str, obj: Object | None) -> bool:
        """A CSIDriver as it is now (None: gone); whether that matters to a pod that waits."""
        telling = bool(obj and (obj.get("spec") or {}).get("storageCapacity"))
        if telling == (name in self._telling):
            return False
        self._telling ^= {name}
        return True

    def set_capacity(self, key: Key, obj: Object | None) -> bool:
        """A CSIStorageCapacity as it is now (None: gone); whether that matters to a pod that waits."""
        before = None
        for name, known in list(self._of_class.items()):
            before = known.pop(key, None) or before
            if not known:
                del self._of_class[name]
        if obj is not None:
            self._of_class.setdefault(obj["storageClassName"], {})[key] = obj
        return (before and _told(before)) != (obj and _told(obj))

    def enough(self, storage_class: Object, size: Fraction | int) -> Mask | None:
        """The nodes where a volume of so many bytes can be made; None: the driver does not say."""
        if storage_class.get("provisioner") not in self._telling or not size:
            return None
        found = np.zeros(self._nodes.capacity, bool)
        for capacity in self._of_class.get(storage_class["metadata"]["name"], {}).values():
            limit = capacity.get("maximumVolumeSize", capacity.get("capacity"))
            if limit is not None and quantity.parse(limit) >= size and capacity.get("nodeTopology") is not None:
                found |= self._selected(capacity["nodeTopology"])
        return found

    def _selected(self, selector: Object) -> Mask:
        """The nodes whose labels match; an empty selector matches all."""
        labels = (selector.get("matchLabels") or {}).items()
        expressions = [{"key": key, "operator": "In", "values": [value]} for key, value in labels]
        expressions += selector.get("matchExpressions") or ()
        if not expressions:
            return np.ones(self._nodes.capacity, bool)
        return self._matching({"nodeSelectorTerms": [{"matchExpressions": expressions}]})


def _told(capacity: Object) -> tuple[Any, ...]:
    return tuple(capacity.get(name) for name in ("storageClassName", "capacity", "maximumVolumeSize", "nodeTopology"))
