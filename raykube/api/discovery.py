"""Discovery: which groups, versions and resources a registry serves, in the old and the aggregated form.

    /api, /apis        one aggregated document each (both or neither, or clients fall back), or the legacy lists
    /apis/GROUP        APIGroup
    /api/v1, /apis/G/V APIResourceList; several clients read nothing else

Versions stand in Kubernetes' order: v2 before v1 before v1beta2 before v1alpha1; the first is preferred.
"""

import re
from typing import Any

from raykube.api.resources import Registry, Resource, Subresource

Object = dict[str, Any]

AGGREGATED_TYPES = {
    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList": version
    for version in ("v2", "v2beta1")
}

_STABILITY = {"": 3, "beta": 2, "alpha": 1}
_VERSION = re.compile(r"v([0-9]+)(?:(alpha|beta)([0-9]+))?")


def version_priority(version: str) -> tuple[int, int, int]:
    """A sort key, highest first: stable before beta before alpha, then by number; other names last."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (0, 0, 0)
    return (_STABILITY[found[2] or ""], int(found[1]), int(found[3] or 0))


def groups(registry: Registry) -> dict[str, list[str]]:
    """Group → its versions, preferred first. The core group is ""."""
    found: dict[str, list[str]] = {}
    for group, version in registry.group_versions():
        found.setdefault(group, []).append(version)
    for versions in found.values():
        versions.sort(key=version_priority, reverse=True)
    return found


# -- aggregated


def aggregated(registry: Registry, core: bool, version: str = "v2") -> Object:
    """APIGroupDiscoveryList of `/api` (core) or `/apis`."""
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
                "versions": [
                    {
                        "version": each,
                        "resources": [_aggregated(row) for row in registry.in_group_version(group, each)],
                        "freshness": "Current",
                    }
                    for each in versions
                ],
            }
            for group, versions in groups(registry).items()
            if (group == "") == core
        ],
    }


def _aggregated(row: Resource) -> Object:
    entry: Object = {
        "resource": row.plural,
        "responseKind": _kind(row),
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": list(row.verbs),
    }
    if row.short_names:
        entry["shortNames"] = list(row.short_names)
    if row.categories:
        entry["categories"] = list(row.categories)
    if row.subresources:
        entry["subresources"] = [
            {"subresource": sub.name, "responseKind": _kind(sub), "verbs": list(sub.verbs)} for sub in row.subresources
        ]
    return entry


def _kind(of: Resource | Subresource) -> Object:
    return {"group": of.group, "version": of.version, "kind": of.kind}


# -- legacy


def api_versions(server_address: str) -> Object:
    """`/api`. `server_address` is host:port as clients reach it."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    }


def api_group_list(registry: Registry) -> Object:
    """`/apis`."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(group, versions) for group, versions in groups(registry).items() if group],
    }


def api_group(registry: Registry, group: str) -> Object | None:
    """`/apis/GROUP`, None if no such group is served."""
    versions = groups(registry).get(group) if group else None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)} if versions else None


def _group(group: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def api_resource_list(registry: Registry, group: str, version: str) -> Object | None:
    """`/api/v1` and `/apis/GROUP/VERSION`, subresources as rows of their own. None if it is not served."""
    rows = registry.in_group_version(group, version)
    if not rows:
        return None
    listed = []
    for row in rows:
        entry: Object = {
            "name": row.plural,
            "singularName": row.singular,
            "namespaced": row.namespaced,
            "kind": row.kind,
            "verbs": list(row.verbs),
        }
        if row.short_names:
            entry["shortNames"] = list(row.short_names)
        if row.categories:
            entry["categories"] = list(row.categories)
        listed.append(entry)
        listed.extend(_subresource(row, sub) for sub in row.subresources)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": listed,
    }


def _subresource(row: Resource, sub: Subresource) -> Object:
    entry: Object = {
        "name": f"{row.plural}/{sub.name}",
        "singularName": "",
        "namespaced": row.namespaced,
    }
    if (sub.group, sub.version) != (row.group, row.version):
        # `drain` and `scale` look for the type of the body here.
        entry["group"], entry["version"] = sub.group, sub.version
    return {**entry, "kind": sub.kind, "verbs": list(sub.verbs)}
