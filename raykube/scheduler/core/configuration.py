"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1), the file of `--config`: profiles and the queue's pauses.

    apiVersion: kubescheduler.config.k8s.io/v1
    kind: KubeSchedulerConfiguration
    profiles:
    - schedulerName: packing
      plugins:
        score: {disabled: [{name: NodeResourcesBalancedAllocation}], enabled: [{name: NodeResourcesFit, weight: 5}]}
      pluginConfig:
      - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}

A profile starts from upstream's default plugins at every extension point (multiPoint); `disabled` takes away, "*" all
of them, and `enabled` adds or changes the weight. What has no counterpart here (parallelism, percentageOfNodesToScore:
all nodes are always looked at) is checked and has no effect. The words of errors are upstream's.
"""

from typing import Any, NamedTuple

import yaml

from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, required
from raykube.base.duration import parse_duration
from raykube.scheduler.core import pluginargs, shapes
from raykube.scheduler.core.filters import FILTERS
from raykube.scheduler.core.profile import DEFAULT_NAME, Profile
from raykube.scheduler.core.scores import SCORES

Object = dict[str, Any]

GROUP, VERSION, KIND = "kubescheduler.config.k8s.io", "v1", "KubeSchedulerConfiguration"
PREEMPTION = "DefaultPreemption"
# Extension points, and the plugins of ours that are not filters and scores; upstream's have the same names.
POINTS = {
    "preEnqueue": ("PreEnqueuePlugin", ("SchedulingGates", PREEMPTION)),
    "queueSort": ("QueueSortPlugin", ("PrioritySort",)),
    "preFilter": ("PreFilterPlugin", ("NodeAffinity", "NodePorts", "NodeResourcesFit", "DynamicResources")),
    "filter": ("FilterPlugin", ("NodeName",)),
    "postFilter": ("PostFilterPlugin", (PREEMPTION, "DynamicResources")),
    "preScore": ("PreScorePlugin", ("VolumeBinding",)),
    "score": ("ScorePlugin", ("VolumeBinding", "DynamicResources")),
    "reserve": ("ReservePlugin", ("VolumeBinding", "DynamicResources")),
    "permit": ("PermitPlugin", ()),
    "preBind": ("PreBindPlugin", ("VolumeBinding", "DynamicResources")),
    "bind": ("BindPlugin", ("DefaultBinder",)),
    "postBind": ("PostBindPlugin", ()),
    "multiPoint": ("PreFilterPlugin", ()),
}
WITHOUT_COLUMNS = ("SchedulingGates", "PrioritySort", "NodeName", PREEMPTION, "DefaultBinder")

_PLUGIN_SET = {"enabled": [{"name": str, "weight": int}], "disabled": [{"name": str, "weight": int}]}
_SHAPE: shapes.Shape = {
    "apiVersion": str,
    "kind": str,
    "parallelism": int,
    "percentageOfNodesToScore": int,
    "podInitialBackoffSeconds": int,
    "podMaxBackoffSeconds": int,
    "delayCacheUntilActive": bool,
    "enableProfiling": bool,
    "enableContentionProfiling": bool,
    "leaderElection": {
        "leaderElect": bool,
        "leaseDuration": str,
        "renewDeadline": str,
        "retryPeriod": str,
        "resourceLock": str,
        "resourceName": str,
        "resourceNamespace": str,
    },
    "clientConnection": {
        "kubeconfig": str,
        "acceptContentTypes": str,
        "contentType": str,
        "qps": float,
        "burst": int,
    },
    "extenders": [dict],
    "profiles": [
        {
            "schedulerName": str,
            "percentageOfNodesToScore": int,
            "plugins": dict.fromkeys(POINTS, _PLUGIN_SET),
            "pluginConfig": [{"name": str, "args": dict}],
        }
    ],
}


class BadConfiguration(ValueError):
    """A document that is no configuration; the message says why."""


class Settings(NamedTuple):
    """What a configuration sets; the defaults are upstream's."""

    profiles: tuple[Profile, ...] = (Profile(),)
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 10.0
    flags: dict[str, Any] = {}  # noqa: RUF012 (nobody changes it): of leader election, by the names of our Config


