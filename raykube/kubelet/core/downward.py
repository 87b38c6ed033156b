"""The downward API: a pod's own fields and resources as text."""

from fractions import Fraction
from math import ceil

from raykube.api import quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object


def _escaped(text: str) -> str:
    """A value in quotes, as Go's %q writes it."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif char == "\t":
            out.append("\\t")
        elif char == "\r":
            out.append("\\r")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def _map_text(values: dict[str, str]) -> str:
    return "\n".join(f"{key}={_escaped(value)}" for key, value in sorted(values.items()))


def field_value(pod: Object, path: str, pod_ip: str, host_ips: tuple[str, ...]) -> str:
    """The text of a fieldRef. Raises ValueError for a path that has none."""
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ips[0],
        "status.hostIPs": ",".join(host_ips),
    }
    if path in simple:
        return str(simple[path])
    for kind in ("labels", "annotations"):
        values = metadata.get(kind) or {}
        if path == f"metadata.{kind}":
            return _map_text(values)
        prefix = f"metadata.{kind}['"
        if path.startswith(prefix) and path.endswith("']"):
            return str(values.get(path[len(prefix) : -2], ""))
    raise ValueError(f"unsupported fieldPath: {path}")


def resource_value(pod: Object, reference: Object, own_container: str, allocatable: dict[str, str]) -> str:
    """The text of a resourceFieldRef: the amount in units of its divisor, rounded up.

    A limit that is not set counts as what the node has. Raises ValueError.
    """
    name = reference.get("containerName") or own_container
    spec = pods.container(pod, name)
    if spec is None:
        raise ValueError(f"container {name} not found")
    kind, _, resource = str(reference["resource"]).partition(".")
    if kind not in ("limits", "requests") or not resource:
        raise ValueError(f"unsupported container resource : {reference['resource']}")
    resources = spec.get("resources") or {}
    amount = (resources.get(kind) or {}).get(resource)
    if amount is None and kind == "requests":
        amount = (resources.get("limits") or {}).get(resource, "0")
    if amount is None:
        amount = allocatable.get(resource, "0")
    divisor = quantity.parse(reference.get("divisor") or "1") or 1
    return str(ceil(Fraction(quantity.parse(amount)) / Fraction(divisor)))
