"""The garbage collector kept from what stays: the copies of the cluster that informers and watch caches hold.

It walks all that there is each time that a quarter came to it. A copy of 150,000 pods then stops its process for a
second and more, and decoding them one after the other takes four times as long as without it. But nothing of a copy is
garbage in a cycle. So what has come is taken out of its sight (`gc.freeze`), after a last look at what came before;
what is let go of is freed all the same, by its count of references.

Cycles that live at that moment are never found: so it is done only where the collector was settled (`base/collector`),
in our components and commands, and not in programs that use this client.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from raykube.base import collector

FEW = 50  # so many come without ado
AT_ONCE = 2000  # few by few: to look at so many takes some milliseconds


class Residents:
    """What comes to stay in a process, counted in objects of the API."""

    def __init__(self) -> None:
        self._new = 0

    @contextmanager
    def arrival(self, count: int) -> Iterator[None]:
        """Around the making of so many objects. Many are made without the collector looking on."""
        if not collector.is_settled():
            yield
            return
        if count <= FEW or not gc.isenabled():
            yield
            self._new += count
            if self._new >= AT_ONCE:
                self.settle()
            return
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            self._new = 0
            gc.freeze()
            gc.enable()

    def settle(self) -> None:
        """What is there now stays."""
        self._new = 0
        gc.collect()
        gc.freeze()


residents = Residents()  # of this process, as the collector is
