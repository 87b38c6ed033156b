"""Capacity of devices that several claims may use (allowMultipleAllocations): what one of them takes.

What a request does not name it takes by the device's policy: the default, or all there is. What it names is rounded up
to the next value that the policy allows.
"""

from collections.abc import Iterable, Mapping

from raykube.api import quantity
from raykube.api.device_selectors import qualified
from raykube.api.quantity import Number
from raykube.scheduler.core.device_pools import Device, Object

Amounts = Mapping[str, Number]


def consumption(device: Device, wanted: Amounts, before: Iterable[Amounts]) -> dict[str, Number] | None:
    """What a request takes of each capacity; None where there is less left, or no such capacity.

    Of a device that one claim has for itself nothing is taken from others: {} if it is large enough.
    """
    driver = device.id.driver
    asked = {qualified(name, driver): amount for name, amount in wanted.items()}
    found: dict[str, Number] = {}
    for name, capacity in device.capacity.items():
        has = quantity.parse(capacity["value"])
        request = asked.pop(qualified(name, driver), None)
        if not device.shared:
            if request is not None and request > has:
                return None
            continue
        takes = _takes(capacity, has, request)
        if takes is None or takes + sum(one.get(name, 0) for one in before) > has:
            return None
        found[name] = takes
    return None if asked else found


def _takes(capacity: Object, has: Number, request: Number | None) -> Number | None:
    policy = capacity.get("requestPolicy") or {}
    if request is None:
        return quantity.parse(policy["default"]) if policy.get("default") is not None else has
    if policy.get("validValues"):
        return min((one for one in map(quantity.parse, policy["validValues"]) if one >= request), default=None)
    limits = policy.get("validRange")
    if not limits:
        return request
    least = quantity.parse(limits["min"])
    takes = max(request, least)
    if limits.get("step") is not None:
        step = quantity.parse(limits["step"])
        takes = least + -((least - takes) // step) * step
    if limits.get("max") is not None and takes > quantity.parse(limits["max"]):
        return None
    return takes
