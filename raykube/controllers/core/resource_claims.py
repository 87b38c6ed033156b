"""resourceclaim-controller: makes the ResourceClaims of pods that name a template, and gives claims back after use.

    pod    the claims that it needs are made, and their names told in its status
    claim  pods that ended or are gone leave `reservedFor`; nobody left: the devices are free, and a claim that was made
           for a pod is deleted with it

Keys are "pod:namespace/name" and "claim:namespace/name". The scheduler allocates; where a pod was given a node without
it (spec.nodeName), an allocated claim is reserved here.
"""

from collections.abc import Iterable

from raykube.api import resource_claims
from raykube.api.resource_claims import FINALIZER, POD_CLAIM_ANNOTATION, PodClaim
from raykube.controllers.core import aspects, kinds, pods
from raykube.controllers.core.claims import controller_reference, reference_to
from raykube.controllers.core.names import free_names
from raykube.controllers.core.patches import create_write, delete_write, patch_write, uid_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, Read, View, Write, key_of, split_key

POD, CLAIM = "pod:", "claim:"
FAILED = "FailedResourceClaimCreation"
BASE_MAX = 57  # of a name that is cut: a hyphen and five letters follow


class ResourceClaimController:
    """See the module's docstring."""

    name = "resourceclaim-controller"
    resources = (kinds.PODS, kinds.RESOURCE_CLAIMS, kinds.RESOURCE_CLAIM_TEMPLATES)
    looks_at = aspects.COMING | aspects.NODE | aspects.PHASE | aspects.DELETION

    def __init__(self) -> None:
        self._without_template: dict[str, set[str]] = {}  # template → keys of pods that wait for it
        self._freed: set[str] = set()  # uids of claims that were given back, and have their finalizer still

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A pod with claims and those claims; a claim, whose it is and who may reserve it; who waits for a template."""
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.PODS:
            return self._of_pod(old, new)
        if resource == kinds.RESOURCE_CLAIM_TEMPLATES:
            return self._without_template.pop(key_of(changed), ()) if new is not None else ()
        keys = [CLAIM + key_of(changed)]
        if new is None:
            self._freed.discard(uid_of(changed))
        namespace = changed["metadata"].get("namespace", "")
        owner = controller_reference(changed)
        if owner is not None and owner.get("kind") == "Pod":
            keys.append(f"{POD}{namespace}/{owner['name']}")
        if new is not None and _has_room_anew(old, new):
            users = _uids(new)
            named = view.by_index(kinds.PODS, "resource-claim", key_of(changed))
            keys += [POD + key_of(pod) for pod in named if _is_placed(pod) and uid_of(pod) not in users]
        return keys

    def _of_pod(self, old: Obj | None, new: Obj | None) -> Iterable[str]:
        keys: set[str] = set()
        for pod in (old, new):
            if pod is not None and pod["spec"].get("resourceClaims"):
                namespace = pod["metadata"].get("namespace", "")
                keys.update(f"{CLAIM}{namespace}/{one.claim}" for one in resource_claims.of_pod(pod) if one.claim)
                keys.add(POD + key_of(pod))
        return keys

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The next step for a pod or a claim."""
        if key.startswith(POD):
            return self._pod(view, key)
        return self._claim(view, key.removeprefix(CLAIM))

    # Pods

    def _pod(self, view: View, key: str) -> Plan:
        pod = view.get(kinds.PODS, *split_key(key.removeprefix(POD)))
        if pod is None or pods.is_terminating(pod) or pods.is_terminal(pod):
            return NOTHING
        draft = Draft()
        names: dict[str, str] = {}
        needed = {one.name: one for one in resource_claims.of_pod(pod)}
        for given in pod["spec"].get("resourceClaims") or ():
            one = needed.get(given["name"])
            template = given.get("resourceClaimTemplateName")
            if one is None or not template or _exists(view, pod, one):
                continue
            made = _made_before(view, pod, one.name)
            if made is not None:
                names[one.name] = made["metadata"]["name"]
            else:
                self._make(view, pod, one.name, template, draft)
        if names:
            body = {"status": {"resourceClaimStatuses": _with_names(pod, names)}}
            draft.writes.append(patch_write(kinds.PODS, pod, body, subresource="status"))
        if pods.node_name(pod):
            claims = {one.claim: one for one in needed.values()}
            draft.writes += [write for one in claims.values() if (write := _reservation(view, pod, one)) is not None]
        return draft.plan()

    def _make(self, view: View, pod: Obj, name: str, template_name: str, draft: Draft) -> None:
        """The claim for one entry of the pod."""
        namespace = pod["metadata"].get("namespace", "")
        template = view.get(kinds.RESOURCE_CLAIM_TEMPLATES, namespace, template_name)
        prefix = f"PodResourceClaim {name}: "
        if template is None:
            self._without_template.setdefault(f"{namespace}/{template_name}", set()).add(POD + key_of(pod))
            missing = f'resourceclaimtemplate.resource.k8s.io "{template_name}" not found'
            text = f'{prefix}resource claim template "{template_name}": {missing}'
            draft.events.append(Event(pod, "Warning", FAILED, text))
            return
        base = _base(pod["metadata"]["name"], name)
        taken = free_names(base, uid_of(pod), lambda each: view.get(kinds.RESOURCE_CLAIMS, namespace, each) is not None)
        given = template["spec"].get("metadata") or {}
        metadata = {
            "name": next(taken),
            "generateName": base,
            "namespace": namespace,
            "annotations": (given.get("annotations") or {}) | {POD_CLAIM_ANNOTATION: name},
            "ownerReferences": [reference_to(pod, "v1", "Pod")],
        }
        if given.get("labels"):
            metadata["labels"] = given["labels"]
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": metadata,
            "spec": template["spec"].get("spec") or {},
        }
        failed = Event(pod, "Warning", FAILED, f"{prefix}create ResourceClaim : {{error}}")
        draft.writes.append(create_write(kinds.RESOURCE_CLAIMS, body, failed=failed))

    # Claims

    def _claim(self, view: View, key: str) -> Plan:
        claim = view.get(kinds.RESOURCE_CLAIMS, *split_key(key))
        if claim is None:
            return NOTHING
        draft = Draft()
        reserved = list(resource_claims.reserved_for(claim))
        valid = [one for one in reserved if _uses(view, claim, one, draft)]
        if draft.reads:
            return draft.plan()
        leaving = bool(claim["metadata"].get("deletionTimestamp"))
        finalizers = list(claim["metadata"].get("finalizers") or ())
        allocated = resource_claims.allocation(claim) is not None
        if len(valid) < len(reserved) or (leaving and allocated and not valid):
            status: Obj = {"reservedFor": valid or None}
            if not valid and FINALIZER in finalizers:
                status |= {"allocation": None, "devices": None}
                self._freed.add(uid_of(claim))
            return Plan([patch_write(kinds.RESOURCE_CLAIMS, claim, {"status": status}, subresource="status")])
        if valid:
            return NOTHING
        if allocated:
            self._freed.discard(uid_of(claim))  # the scheduler was faster
        elif FINALIZER in finalizers and (leaving or uid_of(claim) in self._freed):
            self._freed.discard(uid_of(claim))
            kept = [one for one in finalizers if one != FINALIZER]
            return Plan([patch_write(kinds.RESOURCE_CLAIMS, claim, {"metadata": {"finalizers": kept or None}})])
        if not leaving and _is_left_over(view, claim):
            return Plan([delete_write(kinds.RESOURCE_CLAIMS, claim)])
        return NOTHING


