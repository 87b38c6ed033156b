"""Which devices claims get on one node: a search, depth first, that takes the first whole solution.

    claims in their order ── requests ── options ── devices in the order of pools, slices and names
                                                     │ matches, tolerated, free, counters suffice, constraints hold
                                                     └ back one step where nothing fits

Devices of one request are taken in ascending order, so no set of them is tried twice. The first solution is the one
that upstream's search finds. It gives up after STEPS_MAX steps: then the node counts as one that cannot.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raykube.api.cel import CelError
from raykube.api.quantity import Number
from raykube.scheduler.core.device_capacity import consumption
from raykube.scheduler.core.device_pools import Attribute, Device, DeviceId, Pool, PoolId
from raykube.scheduler.core.device_requests import RESULTS_MAX, Constraint, Option, Unusable, Wanted
from raykube.scheduler.core.taints import untolerated

STEPS_MAX = 10_000
DEVICES_MAX = 256  # of one pod's claims
VERDICTS_MAX = 32  # kept per device: selectors are users' texts, of which there is no end

Amounts = Mapping[str, Number]


class Choice(NamedTuple):
    option: Option
    device: Device
    consumed: Amounts | None  # of a device that is shared


class Offer(NamedTuple):
    """What one node can use of a pool."""

    pool: Pool
    devices: Sequence[Device]


class InUse(NamedTuple):
    """What claims hold already."""

    taken: Container[DeviceId]
    consumed: Mapping[DeviceId, Amounts]  # of devices that are shared


@dataclass(slots=True)
class _Set:
    """The devices that a constraint has seen."""

    constraint: Constraint
    values: list[Attribute] = field(default_factory=list)

    def add(self, option: Option, device: Device) -> bool:
        if not self.constraint.concerns(option):
            return True
        value = device.attributes.get(self.constraint.attribute)
        if value is None or value[1] is None:
            return False
        fits = value not in self.values if self.constraint.distinct else not self.values or self.values[0] == value
        if fits:
            self.values.append(value)
        return fits

    def remove(self, option: Option) -> None:
        if self.constraint.concerns(option):
            self.values.pop()


class Search:
    """One search on one node. `run` → a list of choices for each claim, or why there is none."""

    def __init__(self, offers: Sequence[Offer], wanted: Sequence[Wanted], in_use: InUse) -> None:
        self._offers = offers
        self._wanted = wanted
        self._in_use = in_use
        self._steps = 0
        self._chosen: list[list[Choice]] = [[] for _ in wanted]
        self._now: set[DeviceId] = set()
        self._consumed_now: dict[DeviceId, list[Amounts]] = {}
        self._sets = [[_Set(one) for one in claim.constraints] for claim in wanted]
        self._matching: dict[int, list[Device]] = {}  # by option
        self._counters: dict[PoolId, dict[tuple[str, str], Number]] = {}  # what is left
        self._pools = {offer.pool.id: offer.pool for offer in offers}

    def run(self) -> list[list[Choice]] | None:
        """None: the claims cannot be had here. Raises Unusable with a reason that is this node's own."""
        total = 0
        for claim in self._wanted:
            least = sum(min(self._count(option) for option in request.options) for request in claim.requests)
            total += least
            if least > RESULTS_MAX:
                return None
        if total > DEVICES_MAX:
            return None
        return self._chosen if self._request(0, 0) else None

    def _count(self, option: Option) -> int:
        """How many devices it needs. All of none is too little."""
        if option.number:
            return option.number
        self._all_are_known(option)
        return max(len(self._candidates(option)), 1)

    def _all_are_known(self, option: Option) -> None:
        for offer in self._offers:
            if not offer.pool.usable:
                pool, state = "/".join(offer.pool.id), "being updated" if not offer.pool.complete else "invalid"
                text = f"request {option.name}: asks for all devices, but resource pool {pool} is currently {state}"
                raise Unusable(text)

    # The search: each step goes one request, or one device, further

    def _request(self, claim: int, number: int) -> bool:
        if claim == len(self._wanted):
            return True
        requests = self._wanted[claim].requests
        if number == len(requests):
            return self._request(claim + 1, 0)
        for option in requests[number].options:
            devices = self._candidates(option)
            count = self._count(option)
            if len(devices) >= count and self._device(claim, number, option, devices, count, 0):
                return True
        return False

    def _device(
        self, claim: int, number: int, option: Option, devices: Sequence[Device], left: int, first: int
    ) -> bool:
        """`left` more devices for an option, from the `first` one on."""
        if not left:
            return self._request(claim, number + 1)
        for place in range(first, len(devices) - left + 1):
            self._steps += 1
            if self._steps > STEPS_MAX:
                return False
            choice = self._take(claim, option, devices[place])
            if choice is None:
                if not option.number:
                    return False  # all, or nothing
                continue
            if self._device(claim, number, option, devices, left - 1, place + 1):
                return True
            self._give_back(claim, choice)
        return False

    def _candidates(self, option: Option) -> list[Device]:
        known = self._matching.get(id(option))
        if known is None:
            known = self._matching[id(option)] = [
                device
                for offer in self._offers
                if offer.pool.usable
                for device in offer.devices
                if matches(device, option)
            ]
        return known

    def _take(self, claim: int, option: Option, device: Device) -> Choice | None:
        """The device is in use from now on; None when it cannot be had."""
        if len(self._chosen[claim]) >= RESULTS_MAX:
            return None
        consumed = None
        if device.shared:
            before = (self._in_use.consumed.get(device.id, {}), *self._consumed_now.get(device.id, ()))
            consumed = consumption(device, option.capacity, before)
            if consumed is None:
                return None
        elif not option.admin and (device.id in self._in_use.taken or device.id in self._now):
            return None
        counts = not option.admin and not self._is_used(device)
        if counts and not self._spend(device):
            return None
        added: list[_Set] = []
        for one in self._sets[claim]:
            if not one.add(option, device):
                for each in added:
                    each.remove(option)
                if counts:
                    self._refund(device)
                return None
            added.append(one)
        if consumed is not None:
            self._consumed_now.setdefault(device.id, []).append(consumed)
        elif not option.admin:
            self._now.add(device.id)
        choice = Choice(option, device, consumed)
        self._chosen[claim].append(choice)
        return choice

    def _give_back(self, claim: int, choice: Choice) -> None:
        option, device, consumed = choice
        self._chosen[claim].pop()
        if consumed is not None:
            self._consumed_now[device.id].pop()
        elif not option.admin:
            self._now.discard(device.id)
        for one in self._sets[claim]:
            one.remove(option)
        if not option.admin and not self._is_used(device):
            self._refund(device)

    def _is_used(self, device: Device) -> bool:
        """Whether a device that is shared has taken its part of the counters already."""
        return device.shared and bool(self._in_use.consumed.get(device.id) or self._consumed_now.get(device.id))

    # Counters

    def _left(self, pool: Pool) -> dict[tuple[str, str], Number]:
        left = self._counters.get(pool.id)
        if left is None:
            left = self._counters[pool.id] = dict(pool.counters)
            for device in pool.devices:
                if device.id in self._in_use.taken or device.id in self._in_use.consumed:
                    for one in device.consumes:
                        if (one.counter_set, one.counter) in left:
                            left[one.counter_set, one.counter] -= one.amount
        return left

    def _spend(self, device: Device) -> bool:
        if not device.consumes:
            return True
        left = self._left(self._pools[PoolId(device.id.driver, device.id.pool)])
        if any(left[one.counter_set, one.counter] < one.amount for one in device.consumes):
            return False
        for one in device.consumes:
            left[one.counter_set, one.counter] -= one.amount
        return True

    def _refund(self, device: Device) -> None:
        if device.consumes:
            left = self._left(self._pools[PoolId(device.id.driver, device.id.pool)])
            for one in device.consumes:
                left[one.counter_set, one.counter] += one.amount


def matches(device: Device, option: Option) -> bool:
    """Whether it is such a device, whoever uses it. Raises Unusable where a selector fails on it."""
    if device.facts is None or not _has(device, option) or untolerated(device.taints, option.tolerations) is not None:
        return False
    for selector, text, whose, claim in option.selectors:
        said = device.verdicts.get(text)
        if said is None:
            try:
                said = selector.matches(device.facts)
            except CelError as error:
                said = str(error)
            if len(device.verdicts) >= VERDICTS_MAX:
                del device.verdicts[next(iter(device.verdicts))]
            device.verdicts[text] = said
        if isinstance(said, str):
            raise Unusable(f"{whose}: CEL runtime error: {said}", claim)
        if not said:
            return False
    return True


def _has(device: Device, option: Option) -> bool:
    """Whether it is large enough, were it free."""
    return not option.capacity or consumption(device, option.capacity, ()) is not None
