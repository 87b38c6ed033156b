"""Where Ray's objects lie, for pods that read them.

    annotations = raykube.inputs([ref])        # in a program that is connected to the cluster's Ray
    client.apply({"kind": "Pod", "metadata": {"name": "reader", "annotations": annotations}, ...})

The scheduler then draws the pod to a machine whose object store has the bytes.
"""

import time
from collections.abc import Sequence
from typing import Any

from raykube.api.inputs import ANNOTATION, Input, written

TIMEOUT_MS = 5000
IN_A_STORE_BYTES = 100 * 1024  # Ray keeps what is smaller with its owner, in no store
PLACE_PATIENCE_S = 2.0  # the owner of an object hears of its end and of its place on two ways
PLACE_POLL_S = 0.02


def inputs(references: Sequence[Any]) -> dict[str, str]:
    """A pod's annotations for these `ray.ObjectRef`s; small ones, which lie in no store, and unknown ones do not count.

    Raises RuntimeError where this process is not connected to Ray, ray.exceptions.GetTimeoutError where Ray is silent.
    """
    import ray
    from ray.experimental import get_object_locations

    if not ray.is_initialized():
        raise RuntimeError("not connected to Ray: call ray.init() first")
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    deadline = time.monotonic() + PLACE_PATIENCE_S
    while True:
        found, placeless = [], 0
        for reference, location in get_object_locations(list(references), TIMEOUT_MS).items():
            size = location["object_size"] or 0
            at = tuple(sorted(addresses[node] for node in location["node_ids"] if node in addresses))
            if at and size:
                found.append(Input(size, at, f"ray:{reference.hex()}"))
            elif size > IN_A_STORE_BYTES and not location["node_ids"]:
                placeless += 1
        if not placeless or time.monotonic() > deadline:
            break
        time.sleep(PLACE_POLL_S)
    return {ANNOTATION: written(sorted(found, key=lambda one: one.name))} if found else {}
