"""Which address families a Service has, by what it asks for and what the cluster has.

    ipFamilyPolicy       ipFamilies by default    a cluster of one family
    SingleStack          the cluster's first
    PreferDualStack      both                     has just that
    RequireDualStack     both                     refuses

What was chosen stays: a Service gets or loses its second family only when its policy changes.
"""

from collections.abc import Sequence
from typing import Any

from raykube.api.errors import Cause, invalid_value
from raykube.api.validation.service import check_cluster_ips

Object = dict[str, Any]

_SINGLE, _PREFER, _REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
_PLACE = "spec.ipFamilyPolicy"


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def choose(spec: Object, before: Object | None, families: Sequence[str]) -> list[Cause]:
    """Completes ipFamilyPolicy and ipFamilies of a Service that was `before`; `families` are the cluster's, the first
    one's first. Returns what cannot be had.
    """
    if spec.get("type") == "ExternalName" or _stays(spec, before):
        return []
    selectorless = spec.get("clusterIP") == "None" and not spec.get("selector")
    policy = spec.get("ipFamilyPolicy") or (before or {}).get("ipFamilyPolicy")
    policy = spec["ipFamilyPolicy"] = policy or (_REQUIRE if selectorless else _SINGLE)
    causes = check_cluster_ips(spec)
    if causes:
        return causes
    causes += _release(spec, before, policy) if before is not None else []
    chosen, ips = list(spec.get("ipFamilies") or ()), spec.get("clusterIPs") or []
    if policy == _SINGLE:
        text = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
        if len(ips) == 2:
            causes.append(invalid_value(_PLACE, policy, text.format("cluster IPs")))
        if len(chosen) == 2:
            causes.append(invalid_value(_PLACE, policy, text.format("IP families")))
    for index, ip in enumerate(ips):
        if ip == "None":
            break
        if index < len(chosen):
            continue
        family = family_of(ip)
        if family in families:
            chosen.append(family)
        else:
            text = f"{family} is not configured on this cluster"
            causes.append(invalid_value(f"spec.clusterIPs[{index}]", ips, text))
    if causes:
        return causes
    if not selectorless:
        if policy == _REQUIRE and len(families) < 2:
            text = "this cluster is not configured for dual-stack services"
            causes.append(invalid_value(_PLACE, policy, text))
        causes += [
            invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
            for index, family in enumerate(chosen)
            if family not in families
        ]
        if causes:
            return causes
    chosen = chosen or [families[0]]
    if policy != _SINGLE and len(chosen) == 1 and (selectorless or len(families) == 2):
        chosen.append("IPv4" if chosen[0] == "IPv6" else "IPv6")
    spec["ipFamilies"] = chosen
    return []


def _stays(spec: Object, before: Object | None) -> bool:
    """Whether a Service that prefers two families is left as it is, whatever the cluster has by now."""
    if before is None or not (spec.get("ipFamilyPolicy") == before.get("ipFamilyPolicy") == _PREFER):
        return False
    return all(spec.get(name) == before.get(name) for name in ("clusterIPs", "ipFamilies"))


def _release(spec: Object, before: Object, policy: str) -> list[Cause]:
    """With SingleStack the second one goes; who shortens a list must say so."""
    causes: list[Cause] = []
    for name, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        now, had = spec.get(name) or [], before.get(name) or []
        if policy == _SINGLE:
            if now == had and len(now) > 1:
                spec[name] = now[:1]
        elif 0 < len(now) < len(had):
            causes.append(invalid_value(_PLACE, policy, f"must be 'SingleStack' to release the secondary {what}"))
    return causes