def _exists(view: View, pod: Obj, one: PodClaim) -> bool:
    """Whether the claim that the pod's status names is there, and its own."""
    if not one.claim:
        return False
    claim = view.get(kinds.RESOURCE_CLAIMS, pod["metadata"].get("namespace", ""), one.claim)
    return claim is not None and not _foreign(claim, pod)


def _foreign(claim: Obj, pod: Obj) -> str:
    meta = pod["metadata"]
    return resource_claims.not_owned(claim, meta.get("namespace", ""), meta["name"], uid_of(pod))


def _made_before(view: View, pod: Obj, name: str) -> Obj | None:
    """A claim that was made for this entry of the pod, and that its status does not tell yet."""
    found = [
        claim
        for claim in view.by_index(kinds.RESOURCE_CLAIMS, "controller", uid_of(pod))
        if (claim["metadata"].get("annotations") or {}).get(POD_CLAIM_ANNOTATION) == name
        and not claim["metadata"].get("deletionTimestamp")
    ]
    return min(found, key=key_of, default=None)


def _with_names(pod: Obj, names: dict[str, str]) -> list[Obj]:
    told = (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    kept = [one for one in told if one["name"] not in names]
    return [*kept, *({"name": name, "resourceClaimName": claim} for name, claim in names.items())]


def _base(pod: str, name: str) -> str:
    """What a claim's name begins with; both names are cut in proportion where they are too long."""
    whole = f"{pod}-{name}-"
    if len(whole) <= BASE_MAX:
        return whole
    return f"{pod[: len(pod) * BASE_MAX // len(whole)]}-{name[: len(name) * BASE_MAX // len(whole)]}"


def _has_room_anew(old: Obj | None, new: Obj) -> bool:
    """Whether pods that have a node may be able to reserve a claim that they could not, or did not have to, before."""
    allocation = resource_claims.allocation(new)
    if allocation is None or old is None or uid_of(old) != uid_of(new):
        return allocation is not None
    return resource_claims.allocation(old) != allocation or not _uids(old) <= _uids(new)


def _is_placed(pod: Obj) -> bool:
    """Whether it has a node, and goes on."""
    return bool(pods.node_name(pod)) and not (pods.is_terminal(pod) or pods.is_terminating(pod))


def _uids(claim: Obj) -> set[str]:
    return {str(one.get("uid")) for one in resource_claims.reserved_for(claim)}


def _reservation(view: View, pod: Obj, one: PodClaim) -> Write | None:
    """Lets a pod that has a node use an allocated claim."""
    claim = view.get(kinds.RESOURCE_CLAIMS, pod["metadata"].get("namespace", ""), one.claim) if one.claim else None
    if claim is None or resource_claims.allocation(claim) is None or (one.owned and _foreign(claim, pod)):
        return None
    if resource_claims.is_reserved_for(claim, uid_of(pod)) or not resource_claims.can_be_reserved(claim):
        return None
    entry = resource_claims.consumer(pod["metadata"]["name"], uid_of(pod))
    body = {"status": {"reservedFor": [*resource_claims.reserved_for(claim), entry]}}
    return patch_write(kinds.RESOURCE_CLAIMS, claim, body, subresource="status")


def _uses(view: View, claim: Obj, entry: Obj, draft: Draft) -> bool:
    """Whether whoever holds a claim still needs it. A pod that the caches lack may be a new one: the API is asked."""
    if entry.get("apiGroup") or entry.get("resource") != "pods":
        return True  # somebody else's to clean up
    namespace, name = claim["metadata"].get("namespace", ""), entry.get("name", "")
    pod = view.get(kinds.PODS, namespace, name)
    if pod is None or uid_of(pod) != entry.get("uid"):
        read = Read(kinds.PODS, namespace, name)
        living = view.answer(read)
        if living is None:
            draft.reads.append(read)
            return True
        pod = next((each for each in living if uid_of(each) == entry.get("uid")), None)
    return pod is not None and not _is_done(pod)


def _is_done(pod: Obj) -> bool:
    """It needs no devices any more: it ended, or is deleted before it had a node."""
    return pods.is_terminal(pod) or bool(pod["metadata"].get("deletionTimestamp") and not pod["spec"].get("nodeName"))


def _is_left_over(view: View, claim: Obj) -> bool:
    """Whether a claim was made for a pod that does not need it. One whose pod is gone the garbage collector deletes."""
    owner = controller_reference(claim)
    if owner is None or owner.get("kind") != "Pod" or owner.get("apiVersion") != "v1":
        return False
    pod = view.get(kinds.PODS, claim["metadata"].get("namespace", ""), owner["name"])
    return pod is not None and (uid_of(pod) != owner.get("uid") or _is_done(pod))
