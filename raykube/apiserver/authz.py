"""Authorization of a running apiserver: the authorizers in order, fed by the watch caches.

A *guard* is the part that needs the object: nobody hands out more rights than they have, and a kubelet writes only what
belongs to its node. It is made for the few writes that it concerns; the planner calls it with the new and old object.
"""

from collections.abc import Callable, Iterable

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.authn import impersonate
from raykube.apiserver.core.feed import Feed
from raykube.apiserver.core.node_authorizer import restriction
from raykube.apiserver.core.rbac import RBAC_GROUP, Attributes, Authorizer, Decision, forbidden
from raykube.apiserver.core.requestinfo import RequestInfo
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.core.users import UserInfo, node_name
from raykube.apiserver.core.watchcache import Change

Guard = Callable[[Object | None, Object | None], None]

_FOLLOWED = (
    (RBAC_GROUP, "clusterroles"),
    (RBAC_GROUP, "roles"),
    (RBAC_GROUP, "clusterrolebindings"),
    (RBAC_GROUP, "rolebindings"),
    ("", "persistentvolumeclaims"),
)
_NODE_RESTRICTED = frozenset({"pods", "nodes", "leases"})
_ASSIGNED = b'"nodeName":"'


class Authorization:
    """Answers for all fronts."""

    def __init__(self, feed: Feed, modes: list[str]) -> None:
        self._modes = modes
        self.authorizer = Authorizer(node="Node" in modes, rbac="RBAC" in modes)
        for place in _FOLLOWED:
            feed.caches[place].listeners.append(self._on_change)
        feed.caches["", "pods"].listeners.append(self._on_pod)

    def _on_change(self, change: Change) -> None:
        if change.after is None:
            assert change.before is not None
            self.authorizer.on_event("DELETED", change.before.parsed())
        else:
            self.authorizer.on_event("ADDED" if change.before is None else "MODIFIED", change.after.parsed())

    def _on_pod(self, change: Change) -> None:
        """What a pod refers to never changes once it has a node: of its writes only bind and deletion are parsed."""
        before, after = change.before, change.after
        assigned = before is not None and _ASSIGNED in before.data
        if after is None:
            if assigned and before is not None:
                self.authorizer.on_event("DELETED", before.decode())
        elif not assigned and _ASSIGNED in after.data:
            self.authorizer.on_event("ADDED", after.decode())

    def decide(self, attributes: Attributes) -> Decision:
        """Whether a request may go on."""
        if "AlwaysAllow" in self._modes:
            return Decision(True)
        return self.authorizer.authorize(attributes)

    def require(self, attributes: Attributes) -> None:
        """Raises ApiError 403."""
        decision = self.decide(attributes)
        if not decision.allowed:
            raise forbidden(attributes, decision)

    def check(self, user: UserInfo, info: RequestInfo, fields: tuple[tuple[str, str], ...] = ()) -> None:
        """The request of a REST client. Raises ApiError 403."""
        if not info.is_resource:
            self.require(Attributes(user, info.verb, path=info.path))
            return
        name = info.name
        if not name and info.verb in ("list", "watch", "deletecollection"):
            name = dict(fields).get("metadata.name", "")
        self.require(
            Attributes(
                user, info.verb, info.group, info.plural, info.subresource, name, info.namespace, info.path, fields
            )
        )

    def impersonate(self, user: UserInfo, headers: Iterable[tuple[str, str]]) -> UserInfo:
        """Whom the request is made as. Raises ApiError."""
        return impersonate(user, headers, self.decide)

    def guard(self, user: UserInfo, verb: str, resource: Resource, subresource: str) -> Guard | None:
        """The check of a write's objects; None where there is nothing to check."""
        node = node_name(user)
        if node and "Node" in self._modes and resource.plural in _NODE_RESTRICTED:

            def restricted(new: Object | None, old: Object | None) -> None:
                reason = restriction(node, verb, resource.plural, subresource, new, old)
                if reason:
                    obj = new or old or {}
                    raise ApiError.forbidden(resource, (obj.get("metadata") or {}).get("name", ""), reason)

            return restricted
        if resource.group == RBAC_GROUP and verb in ("create", "update", "patch") and "RBAC" in self._modes:

            def escalates(new: Object | None, old: Object | None) -> None:
                reason = self.authorizer.escalation(user, new or {}, old)
                if reason:
                    raise ApiError.forbidden(resource, ((new or {}).get("metadata") or {}).get("name", ""), reason)

            return escalates
        return None
