"""How much of what a pod reads is on each node already: the score is bytes not moved.

    score of a row = 100 x (bytes on it / all bytes) x min(1, all bytes / LARGE)

so that a few kilobytes move nobody. What a pod reads is said by its annotation (raykube.api.inputs), by node name or
address; a place that is no node of ours counts among all bytes.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from raykube.api.inputs import Input

Floats = NDArray[np.float64]

LARGE_BYTES = 64 * 1024 * 1024


def scores(inputs: Iterable[Input], rows: Mapping[str, int], count: int) -> Floats:
    """0 to 100 for each of `count` rows. `rows`: by a node's name, and by its addresses."""
    local, total = np.zeros(count), 0
    for one in inputs:
        total += one.bytes
        for row in {rows[place] for place in one.at if place in rows}:
            local[row] += one.bytes
    if total == 0:
        return local
    found: Floats = local * (100.0 / max(total, LARGE_BYTES))
    return found
