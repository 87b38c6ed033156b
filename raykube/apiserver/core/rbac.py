"""Authorization: may this user do this? Role-based access control, kept up to date by events.

    on_event(type, object)  ──►  roles, bindings, an index subject → bindings
    authorize(attributes)   ──►  Decision, from a table of verdicts that any RBAC event empties

A *verdict* is the answer for (user, groups, verb, resource, namespace) whatever the object's name: allowed, denied, or
allowed for some names. So the hot path, one client that works on thousands of pods, is one dictionary look-up.

The chain: group system:masters may do everything; a kubelet's request goes to the node authorizer first, which may
deny or allow for good; then the bindings. No rule denies: what nothing allows is forbidden. An aggregated ClusterRole
has the rules of the roles that it selects, transitively, and not its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raykube.api.errors import ApiError
from raykube.api.selectors import LabelSelector
from raykube.apiserver.core.node_authorizer import NodeAuthorizer
from raykube.apiserver.core.rbac_rules import ANY, Rule, describe, uncovered
from raykube.apiserver.core.users import MASTERS, UserInfo, node_name, service_account_name

RBAC_GROUP = "rbac.authorization.k8s.io"
VERDICTS_MAX = 65536
EVERYTHING = (
    Rule.of({"verbs": [ANY], "apiGroups": [ANY], "resources": [ANY]}),
    Rule.of({"verbs": [ANY], "nonResourceURLs": [ANY]}),
)


@dataclass(frozen=True, slots=True)
class Attributes:
    """A request as authorization sees it. Resource requests have `resource`; the others have `path`.

    `fields`: the `=` terms of a list's or watch's field selector, or None when they are not known; kubelets are held to
    their own node by them.
    """

    user: UserInfo
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    namespace: str = ""
    path: str = ""
    fields: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `reason` says which binding allowed it, or what was wrong while looking."""

    allowed: bool
    reason: str = ""


@dataclass(slots=True)
class _Verdict:
    any_name: Decision | None
    by_name: dict[str, Decision]
    denial: Decision


@dataclass(frozen=True, slots=True)
class _Binding:
    namespace: str  # "" for a ClusterRoleBinding
    name: str
    role_kind: str
    role_name: str
    subjects: tuple[tuple[str, str], ...]  # ("User", name) or ("Group", name), ServiceAccounts as their users

    def reason(self, subject: tuple[str, str]) -> str:
        kind = "RoleBinding" if self.namespace else "ClusterRoleBinding"
        name = f"{self.name}/{self.namespace}" if self.namespace else self.name
        return f'RBAC: allowed by {kind} "{name}" of {self.role_kind} "{self.role_name}" to {subject[0]} "{subject[1]}"'


@dataclass(slots=True)
class _Role:
    labels: dict[str, str]
    rules: tuple[Rule, ...]
    selectors: tuple[LabelSelector, ...] = field(default=())


def _subjects(binding: dict[str, Any], namespace: str) -> tuple[tuple[str, str], ...]:
    found = []
    for subject in binding.get("subjects") or ():
        kind, name = subject.get("kind"), subject.get("name", "")
        if kind == "ServiceAccount":
            home = subject.get("namespace") or namespace
            if home:
                found.append(("User", service_account_name(home, name)))
        elif kind in ("User", "Group"):
            found.append((kind, name))
    return tuple(found)


