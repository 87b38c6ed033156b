"""The slices of one Service on their way to hold what is desired, kept up to date by what changes.

Vocabulary: a **group** is an address family and ports: the endpoints of a slice share them. An endpoint is **missing**
when no slice holds it. A slice is **doubtful** from when it, or one of its endpoints, has changed until it was found to
say what it should; only doubtful slices are compared, so that a change costs what it changes, not the whole Service.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from raykube.controllers.core import claims, kinds
from raykube.controllers.core.names import derived_names
from raykube.controllers.core.patches import create_write, delete_write, merge_diff, patch_write, uid_of, version_of
from raykube.controllers.core.plan import Obj, View, Write

Group = tuple[str, bytes]  # address family, ports as JSON
Entry = tuple[tuple[Group, str, Obj], ...]  # of one pod: for each family the group, its uid and the endpoint
NO_PORTS = b"[]"


@dataclass(slots=True)
class _Slice:
    """A stored slice: its group, and the pods in it in their order."""

    group: Group
    uids: list[str]


def _normal(port: Obj) -> Obj:
    """A stored port in the form and order in which `backends.ports_of` writes it."""
    entry: Obj = {"name": port.get("name", ""), "port": port.get("port"), "protocol": port.get("protocol", "TCP")}
    if port.get("appProtocol"):
        entry["appProtocol"] = port["appProtocol"]
    return entry


class Packing:
    """See the module's docstring. First what has changed (`desire`, `take_in`), then `writes`."""

    def __init__(self, service: Obj, labels: dict[str, str], families: Sequence[str], endpoints_max: int) -> None:
        self._service, self._labels, self._families, self._max = service, labels, families, endpoints_max
        self._desired: dict[Group, dict[str, Obj]] = {}
        self._counts: Counter[str] = Counter()  # endpoints of each family
        self._slices: dict[str, _Slice] = {}
        self._by_group: dict[Group, dict[str, None]] = {}
        self._where: dict[tuple[Group, str], str] = {}  # the slice that holds an endpoint, desired or not
        self._missing: dict[Group, dict[str, None]] = {}
        self._doubtful: dict[str, None] = {}
        self._taken: set[str] = set()  # names of slices that there are, or that are being created

    # -- what has changed

    def desire(self, before: Entry | None, after: Entry | None) -> None:
        """The endpoints of one pod are no longer these, but those."""
        for group, uid, _ in before or ():
            endpoints = self._desired[group]
            del endpoints[uid]
            if not endpoints:
                del self._desired[group]
            self._counts[group[0]] -= 1
            self._missing.get(group, {}).pop(uid, None)
            self._doubt(group, uid)
        for group, uid, endpoint in after or ():
            self._desired.setdefault(group, {})[uid] = endpoint
            self._counts[group[0]] += 1
            if not self._doubt(group, uid):
                self._missing.setdefault(group, {})[uid] = None

    def _doubt(self, group: Group, uid: str) -> bool:
        place = self._where.get((group, uid))
        if place is None:
            return False
        self._doubtful[place] = None
        return True

    def take_in(self, name: str, stored: Obj | None) -> None:
        """The slice of that name is now this one; None when there is none that is ours."""
        before = self._slices.pop(name, None)
        self._doubtful.pop(name, None)
        if before is not None:
            self._by_group[before.group].pop(name)
            for uid in before.uids:
                if self._where.get((before.group, uid)) == name:
                    del self._where[before.group, uid]
                    if uid in self._desired.get(before.group, ()):
                        self._missing.setdefault(before.group, {})[uid] = None
        if stored is None:
            return
        group = (stored["addressType"], orjson.dumps([_normal(port) for port in stored.get("ports") or ()]))
        uids = [str((each.get("targetRef") or {}).get("uid", "")) for each in stored.get("endpoints") or ()]
        self._slices[name] = _Slice(group, uids)
        self._by_group.setdefault(group, {})[name] = None
        self._doubtful[name] = None
        for uid in uids:
            if self._where.setdefault((group, uid), name) == name:
                self._missing.get(group, {}).pop(uid, None)

    # -- what is to be written

    def writes(self, view: View) -> list[Write]:
        """The smallest set of writes that makes the slices say what is desired."""
        found: list[Write] = []
        self._taken = set(self._slices)
        wanted = dict.fromkeys(self._desired)
        wanted |= dict.fromkeys((family, NO_PORTS) for family in self._families if not self._counts[family])
        for group, names in self._by_group.items():
            if group not in wanted:
                found += [delete_write(kinds.ENDPOINT_SLICES, self._stored(view, name)) for name in names]
        for group in wanted:
            self._pack(view, group, found)
        self._missing = {group: missing for group, missing in self._missing.items() if missing}
        return found

    def _stored(self, view: View, name: str) -> Obj:
        stored = view.get(kinds.ENDPOINT_SLICES, self._service["metadata"].get("namespace", ""), name)
        assert stored is not None  # one that went is taken in first
        return stored

    def _pack(self, view: View, group: Group, found: list[Write]) -> None:
        names = self._by_group.get(group) or {}
        desired = self._desired.get(group) or {}
        missing = [desired[uid] for uid in self._missing.get(group) or ()]
        if not desired:
            self._keep_one(view, group, sorted(names), found)
            return
        kept = [(self._stored(view, name), self._held(group, name)) for name in sorted(names) if name in self._doubtful]
        for _, held in kept:
            missing += held[self._max :]  # it was filled when more were allowed
            del held[self._max :]
        # Slices that change anyway are filled first: that costs no further write.
        kept.sort(key=lambda pair: (pair[0].get("endpoints") or []) == pair[1])
        for _, held in kept:
            _move(missing, held, self._max - len(held))
        for name in sorted(names) if missing else ():
            room = self._max - len(self._slices[name].uids)
            if room > 0 and missing and name not in self._doubtful:
                kept.append((self._stored(view, name), self._held(group, name)))
                _move(missing, kept[-1][1], room)
        for stored, held in kept:
            self._update(stored, held, found)
        parts = (missing[start : start + self._max] for start in range(0, len(missing), self._max))
        found.extend(self._create(view, group, part) for part in parts)

    def _held(self, group: Group, name: str) -> list[Obj]:
        """The endpoints that a slice has and is to keep."""
        desired = self._desired[group]
        uids = dict.fromkeys(uid for uid in self._slices[name].uids if self._where.get((group, uid)) == name)
        return [desired[uid] for uid in uids if uid in desired]

    def _keep_one(self, view: View, group: Group, names: Sequence[str], found: list[Write]) -> None:
        """A family without endpoints has one slice, which says so."""
        found.extend(delete_write(kinds.ENDPOINT_SLICES, self._stored(view, name)) for name in names[1:])
        if not names:
            found.append(self._create(view, group, []))
        elif names[0] in self._doubtful:
            self._update(self._stored(view, names[0]), [], found, keep=True)

    def _update(self, stored: Obj, held: list[Obj], found: list[Write], *, keep: bool = False) -> None:
        if not held and not keep:
            found.append(delete_write(kinds.ENDPOINT_SLICES, stored))
            return
        body: Obj = {}
        if (stored.get("endpoints") or []) != held:
            body["endpoints"] = held
        labels = merge_diff(claims.labels_of(stored), self._labels)
        if labels:
            body["metadata"] = {"labels": labels}
        if body:
            found.append(patch_write(kinds.ENDPOINT_SLICES, stored, body))
        else:
            self._doubtful.pop(stored["metadata"]["name"], None)

    def _create(self, view: View, group: Group, endpoints: list[Obj]) -> Write:
        meta = self._service["metadata"]
        newest = max((version_of(self._stored(view, name)) for name in self._slices), default=0)
        state = f"{uid_of(self._service)}/{version_of(self._service)}/{newest}"
        names = derived_names(f"{meta['name']}-", state, self._taken)
        namespace = meta.get("namespace", "")
        name = next(each for each in names if view.get(kinds.ENDPOINT_SLICES, namespace, each) is None)
        self._taken.add(name)
        body: Obj = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": self._labels,
                "ownerReferences": [claims.reference_to(self._service, "v1", "Service")],
            },
            "addressType": group[0],
            "endpoints": endpoints,
            "ports": orjson.loads(group[1]),
        }
        return create_write(kinds.ENDPOINT_SLICES, body)


def _move(missing: list[Obj], held: list[Obj], room: int) -> None:
    """As many missing endpoints into a slice as there is room."""
    held += missing[: max(room, 0)]
    del missing[: max(room, 0)]
