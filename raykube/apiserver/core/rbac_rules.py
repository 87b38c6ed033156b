"""One RBAC rule: what it matches, and whether one set of rules covers another.

A rule allows *verbs* either on *resources* of *API groups* (all objects, or those in `names`) or on *URLs* that are no
resources. "*" stands for everything; "*/scale" for one sub-resource of every resource; "/healthz/*" for a URL prefix.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

ANY = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule with its lists as sets. `source` is the object it came from."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str]
    urls: frozenset[str]
    source: dict[str, Any] = field(compare=False)

    @classmethod
    def of(cls, source: dict[str, Any]) -> "Rule":
        return cls(
            frozenset(source.get("verbs") or ()),
            frozenset(source.get("apiGroups") or ()),
            frozenset(source.get("resources") or ()),
            frozenset(source.get("resourceNames") or ()),
            frozenset(source.get("nonResourceURLs") or ()),
            source,
        )

    def allows_verb(self, verb: str) -> bool:
        return verb in self.verbs or ANY in self.verbs

    def matches_resource(self, verb: str, group: str, resource: str, subresource: str) -> bool:
        """Whether the rule speaks of this verb on this resource, whatever the object's name."""
        if not self.allows_verb(verb) or not (group in self.groups or ANY in self.groups):
            return False
        combined = f"{resource}/{subresource}" if subresource else resource
        if combined in self.resources or ANY in self.resources:
            return True
        return bool(subresource) and f"*/{subresource}" in self.resources

    def matches_url(self, verb: str, path: str) -> bool:
        return self.allows_verb(verb) and any(_url_matches(url, path) for url in self.urls)


def _url_matches(pattern: str, path: str) -> bool:
    return pattern in (ANY, path) or (pattern.endswith(ANY) and path.startswith(pattern.rstrip(ANY)))


def _single(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Rules of one verb on one resource or URL each; together they allow exactly what `rules` do."""
    for rule in rules:
        names = sorted(rule.names) or [""]
        for verb in sorted(rule.verbs):
            for group in sorted(rule.groups):
                for resource in sorted(rule.resources):
                    for name in names:
                        source: dict[str, Any] = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
                        if name:
                            source["resourceNames"] = [name]
                        yield Rule.of(source)
            for url in sorted(rule.urls):
                yield Rule.of({"verbs": [verb], "nonResourceURLs": [url]})


def _resource_covered(owned: frozenset[str], resource: str) -> bool:
    if resource in owned or ANY in owned:
        return True
    _, separator, subresource = resource.partition("/")
    return bool(separator) and f"*/{subresource}" in owned


def _covers(owned: Rule, wanted: Rule) -> bool:
    (verb,) = wanted.verbs
    if not owned.allows_verb(verb):
        return False
    if wanted.urls:
        (url,) = wanted.urls
        return any(_url_matches(pattern, url) for pattern in owned.urls)
    (group,) = wanted.groups
    (resource,) = wanted.resources
    if not (group in owned.groups or ANY in owned.groups) or not _resource_covered(owned.resources, resource):
        return False
    return not owned.names or (bool(wanted.names) and wanted.names <= owned.names)


def uncovered(owned: Iterable[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """What of `wanted` no rule of `owned` allows, as rules of one verb on one thing; the check against escalation."""
    held = list(owned)
    return [single for single in _single(wanted) if not any(_covers(rule, single) for rule in held)]


def describe(missing: Iterable[Rule]) -> list[str]:
    """Upstream's rendering of missing rules, verbs of one thing gathered: `{APIGroups:[""], Resources:["pods"], …}`."""
    verbs: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for rule in missing:
        key = tuple(tuple(sorted(part)) for part in (rule.groups, rule.resources, rule.names, rule.urls))
        verbs.setdefault(key, []).extend(sorted(rule.verbs))
    lines = []
    for (groups, resources, names, urls), allowed in verbs.items():
        parts = [("APIGroups", groups), ("Resources", resources), ("ResourceNames", names), ("NonResourceURLs", urls)]
        shown = [f"{label}:{_quoted(values)}" for label, values in parts if values]
        lines.append("{" + ", ".join([*shown, f"Verbs:{_quoted(allowed)}"]) + "}")
    return sorted(lines)


def _quoted(values: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
