"""Whether a pod that was bound to this node may run on it: the node checks again what the scheduler decided."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil

from raykube.api import quantity
from raykube.api.label_selectors import LabelSelector
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import Amounts, pod_requests
from raykube.kubelet.core.status import Verdict

REJECTED = "Pod was rejected: "  # how the status says it; the event does without
OS_LABEL, OS = "kubernetes.io/os", "linux"


def _reject(reason: str, message: str) -> Verdict:
    return Verdict("Failed", reason, f"{REJECTED}{message}")


def _failed(predicate: str, message: str) -> Verdict:
    return _reject(predicate, f"Predicate {predicate} failed: {message}")


def _shown(name: str, amount: int | Fraction) -> int:
    return ceil(amount * 1000) if name == "cpu" else ceil(amount)


def _term_matches(term: Object, node: Object) -> bool:
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels = node["metadata"].get("labels") or {}
    names = {"metadata.name": node["metadata"]["name"]}
    return _requirements_match(expressions, labels) and _requirements_match(fields, names)


def _requirements_match(expressions: list[Object], labels: dict[str, str]) -> bool:
    for expression in expressions:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        if operator in ("Gt", "Lt"):
            try:
                have, bound = int(labels[key]), int(values[0])
            except (KeyError, ValueError, IndexError):
                return False
            if not (have > bound if operator == "Gt" else have < bound):
                return False
        elif not LabelSelector.from_object({"matchExpressions": [expression]}).matches(labels):
            return False
    return True


def matches_node(pod: Object, node: Object) -> bool:
    """nodeSelector and required node affinity."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod["spec"].get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return False
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def shortage(pod: Object, others: Iterable[Object], node: Object) -> tuple[str, str] | None:
    """(resource, message) of the first that the node has too little of for `pod` beside `others`."""
    others = list(others)
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    capacity = {name: quantity.parse(text) for name, text in allocatable.items()}
    used: Amounts = {}
    for other in others:
        for name, amount in pod_requests(other).items():
            used[name] = used.get(name, 0) + amount
    text = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}"
    if "pods" in capacity and len(others) + 1 > capacity["pods"]:
        return "pods", text.format("pods", 1, len(others), _shown("pods", capacity["pods"]))
    for name, amount in sorted(pod_requests(pod).items()):
        if amount and used.get(name, 0) + amount > capacity.get(name, 0):
            shown = [_shown(name, value) for value in (amount, used.get(name, 0), capacity.get(name, 0))]
            return name, text.format(name, *shown)
    return None


def _host_ports(pod: Object) -> set[tuple[str, str, int]]:
    """(address, protocol, port) of the machine that the pod's lasting containers take; "" is every address."""
    lasting = [spec for spec in pods.init_containers(pod) if pods.is_sidecar(spec)] + pods.containers(pod)
    return {
        (port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", port["hostPort"])
        for spec in lasting
        for port in spec.get("ports") or ()
        if port.get("hostPort")
    }


def ports_are_free(pod: Object, others: Iterable[Object]) -> bool:
    wanted = _host_ports(pod)
    if not wanted:
        return True
    taken = {one for other in others for one in _host_ports(other)}
    return not any(
        mine[1:] == theirs[1:] and (mine[0] == theirs[0] or "0.0.0.0" in (mine[0], theirs[0]))
        for mine in wanted
        for theirs in taken
    )


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def is_expelled(pod: Object, node: Object) -> bool:
    """Whether a taint would have the pod leave at once. Static pods are the machine's own."""
    if pods.is_static(pod):
        return False
    tolerations = pod["spec"].get("tolerations") or ()
    return any(
        taint["effect"] == "NoExecute" and not any(_tolerates(one, taint) for one in tolerations)
        for taint in (node.get("spec") or {}).get("taints") or ()
    )


def _unlike_machine(pod: Object, node: Object) -> Verdict | None:
    """Why a pod is for another kind of machine."""
    wanted = (pod["spec"].get("nodeSelector") or {}).get(OS_LABEL)
    if wanted and wanted != OS:
        return _reject(
            "PodOSSelectorNodeLabelDoesNotMatch",
            f"Failed to admit pod as the `{OS_LABEL}` label doesn't match node label",
        )
    if (pod["spec"].get("os") or {}).get("name", OS) != OS:
        return _reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    strict = (pod["spec"].get("securityContext") or {}).get("supplementalGroupsPolicy") == "Strict"
    features = (node.get("status") or {}).get("features") or {}
    if strict and not features.get("supplementalGroupsPolicy"):
        return _reject(
            "SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"
        )
    return None


def admit(pod: Object, others: Iterable[Object], node: Object) -> Verdict | None:
    """None for a pod that may run here beside `others`; otherwise why not."""
    unlike = _unlike_machine(pod, node)
    if unlike is not None:
        return unlike
    others = list(others)
    missing = shortage(pod, others, node)
    if missing is not None:
        return _reject(f"OutOf{missing[0]}", missing[1])
    if not matches_node(pod, node):
        return _failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
    if not ports_are_free(pod, others):
        return _failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
    if is_expelled(pod, node):
        return _failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    return None


def admit_apparmor(pod: Object, enabled: bool) -> Verdict | None:
    """None for a pod without AppArmor profiles, or on a machine that has AppArmor."""
    contexts = [pod["spec"].get("securityContext") or {}]
    contexts += [spec.get("securityContext") or {} for spec in pods.all_containers(pod)]
    profiles = [(context.get("appArmorProfile") or {}).get("type", "Unconfined") for context in contexts]
    if enabled or all(profile == "Unconfined" for profile in profiles):
        return None
    return _reject("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
