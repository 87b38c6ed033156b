"""namespace-controller: empties a namespace that is being deleted, then lets it go.

What is in it is asked of the API, not of caches: "empty" must be certain, and after the namespace is marked nothing new
can come in. While something is left (pods that end gracefully, finalizers) it looks again, and conditions say what.

Pods go first, and all else stays until the last one is gone: a pod that ends has its NetworkPolicies until then, and
the ConfigMaps, Services and accounts that it may need for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from raykube.api.resources import Resource
from raykube.controllers.core import conditions, kinds
from raykube.controllers.core.patches import delete_write, status_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Obj, Plan, Read, View, Write

BURST = 1000  # deletions in one plan
LOOK_AGAIN_S = 1.0
FINALIZER = "kubernetes"
BACKGROUND = {"propagationPolicy": "Background"}  # a Job's own policy is to leave its pods as they are


class NamespaceController:
    """See the module's docstring. `resources_of_api` are the resources there are, by qualified plural."""

    name = "namespace-controller"
    resources = (kinds.NAMESPACES,)

    def __init__(self, resources_of_api: Mapping[str, Resource]) -> None:
        self._content = [
            name
            for name, resource in resources_of_api.items()
            if resource.namespaced and {"list", "delete"} <= set(resource.verbs)
        ]

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """Namespaces that are being deleted."""
        return (new["metadata"]["name"],) if new is not None and new["metadata"].get("deletionTimestamp") else ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Deletes what is there; when nothing is, takes the finalizer off."""
        namespace = view.get(kinds.NAMESPACES, "", key)
        if namespace is None or not namespace["metadata"].get("deletionTimestamp"):
            return NOTHING
        if FINALIZER not in ((namespace.get("spec") or {}).get("finalizers") or ()):
            return NOTHING
        content: dict[str, list[Obj]] = {}
        for resources in ([kinds.PODS], self._content):
            reads = [Read(name, key) for name in resources]
            missing = [read for read in reads if view.answer(read) is None]
            if missing:
                return Plan(reads=missing)
            content = {read.resource: list(view.answer(read) or ()) for read in reads}
            if any(content.values()):
                break
        else:
            return Plan([_finalize(namespace)])
        draft = Draft()
        for name, objects in content.items():
            draft.writes.extend(
                delete_write(name, obj, BACKGROUND) for obj in objects if not obj["metadata"].get("deletionTimestamp")
            )
        del draft.writes[BURST:]
        status = {
            **(namespace.get("status") or {}),
            "phase": "Terminating",
            "conditions": _conditions(namespace, content, now),
        }
        write = status_write(kinds.NAMESPACES, namespace, status)
        if write is not None:
            draft.writes.append(write)
        draft.wake_after(LOOK_AGAIN_S)
        return draft.plan()


def _finalize(namespace: Obj) -> Write:
    finalizers = [name for name in namespace["spec"]["finalizers"] if name != FINALIZER]
    meta = namespace["metadata"]
    body = {
        "metadata": {
            "name": meta["name"],
            "uid": uid_of(namespace),
            "resourceVersion": meta.get("resourceVersion", ""),
        },
        "spec": {"finalizers": finalizers},
    }
    return Write(
        "update",
        kinds.NAMESPACES,
        "",
        meta["name"],
        body,
        subresource="finalize",
        resource_version=version_of(namespace),
        uid=uid_of(namespace),
    )


def _conditions(namespace: Obj, content: Mapping[str, list[Obj]], now: float) -> list[Obj]:
    found: list[Obj] = list((namespace.get("status") or {}).get("conditions") or ())
    finalizers = Counter(
        finalizer
        for objects in content.values()
        for obj in objects
        for finalizer in obj["metadata"].get("finalizers") or ()
    )
    counts = ", ".join(
        f"{_dotted(name)} has {len(objects)} resource instances" for name, objects in content.items() if objects
    )
    held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    verdicts = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", f"Some resources are remaining: {counts}"),
    ]
    if held:
        message = f"Some content in the namespace has finalizers remaining: {held}"
        verdicts.append(("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message))
    else:
        message = "All content-preserving finalizers finished"
        verdicts.append(("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message))
    for verdict in verdicts:
        current = conditions.find(found, verdict[0])
        if current is not None and current.get("message") != verdict[3]:
            found = conditions.without(found, verdict[0])  # a count that changed is news even with the same reason
        found = conditions.with_condition(found, *verdict, now)
    return sorted(found, key=lambda condition: str(condition["type"]))


def _dotted(name: str) -> str:
    """Upstream writes resource.group, with the dot even where the group is empty."""
    return name if "." in name else f"{name}."
