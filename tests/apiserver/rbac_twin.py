"""RBAC by brute force: every question walks every object. Slow, short, and written from the documentation's words."""

from typing import Any


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())


class Twin:
    def __init__(self, objects: list[dict[str, Any]]) -> None:
        self.objects = objects

    def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        for obj in self.objects:
            metadata = obj["metadata"]
            if (obj["kind"], metadata.get("namespace", ""), metadata["name"]) == (kind, namespace, name):
                return obj
        return None

    def rules(self, role: dict[str, Any], seen: list[str]) -> list[dict[str, Any]]:
        name = role["metadata"]["name"]
        if role["kind"] == "Role" or not role.get("aggregationRule"):
            return role.get("rules") or []
        found: list[dict[str, Any]] = []
        for other in self.objects:
            if other["kind"] != "ClusterRole" or other["metadata"]["name"] in (*seen, name):
                continue
            if any(
                selects(s, other["metadata"].get("labels") or {})
                for s in role["aggregationRule"]["clusterRoleSelectors"]
            ):
                found += self.rules(other, [*seen, name])
        return found

    def speaks_of(self, binding: dict[str, Any], username: str, groups: tuple[str, ...]) -> bool:
        for subject in binding.get("subjects") or []:
            if subject["kind"] == "User" and subject["name"] == username:
                return True
            if subject["kind"] == "Group" and subject["name"] in groups:
                return True
            if subject["kind"] == "ServiceAccount":
                home = subject.get("namespace") or binding["metadata"].get("namespace", "")
                if username == f"system:serviceaccount:{home}:{subject['name']}":
                    return True
        return False

    def allows(self, asked: Any) -> bool:
        if "system:masters" in asked.user.groups:
            return True
        for binding in self.objects:
            namespace = binding["metadata"].get("namespace", "")
            if binding["kind"] == "RoleBinding":
                if not asked.resource or namespace != asked.namespace:
                    continue
            elif binding["kind"] != "ClusterRoleBinding":
                continue
            if not self.speaks_of(binding, asked.user.username, asked.user.groups):
                continue
            ref = binding["roleRef"]
            role = self.find(ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"])
            if role and any(self.rule_allows(rule, asked) for rule in self.rules(role, [])):
                return True
        return False

    def rule_allows(self, rule: dict[str, Any], asked: Any) -> bool:
        def has(field: str, *values: str) -> bool:
            return any(item == "*" or item in values for item in rule.get(field) or [])

        if not has("verbs", asked.verb):
            return False
        if not asked.resource:
            return any(
                url == asked.path or (url.endswith("*") and asked.path.startswith(url[:-1]))
                for url in rule.get("nonResourceURLs") or []
            )
        combined = asked.resource + ("/" + asked.subresource if asked.subresource else "")
        wanted = (combined, "*/" + asked.subresource) if asked.subresource else (combined,)
        names = rule.get("resourceNames")
        return has("apiGroups", asked.group) and has("resources", *wanted) and (not names or asked.name in names)
