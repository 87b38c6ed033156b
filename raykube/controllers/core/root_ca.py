"""root-ca-certificate-publisher-controller: every namespace has ConfigMap kube-root-ca.crt with the cluster's CA."""

from collections.abc import Iterable

from raykube.controllers.core import kinds
from raykube.controllers.core.patches import create_write, patch_write
from raykube.controllers.core.plan import NOTHING, Obj, Plan, View
from raykube.controllers.core.serviceaccounts import is_living

NAME = "kube-root-ca.crt"
DESCRIPTION = "kubernetes.io/description"
TEXT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


class RootCaPublisher:
    """See the module's docstring. `certificate` is PEM."""

    name = "root-ca-certificate-publisher-controller"
    resources = (kinds.NAMESPACES, kinds.CONFIG_MAPS)

    def __init__(self, certificate: str) -> None:
        self._data = {"ca.crt": certificate}

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The namespace's name: when it is new, and when its ConfigMap changed."""
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.NAMESPACES:
            return (changed["metadata"]["name"],) if old is None else ()
        meta = changed["metadata"]
        return (meta.get("namespace", ""),) if meta["name"] == NAME else ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Creates or mends the ConfigMap."""
        if not is_living(view.get(kinds.NAMESPACES, "", key)):
            return NOTHING
        present = view.get(kinds.CONFIG_MAPS, key, NAME)
        if present is None:
            metadata = {"name": NAME, "namespace": key, "annotations": {DESCRIPTION: TEXT}}
            return Plan([create_write(kinds.CONFIG_MAPS, {"metadata": metadata, "data": self._data})])
        if present.get("data") == self._data:
            return NOTHING
        stray = {name: None for name in present.get("data") or {} if name not in self._data}
        return Plan([patch_write(kinds.CONFIG_MAPS, present, {"data": {**stray, **self._data}})])
