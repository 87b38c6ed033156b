"""serviceaccount-controller: every namespace has a ServiceAccount "default"."""

from collections.abc import Iterable

from raykube.controllers.core import kinds
from raykube.controllers.core.patches import create_write
from raykube.controllers.core.plan import NOTHING, Obj, Plan, View

NAME = "default"


class ServiceAccountsController:
    """See the module's docstring."""

    name = "serviceaccount-controller"
    resources = (kinds.NAMESPACES, kinds.SERVICE_ACCOUNTS)

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The namespace's name: when it is new, and when its default account went."""
        if resource == kinds.NAMESPACES:
            return (new["metadata"]["name"],) if new is not None and old is None else ()
        gone = new is None and old is not None and old["metadata"]["name"] == NAME
        return (old["metadata"].get("namespace", ""),) if gone and old is not None else ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Creates the account where it is missing."""
        namespace = view.get(kinds.NAMESPACES, "", key)
        if not is_living(namespace) or view.get(kinds.SERVICE_ACCOUNTS, key, NAME) is not None:
            return NOTHING
        metadata = {"name": NAME, "namespace": key}
        return Plan([create_write(kinds.SERVICE_ACCOUNTS, {"metadata": metadata})])


def is_living(namespace: Obj | None) -> bool:
    """Whether the namespace takes new objects."""
    return namespace is not None and not namespace["metadata"].get("deletionTimestamp")