class Authorizer:
    """Answers `authorize` from what `on_event` told it. Not thread-safe; never awaits."""

    def __init__(self, node: bool = True, rbac: bool = True) -> None:
        """`node`, `rbac`: which rules may allow a request. Masters always may."""
        self._judges_nodes, self._judges_roles = node, rbac
        self.nodes = NodeAuthorizer()
        self._cluster_roles: dict[str, _Role] = {}
        self._roles: dict[tuple[str, str], _Role] = {}
        self._bindings: dict[tuple[str, str], _Binding] = {}
        self._by_subject: dict[tuple[str, str], dict[str, set[str]]] = {}  # subject → namespace → binding names
        self._resolved: dict[str, tuple[Rule, ...]] = {}
        self._verdicts: dict[tuple[object, ...], _Verdict] = {}

    # What is known

    def on_event(self, event_type: str, obj: dict[str, Any]) -> None:
        """Follows roles, bindings, pods and volume claims, by ADDED, MODIFIED and DELETED; ignores other kinds."""
        kind = obj.get("kind", "")
        if kind in ("Pod", "PersistentVolumeClaim"):
            self.nodes.on_event(event_type, obj)
            return
        if not obj.get("apiVersion", "").startswith(RBAC_GROUP):
            return
        metadata = obj.get("metadata") or {}
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        gone = event_type == "DELETED"
        if kind == "ClusterRole":
            self._set_cluster_role(name, None if gone else obj)
        elif kind == "Role":
            self._roles.pop((namespace, name), None)
            if not gone:
                self._roles[namespace, name] = _Role({}, _rules(obj))
        elif kind in ("ClusterRoleBinding", "RoleBinding"):
            self._set_binding("" if kind == "ClusterRoleBinding" else namespace, name, None if gone else obj)
        else:
            return
        self._verdicts.clear()

    def _set_cluster_role(self, name: str, obj: dict[str, Any] | None) -> None:
        self._resolved.clear()
        self._cluster_roles.pop(name, None)
        if obj is not None:
            aggregation = (obj.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
            selectors = tuple(filter(None, map(_selector, aggregation)))
            labels = (obj.get("metadata") or {}).get("labels") or {}
            self._cluster_roles[name] = _Role(labels, _rules(obj), selectors)

    def _set_binding(self, namespace: str, name: str, obj: dict[str, Any] | None) -> None:
        old = self._bindings.pop((namespace, name), None)
        for subject in old.subjects if old else ():
            names = self._by_subject.get(subject, {}).get(namespace)
            if names is not None:
                names.discard(name)
                if not names:
                    del self._by_subject[subject][namespace]
                    if not self._by_subject[subject]:
                        del self._by_subject[subject]
        if obj is not None:
            ref = obj.get("roleRef") or {}
            subjects = _subjects(obj, namespace)
            self._bindings[namespace, name] = _Binding(
                namespace, name, ref.get("kind", ""), ref.get("name", ""), subjects
            )
            for subject in subjects:
                self._by_subject.setdefault(subject, {}).setdefault(namespace, set()).add(name)

    def cluster_role_rules(self, name: str) -> tuple[Rule, ...] | None:
        """The rules of a ClusterRole, aggregation resolved; None when there is no such role."""
        found = self._resolved.get(name)
        if found is None and name in self._cluster_roles:
            found = self._resolved[name] = tuple(dict.fromkeys(self._aggregate(name, set())))
        return found

    def _aggregate(self, name: str, seen: set[str]) -> Iterator[Rule]:
        role = self._cluster_roles[name]
        seen.add(name)
        if not role.selectors:
            yield from role.rules
            return
        for other in sorted(self._cluster_roles):
            if other not in seen and any(s.matches(self._cluster_roles[other].labels) for s in role.selectors):
                yield from self._aggregate(other, seen)

    def _bound(
        self, user: UserInfo, namespace: str
    ) -> Iterator[tuple[_Binding, tuple[str, str], tuple[Rule, ...] | None]]:
        """The bindings that speak of `user` in `namespace` ("": cluster-wide only), with the rules that each grants."""
        subjects = [("User", user.username), *(("Group", group) for group in user.groups)]
        for home in ("", namespace) if namespace else ("",):
            for subject in subjects:
                for name in sorted(self._by_subject.get(subject, {}).get(home, ())):
                    binding = self._bindings[home, name]
                    yield binding, subject, self.role_rules(binding.role_kind, home, binding.role_name)

    def role_rules(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...] | None:
        """The rules of the role that a binding in `namespace` refers to; None when there is no such role."""
        if kind == "ClusterRole":
            return self.cluster_role_rules(name)
        role = self._roles.get((namespace, name)) if kind == "Role" else None
        return role.rules if role else None

    # Questions

    def authorize(self, attributes: Attributes) -> Decision:
        """Whether the request may go on."""
        user = attributes.user
        if MASTERS in user.groups:
            return _MASTER
        node = node_name(user)
        if node and self._judges_nodes:
            opinion = self.nodes.authorize(node, attributes)
            if opinion is not None:
                return Decision(*opinion)
        if not self._judges_roles:
            return _NOBODY
        key = (
            user.username,
            user.groups,
            attributes.verb,
            attributes.group,
            attributes.resource,
            attributes.subresource,
            attributes.namespace,
            attributes.path,
        )
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= VERDICTS_MAX:  # a flood of users or paths costs look-ups, not memory
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._judge(attributes)
        if verdict.any_name is not None:
            return verdict.any_name
        return verdict.by_name.get(attributes.name, verdict.denial) if attributes.name else verdict.denial

    def _judge(self, asked: Attributes) -> _Verdict:
        by_name: dict[str, Decision] = {}
        missing: list[str] = []
        for binding, subject, rules in self._bound(asked.user, asked.namespace if asked.resource else ""):
            if rules is None:
                kind = binding.role_kind.lower()
                missing.append(f'RBAC: {kind}.{RBAC_GROUP} "{binding.role_name}" not found')
                continue
            for rule in rules:
                if asked.resource:
                    if not rule.matches_resource(asked.verb, asked.group, asked.resource, asked.subresource):
                        continue
                elif not rule.matches_url(asked.verb, asked.path):
                    continue
                decision = Decision(True, binding.reason(subject))
                if not rule.names or not asked.resource:
                    return _Verdict(decision, {}, decision)
                for name in rule.names:
                    by_name.setdefault(name, decision)
        return _Verdict(None, by_name, Decision(False, "; ".join(dict.fromkeys(missing))))

    def rules_of(self, user: UserInfo, namespace: str) -> list[Rule]:
        """Every rule that `user` holds in `namespace`, cluster-wide ones included; ("": only those)."""
        if MASTERS in user.groups:
            return list(EVERYTHING)
        found = (rules for _, _, rules in self._bound(user, namespace) if rules is not None)
        return list(dict.fromkeys(rule for rules in found for rule in rules))

    def rules_for(self, user: UserInfo, namespace: str) -> dict[str, Any]:
        """The `status` of a SelfSubjectRulesReview."""
        resource_rules, url_rules = [], []
        for rule in self.rules_of(user, namespace):
            if rule.resources:
                kept = ("verbs", "apiGroups", "resources", "resourceNames")
                resource_rules.append({key: list(rule.source[key]) for key in kept if rule.source.get(key)})
            elif rule.urls:
                url_rules.append({key: list(rule.source[key]) for key in ("verbs", "nonResourceURLs")})
        status: dict[str, Any] = {"resourceRules": resource_rules, "nonResourceRules": url_rules, "incomplete": False}
        if node_name(user):
            status["incomplete"] = True
            status["evaluationError"] = "node authorizer does not support user rule resolution"
        return status

    # Nobody hands out more than they have

    def escalation(self, user: UserInfo, new: dict[str, Any], old: dict[str, Any] | None = None) -> str:
        """Why `user` may not write this role or binding; "" when it may (and for every other kind).

        A role's rules, and the rules that a binding hands out, must be held by the writer in that namespace, unless it
        may `escalate` (roles) or `bind` (bindings). Writes that leave the rules alone pass. Raises ApiError 404 when a
        binding refers to a role that does not exist.
        """
        kind = new.get("kind", "")
        metadata = new.get("metadata") or {}
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        if not new.get("apiVersion", "").startswith(RBAC_GROUP) or MASTERS in user.groups:
            return ""
        if kind in ("Role", "ClusterRole"):
            return self._role_escalation(user, new, old, "" if kind == "ClusterRole" else namespace, name)
        if kind in ("RoleBinding", "ClusterRoleBinding"):
            home = "" if kind == "ClusterRoleBinding" else namespace
            return self._binding_escalation(user, new, old, home)
        return ""

    def _role_escalation(
        self, user: UserInfo, new: dict[str, Any], old: dict[str, Any] | None, namespace: str, name: str
    ) -> str:
        plural = "roles" if namespace else "clusterroles"
        aggregation = new.get("aggregationRule")
        if old is not None and old.get("rules") == new.get("rules") and old.get("aggregationRule") == aggregation:
            return ""
        if self.authorize(Attributes(user, "escalate", RBAC_GROUP, plural, "", name, namespace)).allowed:
            return ""
        held = self.rules_of(user, namespace)
        if aggregation and (old is None or old.get("aggregationRule") != aggregation) and uncovered(held, EVERYTHING):
            return "must have cluster-admin privileges to use the aggregationRule"
        return _escalation_message(user, held, _rules(new))

    def _binding_escalation(
        self, user: UserInfo, new: dict[str, Any], old: dict[str, Any] | None, namespace: str
    ) -> str:
        ref = new.get("roleRef") or {}
        if old is not None and old.get("roleRef") == ref and old.get("subjects") == new.get("subjects"):
            return ""
        kind, name = ref.get("kind", ""), ref.get("name", "")
        plural = "clusterroles" if kind == "ClusterRole" else "roles"
        if self.authorize(Attributes(user, "bind", RBAC_GROUP, plural, "", name, namespace)).allowed:
            return ""
        rules = self.role_rules(kind, namespace, name)
        if rules is None:
            message = f'{plural}.{RBAC_GROUP} "{name}" not found'
            raise failure(404, "NotFound", message, {"name": name, "group": RBAC_GROUP, "kind": plural})
        return _escalation_message(user, self.rules_of(user, namespace), rules)


_MASTER = Decision(True, "")
_NOBODY = Decision(False, "no authorizer allows it")


def _selector(selector: dict[str, Any]) -> LabelSelector | None:
    try:
        return LabelSelector.from_object(selector)
    except ValueError:  # a selector that cannot be read selects no role: fewer permissions, and no crash
        return None


def _rules(role: dict[str, Any]) -> tuple[Rule, ...]:
    return tuple(Rule.of(rule) for rule in role.get("rules") or ())


def _escalation_message(user: UserInfo, held: Iterable[Rule], wanted: Iterable[Rule]) -> str:
    missing = describe(uncovered(held, wanted))
    if not missing:
        return ""
    groups = " ".join(f'"{group}"' for group in user.groups)
    lines = "\n".join(missing)
    text = f'user "{user.username}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:'
    return f"{text}\n{lines}"


def denial(attributes: Attributes, reason: str = "") -> str:
    """The sentence behind `is forbidden: `."""
    user, verb = attributes.user.username, attributes.verb
    if not attributes.resource:
        text = f'User "{user}" cannot {verb} path "{attributes.path}"'
    else:
        resource = attributes.resource + (f"/{attributes.subresource}" if attributes.subresource else "")
        where = f'in the namespace "{attributes.namespace}"' if attributes.namespace else "at the cluster scope"
        text = f'User "{user}" cannot {verb} resource "{resource}" in API group "{attributes.group}" {where}'
    return f"{text}: {reason}" if reason else text


def forbidden(asked: Attributes, decision: Decision) -> ApiError:
    """The 403 for a denied request."""
    text = denial(asked, decision.reason)
    if not asked.resource:
        return failure(403, "Forbidden", f"forbidden: {text}", {})
    qualified = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    subject = f'{qualified} "{asked.name}"' if asked.name else qualified
    details = {"name": asked.name, "group": asked.group, "kind": asked.resource}
    return failure(
        403, "Forbidden", f"{subject} is forbidden: {text}", {key: value for key, value in details.items() if value}
    )


def failure(code: int, reason: str, message: str, details: dict[str, str]) -> ApiError:
    """An ApiError of a Status with these fields."""
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return ApiError.from_status({**status, "message": message, "reason": reason, "details": details, "code": code})
