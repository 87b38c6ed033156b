"""A profile's pluginConfig: each plugin's args, checked with upstream's words, as `Arguments`.

pluginConfig:
- name: NodeResourcesFit
  args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}
"""

from collections.abc import Callable
from typing import Any

from raykube.api.errors import (
    Cause,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from raykube.api.labels import key_errors
from raykube.api.validation.pod import check_node_affinity
from raykube.scheduler.core import shapes
from raykube.scheduler.core.arguments import (
    LEAST_ALLOCATED,
    MOST_ALLOCATED,
    REQUESTED_TO_CAPACITY,
    SYSTEM_CONSTRAINTS,
    Arguments,
    DefaultConstraint,
    Point,
    Resource,
)
from raykube.scheduler.core.requests import CPU, MEMORY

Object = dict[str, Any]
Read = Callable[[Object, str, Arguments], tuple[list[Cause], Arguments]]

STRATEGIES = (LEAST_ALLOCATED, MOST_ALLOCATED, REQUESTED_TO_CAPACITY)
POLICIES = ("DoNotSchedule", "ScheduleAnyway")
_META = {"apiVersion": str, "kind": str}
_RESOURCES = [{"name": str, "weight": int}]
_SHAPE = [{"utilization": int, "score": int}]
_SELECTOR_TERM = {"matchExpressions": [dict], "matchFields": [dict]}
_SHAPES: dict[str, shapes.Shape] = {
    "DefaultPreemption": {"minCandidateNodesPercentage": int, "minCandidateNodesAbsolute": int},
    "InterPodAffinity": {"hardPodAffinityWeight": int, "ignorePreferredTermsOfExistingPods": bool},
    "NodeAffinity": {
        "addedAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_SELECTOR_TERM]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": int, "preference": _SELECTOR_TERM}],
        }
    },
    "NodeResourcesBalancedAllocation": {"resources": _RESOURCES},
    "NodeResourcesFit": {
        "ignoredResources": [str],
        "ignoredResourceGroups": [str],
        "scoringStrategy": {"type": str, "resources": _RESOURCES, "requestedToCapacityRatio": {"shape": _SHAPE}},
    },
    "PodTopologySpread": {
        "defaultConstraints": [
            {
                "maxSkew": int,
                "topologyKey": str,
                "whenUnsatisfiable": str,
                "labelSelector": dict,
                "minDomains": int,
                "nodeAffinityPolicy": str,
                "nodeTaintsPolicy": str,
                "matchLabelKeys": [str],
            }
        ],
        "defaultingType": str,
    },
    "VolumeBinding": {"bindTimeoutSeconds": int, "shape": _SHAPE},
    "DynamicResources": {"filterTimeout": str, "bindingTimeout": str},
}


def read(items: list[Object], path: str, at: str) -> tuple[list[Cause], Arguments]:
    """The arguments of a profile, and what is wrong with them. `path`: of the list; `at`: the same in Go's words.

    Raises ValueError for args that do not decode.
    """
    causes: list[Cause] = []
    arguments = Arguments()
    seen: set[str] = set()
    for index, item in enumerate(items):
        name, args = item.get("name") or "", item.get("args") or {}
        place = f"{path}[{index}]"
        if name in seen:
            causes.append(duplicate(place, name))
        seen.add(name)
        if name not in _SHAPES:
            continue  # of a plugin that this scheduler does not have: nobody reads it
        _decode(name, args, f"decoding {at}[{index}]: ")
        found, arguments = _READERS.get(name, _nothing)(args, f"{place}.args", arguments)
        causes += found
    return causes, arguments


def _decode(name: str, args: Object, where: str) -> None:
    kind = f"{name}Args"
    if args.get("kind", kind) != kind:
        wanted = f"{kind}.kubescheduler.config.k8s.io"
        got = f"{args['kind']}.kubescheduler.config.k8s.io"
        raise ValueError(f"{where}args for plugin {name} were not of type {wanted}, got {got}")
    try:
        shapes.check(args, _META | _SHAPES[name], kind)
    except ValueError as error:
        raise ValueError(f"{where}decoding args for plugin {name}: {error}") from None


