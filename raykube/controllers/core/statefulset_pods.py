"""The identities of a StatefulSet: an ordinal, and by it the pod's name, labels, host name and volumes.

web, ordinals.start 1, replicas 3      web-1  web-2  web-3      web-4 is condemned
                            index        0      1      2
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raykube.controllers.core import controller_revisions, pods, statefulset_claims
from raykube.controllers.core.claims import labels_of
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.revisions import desired_of

NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"
ORDINAL_MAX = 2**31 - 1
_NAME = re.compile(r"(.*)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Replica:
    """One identity that the set asks for. `pod` is None while it has none."""

    index: int  # 0 … replicas - 1
    ordinal: int
    name: str
    pod: Obj | None


def parse(name: str) -> tuple[str, int]:
    """A pod's name → (the set's name, the ordinal); ("", -1) when it is nobody's. "web-03" is not "web-3"."""
    found = _NAME.fullmatch(name)
    if found is None or not 0 <= int(found[2]) <= ORDINAL_MAX or str(int(found[2])) != found[2]:
        return "", -1
    return found[1], int(found[2])


def ordinal_of(pod: Obj) -> int:
    """The pod's ordinal; -1 when its name has none."""
    return parse(pod["metadata"]["name"])[1]


def is_member(stateful_set: Obj, pod: Obj) -> bool:
    """Whether the pod's name is one that the set gives."""
    parent, ordinal = parse(pod["metadata"]["name"])
    return ordinal >= 0 and parent == stateful_set["metadata"]["name"]


def start_of(stateful_set: Obj) -> int:
    """`spec.ordinals.start`."""
    return int((stateful_set["spec"].get("ordinals") or {}).get("start") or 0)


def divide(stateful_set: Obj, owned: Sequence[Obj]) -> tuple[Iterator[Replica], list[Obj]]:
    """(the replicas in their order, the condemned pods, highest ordinal first).

    The replicas are made as they are asked for: a set may ask for 2^31 - 1, and its controller looks at a few.
    """
    start, count = start_of(stateful_set), desired_of(stateful_set)
    by_ordinal = {ordinal_of(pod): pod for pod in owned}
    name = stateful_set["metadata"]["name"]
    replicas = (
        Replica(index, start + index, f"{name}-{start + index}", by_ordinal.get(start + index))
        for index in range(count)
    )
    beyond = sorted((ordinal for ordinal in by_ordinal if not start <= ordinal < start + count), reverse=True)
    return replicas, [by_ordinal[ordinal] for ordinal in beyond]


def revision_of(pod: Obj) -> str:
    """The name of the revision that the pod was made of."""
    return labels_of(pod).get(controller_revisions.POD_LABEL, "")


def is_ready(pod: Obj) -> bool:
    """Whether the pod runs and is ready."""
    return pods.phase(pod) == "Running" and pods.is_ready(pod)


def available_in(pod: Obj, stateful_set: Obj, now: float) -> float | None:
    """Seconds until the pod has been ready for `minReadySeconds`: 0 is available now, None is not ready."""
    return pods.available_in(pod, int(stateful_set["spec"].get("minReadySeconds") or 0), now)


def is_available(pod: Obj, stateful_set: Obj, now: float) -> bool:
    """Whether the pod has been ready for long enough."""
    return available_in(pod, stateful_set, now) == 0


def is_unavailable(pod: Obj | None, stateful_set: Obj, now: float) -> bool:
    """Whether an update has to count the replica as down."""
    return pod is None or pods.is_terminating(pod) or not is_available(pod, stateful_set, now)


def identity_labels(name: str, ordinal: int) -> dict[str, str]:
    """The labels by which Services and downward APIs know the identity."""
    return {NAME_LABEL: name, INDEX_LABEL: str(ordinal)}


def make(stateful_set: Obj, replica: Replica, revision: Obj, reference: Obj) -> Obj:
    """The pod of an identity, made of the template in `revision`."""
    template = revision["data"]["spec"]["template"]
    namespace = stateful_set["metadata"].get("namespace", "")
    pod = pods.from_template(template, reference, namespace, replica.name)
    pod["metadata"]["labels"] = {
        **labels_of(pod),
        **identity_labels(replica.name, replica.ordinal),
        controller_revisions.POD_LABEL: revision["metadata"]["name"],
    }
    pod["spec"] = {**pod["spec"], "hostname": replica.name}
    service = stateful_set["spec"].get("serviceName")
    if service:
        pod["spec"]["subdomain"] = service
    volumes = statefulset_claims.volumes(stateful_set, replica.ordinal, pod["spec"].get("volumes") or ())
    if volumes:
        pod["spec"]["volumes"] = volumes
    return pod


def restored(stateful_set: Obj, pod: Obj) -> Obj:
    """The patch that gives an adopted or edited pod its identity again; {} when it has it."""
    ordinal, labels = ordinal_of(pod), labels_of(pod)
    wanted = identity_labels(pod["metadata"]["name"], ordinal)
    changed = {name: value for name, value in wanted.items() if labels.get(name) != value}
    patch: Obj = {"metadata": {"labels": changed}} if changed else {}
    present = pod["spec"].get("volumes") or []
    if not statefulset_claims.are_mounted(stateful_set, ordinal, present):
        patch["spec"] = {"volumes": statefulset_claims.volumes(stateful_set, ordinal, present)}
    return patch
