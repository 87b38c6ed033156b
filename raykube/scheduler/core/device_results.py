"""An allocation as a claim's status has it: results, configuration, and the nodes where it can be used."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from raykube.api.quantity import format_quantity
from raykube.scheduler.core.device_allocation import Choice
from raykube.scheduler.core.device_pools import Place
from raykube.scheduler.core.device_requests import Wanted

Object = dict[str, Any]


def allocation_of(uid: str, wanted: Wanted, chosen: Sequence[Choice], node: str) -> Object:
    """`uid`: the claim's; the ids of its shares of devices are made of it."""
    devices: Object = {"results": [_result(uid, number, one) for number, one in enumerate(chosen)]}
    if config := list(_config(wanted, chosen)):
        devices["config"] = config
    found: Object = {"devices": devices}
    selector = _node_selector([one.device.place for one in chosen], node)
    if selector is not None:
        found["nodeSelector"] = selector
    return found


def _result(uid: str, number: int, one: Choice) -> Object:
    option, device, consumed = one
    driver, pool, name = device.id
    found: Object = {"request": option.name, "driver": driver, "pool": pool, "device": name}
    if option.admin:
        found["adminAccess"] = True
    if option.raw_tolerations:
        found["tolerations"] = list(option.raw_tolerations)
    if device.shared and consumed is not None:
        digest = sha256(f"{uid}/{number}/{driver}/{pool}/{name}".encode()).digest()
        found["shareID"] = str(UUID(bytes=digest[:16], version=4))
        found["consumedCapacity"] = {each: format_quantity(amount) for each, amount in consumed.items()}
    return found


def _config(wanted: Wanted, chosen: Sequence[Choice]) -> Iterator[Object]:
    """Of the classes first, in the order of requests; then the claim's own, as far as it concerns what was chosen."""
    options = {one.option.name.partition("/")[0]: one.option for one in chosen}
    for request in wanted.requests:
        option = options.get(request.name)
        for one in option.config if option is not None else ():
            yield {"source": "FromClass"} | one
    names = {name for option in options.values() for name in (option.name, option.name.partition("/")[0])}
    for one in wanted.config:
        if not one.get("requests") or names & set(one["requests"]):
            yield {"source": "FromClaim"} | one


def _node_selector(places: Sequence[Place], node: str) -> Object | None:
    """The nodes where all of the devices can be used; None: all nodes."""
    if any(place.node for place in places):
        names = {"key": "metadata.name", "operator": "In", "values": [node]}
        return {"nodeSelectorTerms": [{"matchFields": [names]}]}
    term: Object = {}
    for selector in dict.fromkeys(place.selector for place in places if place.selector and not place.everywhere):
        # Each has exactly one term: all of their requirements must hold.
        (one,) = orjson.loads(selector)["nodeSelectorTerms"]
        for kind in ("matchExpressions", "matchFields"):
            known = term.setdefault(kind, [])
            known += [each for each in one.get(kind) or () if each not in known]
    return {"nodeSelectorTerms": [{kind: found for kind, found in term.items() if found}]} if term else None
