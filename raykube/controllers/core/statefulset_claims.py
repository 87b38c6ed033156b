"""The PersistentVolumeClaims of a StatefulSet's pods: `<template>-<set>-<ordinal>`, and who takes them along.

`persistentVolumeClaimRetentionPolicy` is carried out by the garbage collector: a claim that goes with the set
(whenDeleted) is owned by the set, one that goes with a pod that is scaled away (whenScaled) by that pod, from before
the pod is deleted. Claims that somebody else controls are left to him.
"""

from collections.abc import Iterable, Sequence

from raykube.controllers.core import kinds
from raykube.controllers.core.claims import reference_to
from raykube.controllers.core.patches import create_write, uid_of
from raykube.controllers.core.plan import Event, Obj, View, Write

DELETE = "Delete"
POD = ("v1", "Pod")
STATEFUL_SET = ("apps/v1", "StatefulSet")


def templates_of(stateful_set: Obj) -> list[Obj]:
    """`spec.volumeClaimTemplates`."""
    return stateful_set["spec"].get("volumeClaimTemplates") or []


def name_of(stateful_set: Obj, template: Obj, ordinal: int) -> str:
    """The name of a pod's claim."""
    return f"{template['metadata']['name']}-{stateful_set['metadata']['name']}-{ordinal}"


def sets_of(view: View, claim: Obj) -> Iterable[Obj]:
    """The sets that a claim may belong to, by its name: a-b-c-0 is of the set c (template a-b) or b-c (template a)."""
    prefix, _, ordinal = claim["metadata"]["name"].rpartition("-")
    if not ordinal.isdecimal():
        return
    namespace = claim["metadata"].get("namespace", "")
    at = prefix.find("-")
    while at > 0:
        found = view.get(kinds.STATEFUL_SETS, namespace, prefix[at + 1 :])
        if found is not None and any(each["metadata"]["name"] == prefix[:at] for each in templates_of(found)):
            yield found
        at = prefix.find("-", at + 1)


def volumes(stateful_set: Obj, ordinal: int, present: Iterable[Obj]) -> list[Obj]:
    """A pod's volumes: one for each claim, and those of `present` that have other names."""
    wanted = {
        template["metadata"]["name"]: name_of(stateful_set, template, ordinal)
        for template in templates_of(stateful_set)
    }
    own = [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim in wanted.items()]
    return own + [volume for volume in present if volume["name"] not in wanted]


def are_mounted(stateful_set: Obj, ordinal: int, present: Sequence[Obj]) -> bool:
    """Whether a pod's volumes name all its claims."""
    named = {volume["name"]: (volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in present}
    return all(
        named.get(template["metadata"]["name"]) == name_of(stateful_set, template, ordinal)
        for template in templates_of(stateful_set)
    )


def claims_of(view: View, stateful_set: Obj, ordinal: int) -> list[tuple[Obj, str, Obj | None]]:
    """(template, name, claim or None) of each of a pod's claims."""
    namespace = stateful_set["metadata"].get("namespace", "")
    named = [(template, name_of(stateful_set, template, ordinal)) for template in templates_of(stateful_set)]
    return [(template, name, view.get(kinds.PERSISTENT_VOLUME_CLAIMS, namespace, name)) for template, name in named]


def create(stateful_set: Obj, template: Obj, name: str, pod_name: str) -> Write:
    """Makes a claim for a pod."""
    meta = stateful_set["metadata"]
    given = template["metadata"]
    labels = {**(given.get("labels") or {}), **(stateful_set["spec"]["selector"].get("matchLabels") or {})}
    metadata: Obj = {"name": name, "namespace": meta.get("namespace", "")}
    if labels:
        metadata["labels"] = labels
    for field in ("annotations", "finalizers"):
        if given.get(field):
            metadata[field] = given[field]
    if _policy(stateful_set, "whenDeleted") == DELETE:
        metadata["ownerReferences"] = [reference_to(stateful_set, *STATEFUL_SET)]
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": template.get("spec") or {},
    }
    done = f"create Claim {name} Pod {pod_name} in StatefulSet {meta['name']} success"
    failed = f"create Claim {name} for Pod {pod_name} in StatefulSet {meta['name']} failed error: {{error}}"
    return create_write(
        kinds.PERSISTENT_VOLUME_CLAIMS,
        body,
        done=Event(stateful_set, "Normal", "SuccessfulCreate", done),
        failed=Event(stateful_set, "Warning", "FailedCreate", failed),
    )


def is_stale(stateful_set: Obj, claim: Obj, pod_name: str) -> bool:
    """Whether a claim goes with an earlier pod or set of the same name: a new pod has to wait until it is gone."""
    return any(
        _names(reference, *POD, pod_name)
        or (
            _names(reference, *STATEFUL_SET, stateful_set["metadata"]["name"])
            and reference.get("uid") != uid_of(stateful_set)
        )
        for reference in _owners(claim)
    )


def owned_rightly(stateful_set: Obj, claim: Obj, pod: Obj, *, condemned: bool) -> tuple[list[Obj] | None, bool]:
    """(the owner references that the claim should have, None when it has them; whether somebody else controls it)."""
    set_name, pod_name = stateful_set["metadata"]["name"], pod["metadata"]["name"]
    scaled, deleted = _policy(stateful_set, "whenScaled") == DELETE, _policy(stateful_set, "whenDeleted") == DELETE
    ours, others = [], []
    for reference in _owners(claim):
        if _names(reference, *STATEFUL_SET, set_name):
            owner = stateful_set
        elif _names(reference, *POD, pod_name):
            owner = pod
        else:
            others.append(reference)
            continue
        if reference.get("uid") != uid_of(owner):
            return None, False  # it goes with an earlier set or pod: the garbage collector's matter
        ours.append(reference)
    contested = (scaled or deleted) and any(reference.get("controller") for reference in others)
    wanted: list[Obj] = []
    if contested:
        pass
    elif condemned and scaled:
        wanted = [reference_to(pod, *POD)]
    elif deleted:
        wanted = [reference_to(stateful_set, *STATEFUL_SET)]
    if [_essence(reference) for reference in ours] == [_essence(reference) for reference in wanted]:
        return None, contested
    return [*others, *wanted], contested


def _policy(stateful_set: Obj, when: str) -> str:
    policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    return str(policy.get(when) or "Retain")


def _owners(claim: Obj) -> list[Obj]:
    return claim["metadata"].get("ownerReferences") or []


def _names(reference: Obj, api_version: str, kind: str, name: str) -> bool:
    return (reference.get("apiVersion"), reference.get("kind"), reference.get("name")) == (api_version, kind, name)


def _essence(reference: Obj) -> tuple[str, bool]:
    return str(reference.get("uid")), bool(reference.get("controller"))
