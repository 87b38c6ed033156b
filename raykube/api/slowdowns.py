"""How a kubelet tells, in its node's Lease, how long pods wait for a CPU: an annotation, renewed with the Lease.

    raykube.io/slowdowns: {"<uid of a pod>": 1.42, ...}

Each number is how many times longer the pod's work took lately than on a CPU that is always free. Pods that hardly ran
are left out. A Lease that is no longer renewed tells of the past, and its readers see that from `renewTime`.
"""

from typing import Any

import orjson

ANNOTATION = "raykube.io/slowdowns"
PODS_MAX = 32  # the most disturbed ones: a Lease is written every ten seconds


def written(slowdowns: dict[str, float]) -> str:
    """The annotation's text."""
    worst = sorted(slowdowns, key=lambda uid: (-slowdowns[uid], uid))[:PODS_MAX]
    return orjson.dumps({uid: round(slowdowns[uid], 2) for uid in worst}).decode()


def read(lease: dict[str, Any]) -> dict[str, float]:
    """By pod uid; what is no number is left out."""
    text = (lease["metadata"].get("annotations") or {}).get(ANNOTATION)
    if not isinstance(text, str):
        return {}
    try:
        found = orjson.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    numbers = list(found.items())[:PODS_MAX]
    return {uid: float(value) for uid, value in numbers if type(value) in (int, float)}
