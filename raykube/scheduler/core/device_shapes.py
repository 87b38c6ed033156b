"""Where claims can be had, by what they ask for: a shape, which claims of one template share.

    shape    a mask over rows, and how far it has read the log
    log      nodes on which devices came, went, or were taken or given back

So pods of one template cost one search each, on the node where the last one went; a change of devices that several
nodes reach costs one search for all nodes that are alike.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from raykube.scheduler.core.device_allocation import InUse, Search
from raykube.scheduler.core.device_pools import Place
from raykube.scheduler.core.device_reach import Reach, Reached
from raykube.scheduler.core.device_requests import Reason, Unusable, Wanted, wanted_of
from raykube.scheduler.core.nodes import Mask, NodeTable

Object = dict[str, Any]

SHAPES_MAX = 64
LOG_MAX = 16_384


@dataclass(slots=True)
class Shape:
    """Where claims that ask for the same can be had."""

    wanted: list[Wanted]
    fits: Mask
    reasons: dict[int, Reason] = field(default_factory=dict)
    epoch: int = -1
    read: int = 0
    revised: int = 0


class Shapes:
    """The shapes that were asked about last."""

    def __init__(self, nodes: NodeTable, reach: Reach, in_use: Callable[[], InUse]) -> None:
        self._nodes = nodes
        self._reach = reach
        self._in_use = in_use
        self._shapes: OrderedDict[bytes, Shape] = OrderedDict()
        self._log: list[str] = []
        self._epoch = 0

    def clear(self) -> None:
        """Classes changed."""
        self._shapes.clear()

    def touch(self, places: Iterable[Place]) -> None:
        """Devices at these places came or went, or were taken or given back."""
        if len(self._log) > LOG_MAX:
            self._log.clear()
            self._epoch += 1
        for place in places:
            if place.node:
                self._log.append(place.node)
            else:
                self._epoch += 1

    def of(self, claims: Sequence[Object], classes: Mapping[str, Object]) -> Shape:
        """As it was; `catch_up` brings it to now. Raises Unusable."""
        key = orjson.dumps([claim["spec"].get("devices") for claim in claims], option=orjson.OPT_SORT_KEYS)
        shape = self._shapes.get(key)
        if shape is None:
            wanted = [wanted_of(number, claim["spec"], classes) for number, claim in enumerate(claims)]
            shape = self._shapes[key] = Shape(wanted, np.zeros(0, bool))
            if len(self._shapes) > SHAPES_MAX:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(key)
        return shape

    def catch_up(self, shape: Shape) -> None:
        nodes = self._nodes
        changed = nodes.changed_since(shape.revised)
        if shape.epoch != self._epoch or changed is None or len(shape.fits) != nodes.capacity:
            shape.fits = np.zeros(nodes.capacity, bool)
            shape.reasons.clear()
            self._judge(shape, np.flatnonzero(nodes.live).tolist())
        else:
            news = {row for name in self._log[shape.read :] if (row := nodes.rows.get(name)) is not None}
            self._judge(shape, sorted(news | changed))
        shape.epoch, shape.read, shape.revised = self._epoch, len(self._log), nodes.revised

    def _judge(self, shape: Shape, rows: Sequence[int]) -> None:
        alike: dict[Reached, tuple[bool, Reason | None]] = {}
        fits = []
        for row in rows:
            reached = self._reach.of(row)
            answer = alike.get(reached)
            if answer is None:
                answer = alike[reached] = self._search(shape, row)
            fits.append(answer[0])
            if answer[1] is not None:
                shape.reasons[row] = answer[1]
            elif shape.reasons:
                shape.reasons.pop(row, None)
        shape.fits[rows] = fits

    def _search(self, shape: Shape, row: int) -> tuple[bool, Reason | None]:
        try:
            return Search(self._reach.offers(row), shape.wanted, self._in_use()).run() is not None, None
        except Unusable as error:
            return False, error.reason
        except (ArithmeticError, ValueError):
            return False, None  # amounts that no API lets through: of no use, and nobody else's trouble