def parse(text: str | bytes) -> Settings:
    """Raises BadConfiguration."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfiguration(f"yaml: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise BadConfiguration(f"couldn't decode as {KIND}: the document is no object")
    _check_kind(document)
    try:
        shapes.check(document, _SHAPE, KIND)
        return _read(document)
    except ValueError as error:
        raise BadConfiguration(str(error)) from None


def _check_kind(document: Object) -> None:
    version, kind = document.get("apiVersion") or "", document.get("kind") or ""
    if not isinstance(version, str) or not isinstance(kind, str) or not version or not kind:
        missing = "Kind" if not kind else "apiVersion"
        raise BadConfiguration(f"Object '{missing}' is missing")
    if kind != KIND or version.partition("/")[0] != GROUP:
        raise BadConfiguration(f"couldn't decode as {KIND}, got {version}, Kind={kind}")
    if version != f"{GROUP}/{VERSION}":
        raise BadConfiguration(f'no kind "{KIND}" is registered for version "{version}"')


def _read(document: Object) -> Settings:
    causes: list[Cause] = []
    flags = _leader_election(document.get("leaderElection") or {}, causes)
    if document.get("parallelism", 16) <= 0:
        text = "should be an integer value greater than zero"
        causes.append(invalid_value("parallelism", document["parallelism"], text))
    profiles = []
    given = document.get("profiles") or [{}]
    names: dict[str, int] = {}
    for index, item in enumerate(given):
        path = f"profiles[{index}]"
        # Upstream names the only profile of a file; of several each must say its own.
        name = item.get("schedulerName") or (DEFAULT_NAME if len(given) == 1 else "")
        if not name:
            causes.append(required(f"{path}.schedulerName"))
        _check_percentage(item, f"{path}.", causes)
        found, arguments = pluginargs.read(
            item.get("pluginConfig") or [], f"{path}.pluginConfig", f".profiles[{index}].pluginConfig"
        )
        causes += found
        if name in names:
            causes.append(duplicate(f"{path}.schedulerName", f"profiles[{names[name]}].schedulerName"))
        names.setdefault(name, index)
        profiles.append((name, item.get("plugins") or {}, arguments))
    _check_percentage(document, "", causes)
    initial, most = document.get("podInitialBackoffSeconds", 1), document.get("podMaxBackoffSeconds", 10)
    if initial <= 0:
        causes.append(invalid_value("podInitialBackoffSeconds", initial, "must be greater than 0"))
    if most < initial:
        text = "must be greater than or equal to PodInitialBackoffSeconds"
        causes.append(invalid_value("podMaxBackoffSeconds", most, text))
    if document.get("extenders"):
        causes.append(forbidden_field("extenders", "this scheduler calls no extenders"))
    if causes:
        words = [str(cause) for cause in causes]
        raise BadConfiguration(words[0] if len(words) == 1 else f"[{', '.join(words)}]")
    made = tuple(_profile(name, plugins)._replace(arguments=arguments) for name, plugins, arguments in profiles)
    return Settings(made, float(initial), float(most), flags)


def _check_percentage(item: Object, path: str, causes: list[Cause]) -> None:
    percentage = item.get("percentageOfNodesToScore")
    if percentage is not None and not 0 <= percentage <= 100:
        causes.append(invalid_value(f"{path}percentageOfNodesToScore", percentage, "not in valid range [0-100]"))


def _leader_election(election: Object, causes: list[Cause]) -> dict[str, Any]:
    """The flags that it stands for."""
    flags: dict[str, Any] = {}
    for field, flag in (
        ("leaderElect", "leader_elect"),
        ("resourceName", "leader_elect_resource_name"),
        ("resourceNamespace", "leader_elect_resource_namespace"),
    ):
        if election.get(field) is not None:
            flags[flag] = election[field]
    for field, flag in (
        ("leaseDuration", "leader_elect_lease_duration"),
        ("renewDeadline", "leader_elect_renew_deadline"),
        ("retryPeriod", "leader_elect_retry_period"),
    ):
        if election.get(field):
            flags[flag] = parse_duration(election[field])
    if election.get("leaderElect", True) and election.get("resourceLock", "leases") != "leases":
        lock = election["resourceLock"]
        causes.append(invalid_value("leaderElection.resourceLock", lock, 'resourceLock value must be "leases"'))
    return flags


def _profile(name: str, plugins: Object) -> Profile:
    """The plugins of a profile. Raises ValueError for what upstream would not start with."""

    def refuse(problem: str) -> ValueError:
        return ValueError(f"initializing profiles: creating profile for scheduler name {name}: {problem}")

    known = {one.name for one in (*FILTERS, *SCORES)} | set(WITHOUT_COLUMNS)
    for point, chosen in plugins.items():
        interface, others = POINTS[point]
        able = {"filter": {one.name for one in FILTERS}, "score": {one.name for one in SCORES}}.get(point, set())
        seen: set[str] = set()
        for item in (chosen or {}).get("enabled") or ():
            plugin = item.get("name") or ""
            if plugin not in known:
                raise refuse(f'{interface} "{plugin}" does not exist')
            if point in ("filter", "score", "queueSort", "bind", "postFilter") and plugin not in {*able, *others}:
                raise refuse(f'plugin "{plugin}" does not extend {interface} plugin')
            if plugin in seen:
                raise refuse(f'plugin "{plugin}" already registered as "{interface}"')
            seen.add(plugin)
    everywhere = _enabled(dict.fromkeys(known, 0), plugins.get("multiPoint"))
    for point, problem in (
        ("queueSort", f'only one queue sort plugin required for profile with scheduler name "{name}", but got 0'),
        ("bind", f'at least one bind plugin is needed for profile with scheduler name "{name}"'),
    ):
        if not set(_enabled(everywhere, plugins.get(point))) & set(POINTS[point][1]):
            raise refuse(problem)
    filters, scores = _enabled(everywhere, plugins.get("filter")), _enabled(everywhere, plugins.get("score"))
    return Profile(
        name=name,
        filters=tuple(one for one in FILTERS if one.name in filters),
        scores=tuple((one, scores[one.name] or one.weight) for one in SCORES if one.name in scores),
        preempts=PREEMPTION in _enabled(everywhere, plugins.get("postFilter")),
    )


def _enabled(before: dict[str, int], chosen: Object | None) -> dict[str, int]:
    """Plugins with their weights (0: the default), after what one extension point disables and enables."""
    disabled = {item.get("name") for item in (chosen or {}).get("disabled") or ()}
    left = {} if "*" in disabled else {name: weight for name, weight in before.items() if name not in disabled}
    added = {item["name"]: item.get("weight") or 1 for item in (chosen or {}).get("enabled") or ()}
    return left | added
