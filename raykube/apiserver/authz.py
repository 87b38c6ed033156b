"""Authorization of a running apiserver: the authorizers in order, fed by the watch caches.

A *guard* is the part that needs the object: nobody hands out more rights than they have, and a kubelet writes only what
belongs to its node. It is made for the few writes that it concerns; the planner calls it with the new and old object.
"""

from collections.abc import Callable, Iterable

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.assignments import Assignments
from raykube.apiserver.core.authn import impersonate
from raykube.apiserver.core.feed import Feed
from raykube.apiserver.core.item import Change
from raykube.apiserver.core.node_authorizer import restriction
from raykube.apiserver.core.rbac import RBAC_GROUP, Attributes, Authorizer, Decision, forbidden
from raykube.apiserver.core.requestinfo import RequestInfo
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.core.users import UserInfo, node_name

Guard = Callable[[Object | None, Object | None], None]

_FOLLOWED = (
    (RBAC_GROUP, "clusterroles"),
    (RBAC_GROUP, "roles"),
    (RBAC_GROUP, "clusterrolebindings"),
    (RBAC_GROUP, "rolebindings"),
    ("", "persistentvolumeclaims"),
)
_NODE_RESTRICTED = frozenset({"pods", "nodes", "leases", "resourceslices"})


class Authorization:
    """Answers for all fronts."""

    def __init__(self, feed: Feed, modes: list[str]) -> None:
        self._modes = modes
        self.authorizer = Authorizer(node="Node" in modes, rbac="RBAC" in modes)
        for place in _FOLLOWED:
            feed.caches[place].listeners.append(self._on_change)
        pods = feed.caches["", "pods"]
        self._assignments = Assignments(self.authorizer.nodes, pods.get)
        pods.listeners.append(self._assignments.on_change)

    def _on_change(self, change: Change) -> None:
        if change.after is None:
            assert change.before is not None
            self.authorizer.on_event("DELETED", change.before.parsed())
        else:
            self.authorizer.on_event("ADDED" if change.before is None else "MODIFIED", change.after.parsed())

    def decide(self, attributes: Attributes) -> Decision:
        """Whether a request may go on."""
        if "AlwaysAllow" in self._modes:
            return Decision(True)
        node = node_name(attributes.user)
        if node:
            self._assignments.read(node)
        return self.authorizer.authorize(attributes)

    def require(self, attributes: Attributes) -> None:
        """Raises ApiError 403."""
        decision = self.decide(attributes)
        if not decision.allowed:
            raise forbidden(attributes, decision)

    def standing(self, user: UserInfo) -> "Standing":
        """The same question for a request with many operations."""
        return Standing(self, user)

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


class Standing:
    """What a user may do to objects of whatever name, asked once for all operations of one request."""

    def __init__(self, authorization: Authorization, user: UserInfo) -> None:
        self._authorization = authorization
        self._user = user
        self._is_node = bool(node_name(user))  # may do things to objects of some names, of which one is none
        self._known: dict[tuple[str, str, str, str, str], bool] = {}

    def require(self, verb: str, group: str, resource: str, subresource: str, name: str, namespace: str) -> None:
        """Raises ApiError 403."""
        asked = verb, group, resource, subresource, namespace
        may = self._known.get(asked)
        if may is None:
            any_name = Attributes(self._user, verb, group, resource, subresource, "", namespace)
            may = self._known[asked] = not self._is_node and self._authorization.decide(any_name).allowed
        if not may:
            self._authorization.require(Attributes(self._user, verb, group, resource, subresource, name, namespace))
