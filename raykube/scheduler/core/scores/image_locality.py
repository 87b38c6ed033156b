"""Nodes that hold the pod's images: the bytes that need not be pulled.

An image counts with its size times the part of all nodes that hold it, so that the few nodes which have a new image are
not overrun; under 23 MiB the score is 0, from 1000 MiB per image on 100 (upstream's thresholds).
"""

from collections.abc import Hashable

import numpy as np

from raykube.scheduler.core.plugin import MAX_SCORE, Floats, NodeScore, View
from raykube.scheduler.core.terms import Rows

MIB = 1024 * 1024
BYTES_MIN = 23 * MIB
BYTES_MAX = 1000 * MIB  # per image


class ImageLocality(NodeScore):
    name = "ImageLocality"

    @classmethod
    def concerns(cls, view: View) -> bool:
        return bool(view.needs.images)

    @classmethod
    def alike(cls, view: View) -> Hashable:
        return view.needs.images

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._local: Floats | None = None  # None: no node holds any of the images
        self._images = view.needs.images
        self._seen = self._count = -1
        self._revision = 0

    def revision(self) -> int:
        """Of the images that this class uses: a node more or less changes their spread too."""
        nodes = self.nodes
        if (
            self._seen == nodes.images.revision
            and self._count == nodes.count
            and (self._local is None or len(self._local) == nodes.capacity)
        ):
            return self._revision
        self._seen, self._count = nodes.images.revision, nodes.count
        local = self._bytes()
        same = local is self._local or (
            local is not None and self._local is not None and np.array_equal(local, self._local)
        )
        if not same:
            self._local = local
            self._revision += 1
        return self._revision

    def _bytes(self) -> Floats | None:
        nodes = self.nodes
        if not any(map(nodes.images.holders, self._images)):
            return None
        local = np.zeros(nodes.capacity)
        for image in self._images:
            holders = nodes.images.holders(image)
            if holders:
                rows = np.fromiter(holders.keys(), np.intp, len(holders))
                sizes = np.fromiter(holders.values(), np.float64, len(holders))
                local[rows] += sizes * (len(holders) / max(nodes.count, 1))
        return local

    def raw(self, rows: Rows) -> Floats | None:
        self.revision()
        if self._local is None:
            return None
        most = BYTES_MAX * len(self._images)
        local = np.clip(self._local[rows], BYTES_MIN, most)
        scores: Floats = MAX_SCORE * (local - BYTES_MIN) / (most - BYTES_MIN)
        return scores