def _nothing(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    return [], arguments


def _preemption(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    percentage, absolute = f"{path}.minCandidateNodesPercentage", f"{path}.minCandidateNodesAbsolute"
    part, least = args.get("minCandidateNodesPercentage", 10), args.get("minCandidateNodesAbsolute", 100)
    causes = []
    if not 0 <= part <= 100:
        causes.append(invalid_value(percentage, part, "not in valid range [0, 100]"))
    if least < 0:
        causes.append(invalid_value(absolute, least, "not in valid range [0, inf)"))
    if part == least == 0:
        causes += [
            invalid_value(percentage, part, "cannot be zero at the same time as minCandidateNodesAbsolute"),
            invalid_value(absolute, least, "cannot be zero at the same time as minCandidateNodesPercentage"),
        ]
    return causes, arguments._replace(candidates_min_percent=part, candidates_min=least)


def _inter_pod_affinity(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    weight = args.get("hardPodAffinityWeight", 1)
    causes = []
    if not 0 <= weight <= 100:
        causes.append(invalid_value(f"{path}.hardPodAffinityWeight", weight, "not in valid range [0, 100]"))
    return causes, arguments._replace(
        hard_pod_affinity_weight=weight,
        ignore_preferred_terms_of_existing_pods=bool(args.get("ignorePreferredTermsOfExistingPods")),
    )


def _node_affinity(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    added = args.get("addedAffinity") or {}
    return check_node_affinity(added, f"{path}.addedAffinity"), arguments._replace(added_affinity=added)


def _balanced(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    causes = []
    names: list[str] = []
    for index, resource in enumerate(args.get("resources") or ()):
        name, weight = resource.get("name") or "", resource.get("weight") or 1
        if name in names:
            causes.append(duplicate(f"{path}.resources[{index}].name", name))
        if weight != 1:
            causes.append(invalid_value(f"{path}.resources[{index}].weight", weight, "must be 1"))
        names.append(name)
    return causes, arguments._replace(balanced_resources=tuple(names) or (CPU, MEMORY))


def _fit(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    causes = []
    for index, name in enumerate(args.get("ignoredResources") or ()):
        causes += [invalid_value(f"{path}.ignoredResources[{index}]", name, error) for error in key_errors(name)]
    for index, group in enumerate(args.get("ignoredResourceGroups") or ()):
        place = f"{path}.ignoredResourceGroups[{index}]"
        if "/" in group:
            causes.append(invalid_value(place, group, "resource group name can't contain '/'"))
        causes += [invalid_value(place, group, error) for error in key_errors(group)]
    found = arguments._replace(
        ignored_resources=frozenset(args.get("ignoredResources") or ()),
        ignored_groups=frozenset(args.get("ignoredResourceGroups") or ()),
    )
    strategy = args.get("scoringStrategy")
    if strategy is None:
        return causes, found
    place = f"{path}.scoringStrategy"
    kind = strategy.get("type") or ""
    if kind not in STRATEGIES:
        causes.append(not_supported(f"{place}.type", kind, STRATEGIES))
    resources = [Resource(r.get("name") or "", r.get("weight") or 1) for r in strategy.get("resources") or ()]
    for index, (name, weight) in enumerate(resources):
        if not 0 < weight <= 100:
            text = f"resource weight of {name} not in valid range (0, 100]"
            causes.append(invalid_value(f"{place}.resources[{index}].weight", weight, text))
    ratio = strategy.get("requestedToCapacityRatio")
    shape: tuple[Point, ...] = ()
    place = f"{place}.requestedToCapacityRatio"
    if kind == REQUESTED_TO_CAPACITY:
        if ratio is None:
            causes.append(required(place, "must be specified when type is RequestedToCapacityRatio"))
        else:
            shape = tuple(Point(p.get("utilization") or 0, p.get("score") or 0) for p in ratio.get("shape") or ())
            causes += _check_shape(shape, f"{place}.shape")
    elif ratio is not None:
        causes.append(forbidden_field(place, "must be nil when type is not RequestedToCapacityRatio"))
    return causes, found._replace(strategy=kind, fit_resources=tuple(resources) or arguments.fit_resources, shape=shape)


def _check_shape(shape: tuple[Point, ...], path: str) -> list[Cause]:
    if not shape:
        return [required(path, "at least one point must be specified")]
    causes = []
    for index in range(1, len(shape)):
        if shape[index - 1].utilization >= shape[index].utilization:
            place = f"{path}[{index}].utilization"
            causes.append(invalid_value(place, shape[index].utilization, "values must be sorted in increasing order"))
            break
    for index, (utilization, score) in enumerate(shape):
        if not 0 <= utilization <= 100:
            causes.append(invalid_value(f"{path}[{index}].utilization", utilization, "not in valid range [0, 100]"))
        if not 0 <= score <= 10:
            causes.append(invalid_value(f"{path}[{index}].score", score, "not in valid range [0, 10]"))
    return causes


def _spread(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    kind, constraints = args.get("defaultingType") or "System", args.get("defaultConstraints") or []
    causes = []
    if kind not in ("System", "List"):
        causes.append(not_supported(f"{path}.defaultingType", kind, ("System", "List")))
    elif kind == "System" and constraints:
        causes.append(invalid_value(f"{path}.defaultingType", kind, "when .defaultConstraints are not empty"))
    seen: set[tuple[str, str]] = set()
    found = []
    for index, item in enumerate(constraints):
        place = f"{path}.defaultConstraints[{index}]"
        skew, key, policy = item.get("maxSkew") or 0, item.get("topologyKey") or "", item.get("whenUnsatisfiable") or ""
        if skew <= 0:
            causes.append(invalid_value(f"{place}.maxSkew", skew, "not in valid range (0, inf)"))
        if key:
            causes += [invalid_value(f"{place}.topologyKey", key, error) for error in key_errors(key)]
        else:
            causes.append(required(f"{place}.topologyKey", "can not be empty"))
        if not policy:
            causes.append(required(f"{place}.whenUnsatisfiable", "can not be empty"))
        elif policy not in POLICIES:
            causes.append(not_supported(f"{place}.whenUnsatisfiable", policy, POLICIES))
        if item.get("labelSelector") is not None:
            text = "constraint must not define a selector, as they deduced for each pod"
            causes.append(forbidden_field(f"{place}.labelSelector", text))
        if (key, policy) in seen:
            causes.append(duplicate(place, f"{{{key}, {policy}}}"))
        seen.add((key, policy))
        found.append(DefaultConstraint(key, skew, policy == "DoNotSchedule"))
    system = kind == "System"
    return causes, arguments._replace(
        default_constraints=SYSTEM_CONSTRAINTS if system else tuple(found), system_defaulted=system
    )


def _volume_binding(args: Object, path: str, arguments: Arguments) -> tuple[list[Cause], Arguments]:
    timeout = args.get("bindTimeoutSeconds", 600)
    causes = []
    if timeout < 0:
        text = "invalid BindTimeoutSeconds, should not be a negative value"
        causes.append(invalid_value(f"{path}.bindTimeoutSeconds", timeout, text))
    if args.get("shape") is not None:
        text = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring"
        causes.append(invalid_value(f"{path}.shape", args["shape"], text))
    return causes, arguments._replace(bind_timeout_s=float(timeout))


_READERS: dict[str, Read] = {
    "DefaultPreemption": _preemption,
    "InterPodAffinity": _inter_pod_affinity,
    "NodeAffinity": _node_affinity,
    "NodeResourcesBalancedAllocation": _balanced,
    "NodeResourcesFit": _fit,
    "PodTopologySpread": _spread,
    "VolumeBinding": _volume_binding,
}
