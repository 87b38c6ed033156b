"""What pods of one template have in common, kept once for all of them."""

from typing import Any, NamedTuple

from raykube.hollow.core import lifecycle
from raykube.hollow.core.lifecycle import Lifecycle

Object = dict[str, Any]
GRACE_DEFAULT_S = 30
KNOWN_MAX = 4096


class Container(NamedTuple):
    """A container, as far as a status shows it."""

    name: str
    image: str
    sidecar: bool = False


class Shape(NamedTuple):
    """The common part of pods; equal ones are one object (`Shapes`)."""

    containers: tuple[Container, ...]
    init: tuple[Container, ...]
    lifecycle: Lifecycle
    restart_policy: str
    host_network: bool
    grace_s: int
    generation: int

    def restarts(self, exit_code: int) -> bool:
        """Whether containers that end so are started again."""
        return self.restart_policy == "Always" or (self.restart_policy == "OnFailure" and exit_code != 0)


def _containers(specs: Any) -> tuple[Container, ...]:
    return tuple(
        Container(spec["name"], spec.get("image", ""), spec.get("restartPolicy") == "Always") for spec in specs or ()
    )


def owner_kind(metadata: Object) -> str:
    """The kind of the pod's controller; empty without one."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["kind"])
    return ""


class Shapes:
    """One object for equal shapes, of those that were met last."""

    def __init__(self, lifecycles: tuple[Lifecycle, ...]) -> None:
        self._lifecycles = lifecycles
        self._known: dict[tuple[Any, ...], Shape] = {}
        # Where no lifecycle looks at labels, pods of one owner's kind, namespace and policy have the same.
        self._chosen: dict[tuple[str, ...], Lifecycle] | None = None if any(each.labels for each in lifecycles) else {}

    def of(self, pod: Object) -> Shape:
        """The shape of a pod."""
        metadata, spec = pod["metadata"], pod["spec"]
        policy = spec.get("restartPolicy") or "Always"
        grace = spec.get("terminationGracePeriodSeconds")
        asked = (metadata.get("annotations") or {}).get(lifecycle.ANNOTATION, "")
        chosen = self._choose(asked, owner_kind(metadata), metadata["namespace"], policy, metadata.get("labels") or {})
        containers, init = _containers(spec.get("containers")), _containers(spec.get("initContainers"))
        rest = (
            policy,
            bool(spec.get("hostNetwork")),
            GRACE_DEFAULT_S if grace is None else int(grace),
            int(metadata.get("generation") or 0),
        )
        key = (containers, init, chosen.index, rest)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[key] = Shape(containers, init, chosen, *rest)
        return known

    def _choose(self, asked: str, owner: str, namespace: str, policy: str, labels: dict[str, str]) -> Lifecycle:
        if self._chosen is None:
            return lifecycle.choose(self._lifecycles, asked, owner, namespace, policy, labels)
        chosen = self._chosen.get((asked, owner, namespace, policy))
        if chosen is None:
            if len(self._chosen) >= KNOWN_MAX:
                self._chosen.clear()
            chosen = lifecycle.choose(self._lifecycles, asked, owner, namespace, policy, labels)
            self._chosen[asked, owner, namespace, policy] = chosen
        return chosen
