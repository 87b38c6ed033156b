"""KubeSchedulerConfiguration: what it sets, and upstream's words for what it may not say."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raykube.scheduler.config import Config
from raykube.scheduler.configfile import load
from raykube.scheduler.core.arguments import DefaultConstraint, Point, Resource
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.configuration import BadConfiguration, Settings, parse
from raykube.scheduler.core.filters import FILTERS
from raykube.scheduler.core.profile import DEFAULT_SCORES, Profile
from tests.scheduler.objects import Object, node, pod, spread

FIT, SPREAD = "NodeResourcesFit", "PodTopologySpread"


def document(**more: Any) -> str:
    meta = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}
    return yaml.safe_dump(meta | more)


def profile(plugins: Object | None = None, name: str = "", **args: Object) -> Profile:
    (made,) = parse(document(profiles=[item(plugins, name, **args)])).profiles
    return made


def item(plugins: Object | None = None, name: str = "", **args: Object) -> Object:
    config = [{"name": plugin, "args": given} for plugin, given in args.items()]
    made: Object = {"plugins": plugins or {}, "pluginConfig": config}
    return made | ({"schedulerName": name} if name else {})


def place(cluster: Cluster, obj: Object) -> str:
    found = cluster.schedule(cluster.read_pod(obj))
    assert isinstance(found, Placement), found
    return found.node


def weights(made: Profile) -> dict[str, int]:
    return {score.name: weight for score, weight in made.scores}


def test_a_file_that_says_nothing_is_the_default() -> None:
    assert parse(document()) == Settings()
    assert Settings().profiles == (Profile(),)
    assert weights(Profile()) == {
        "TaintToleration": 3,
        "NodeAffinity": 2,
        "NodeResourcesFit": 1,
        "PodTopologySpread": 2,
        "InterPodAffinity": 2,
        "NodeResourcesBalancedAllocation": 1,
        "ImageLocality": 1,
        # Ours; without annotations and reports they say nothing.
        "DataLocality": 3,
        "Interference": 3,
    }


def test_plugins_are_taken_away_and_weighed() -> None:
    only_fit = profile({"score": {"disabled": [{"name": "*"}], "enabled": [{"name": FIT, "weight": 7}]}})
    assert weights(only_fit) == {FIT: 7}
    assert only_fit.filters == FILTERS
    nowhere = profile({"multiPoint": {"disabled": [{"name": FIT}]}})
    assert FIT not in weights(nowhere)
    assert FIT not in {one.name for one in nowhere.filters}
    back = profile({"multiPoint": {"disabled": [{"name": FIT}]}, "filter": {"enabled": [{"name": FIT}]}})
    assert back.filters == FILTERS
    assert FIT not in weights(back)
    # Upstream's: enabled without a weight is 1, whatever the default weight was.
    assert weights(profile({"score": {"enabled": [{"name": "TaintToleration"}]}}))["TaintToleration"] == 1
    assert profile({"score": {"enabled": [{"name": "ImageLocality"}]}}).scores == DEFAULT_SCORES
    assert not profile({"postFilter": {"disabled": [{"name": "DefaultPreemption"}]}}).preempts
    assert profile().preempts


def test_arguments() -> None:
    shape = [{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]
    made = profile(
        NodeResourcesFit={
            "ignoredResources": ["example.com/foo"],
            "scoringStrategy": {
                "type": "RequestedToCapacityRatio",
                "resources": [{"name": "nvidia.com/gpu", "weight": 3}, {"name": "cpu"}],
                "requestedToCapacityRatio": {"shape": shape},
            },
        },
        NodeResourcesBalancedAllocation={"resources": [{"name": "cpu"}, {"name": "nvidia.com/gpu", "weight": 1}]},
        PodTopologySpread={
            "defaultingType": "List",
            "defaultConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
        },
        InterPodAffinity={"hardPodAffinityWeight": 0, "ignorePreferredTermsOfExistingPods": True},
        DefaultPreemption={"minCandidateNodesPercentage": 5, "minCandidateNodesAbsolute": 0},
        VolumeBinding={"bindTimeoutSeconds": 30},
    ).arguments
    assert (made.strategy, made.shape) == ("RequestedToCapacityRatio", (Point(0, 10), Point(100, 0)))
    assert made.fit_resources == (Resource("nvidia.com/gpu", 3), Resource("cpu", 1))
    assert made.ignored_resources == {"example.com/foo"}
    assert made.balanced_resources == ("cpu", "nvidia.com/gpu")
    assert made.default_constraints == (DefaultConstraint("rack", 2, True),)
    assert not made.system_defaulted
    assert (made.hard_pod_affinity_weight, made.ignore_preferred_terms_of_existing_pods) == (0, True)
    assert (made.candidates_min_percent, made.candidates_min, made.bind_timeout_s) == (5, 0, 30)


def test_the_queue_and_the_election(tmp_path: Path) -> None:
    text = document(
        podInitialBackoffSeconds=3,
        podMaxBackoffSeconds=30,
        percentageOfNodesToScore=20,
        parallelism=4,
        leaderElection={"leaderElect": False, "leaseDuration": "1m", "resourceName": "other"},
    )
    path = tmp_path / "config.yaml"
    path.write_text(text)
    flags = {"api_servers": ["127.0.0.1:1"], "config": path}
    config, settings = load(Config(**flags, leader_elect_resource_name="mine"))  # type: ignore[arg-type]
    assert (settings.backoff_initial_s, settings.backoff_max_s) == (3, 30)
    assert (config.leader_elect, config.leader_elect_lease_duration) == (False, 60)
    assert config.leader_elect_resource_name == "mine"  # a flag has the last word
    path.write_text(document(leaderElection={"leaseDuration": "5s"}))
    with pytest.raises(ValueError, match=r"config.yaml: --leader-elect-lease-duration must be longer than"):
        load(Config(**flags))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"--config: cannot read .*: No such file"):
        load(Config(**flags | {"config": tmp_path / "none"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "yaml: while parsing a flow node"),
        ("- 1", "couldn't decode as KubeSchedulerConfiguration: the document is no object"),
        ("apiVersion: kubescheduler.config.k8s.io/v1", "Object 'Kind' is missing"),
        (
            "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration}",
            "couldn't decode as KubeSchedulerConfiguration, got kubelet.config.k8s.io/v1beta1, Kind=Kubelet",
        ),
        (
            "{apiVersion: kubescheduler.config.k8s.io/v1beta3, kind: KubeSchedulerConfiguration}",
            'no kind "KubeSchedulerConfiguration" is registered for version "kubescheduler.config.k8s.io/v1beta3"',
        ),
        (
            document(profiles=[{"foo": 1}], bar=2),
            'strict decoding error: unknown field "bar", unknown field "profiles[0].foo"',
        ),
        (
            document(parallelism="many"),
            "json: cannot unmarshal string into Go struct field KubeSchedulerConfiguration.parallelism of type int32",
        ),
        (document(parallelism=0), "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        (
            document(podInitialBackoffSeconds=0, podMaxBackoffSeconds=-1),
            (
                "[podInitialBackoffSeconds: Invalid value: 0: must be greater than 0, podMaxBackoffSeconds: "
                "Invalid value: -1: must be greater than or equal to PodInitialBackoffSeconds]"
            ),
        ),
        (
            document(percentageOfNodesToScore=101),
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        ),
        (
            document(profiles=[item(name="a"), item(name="a"), item()]),
            (
                '[profiles[1].schedulerName: Duplicate value: "profiles[0].schedulerName", '
                "profiles[2].schedulerName: Required value]"
            ),
        ),
        (
            document(leaderElection={"resourceLock": "endpoints"}),
            'leaderElection.resourceLock: Invalid value: "endpoints": resourceLock value must be "leases"',
        ),
        (
            document(profiles=[item({"filter": {"enabled": [{"name": "Foo"}]}})]),
            (
                "initializing profiles: creating profile for scheduler name default-scheduler: "
                'FilterPlugin "Foo" does not exist'
            ),
        ),
        (
            document(profiles=[item({"filter": {"enabled": [{"name": "ImageLocality"}]}})]),
            (
                "initializing profiles: creating profile for scheduler name default-scheduler: "
                'plugin "ImageLocality" does not extend FilterPlugin plugin'
            ),
        ),
        (
            document(profiles=[item({"bind": {"disabled": [{"name": "*"}]}})]),
            (
                "initializing profiles: creating profile for scheduler name default-scheduler: "
                'at least one bind plugin is needed for profile with scheduler name "default-scheduler"'
            ),
        ),
        (document(extenders=[{"urlPrefix": "x"}]), "extenders: Forbidden: this scheduler calls no extenders"),
    ],
)
def test_what_does_not_parse(text: str, message: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        parse(text)
    assert str(refused.value).startswith(message)


ARGS = "profiles[0].pluginConfig[0].args"


@pytest.mark.parametrize(
    ("plugin", "args", "message"),
    [
        (
            "InterPodAffinity",
            {"hardPodAffinityWeight": 200},
            f"{ARGS}.hardPodAffinityWeight: Invalid value: 200: not in valid range [0, 100]",
        ),
        (
            FIT,
            {"scoringStrategy": {"type": "Random"}},
            (
                f'{ARGS}.scoringStrategy.type: Unsupported value: "Random": supported values: "LeastAllocated", '
                '"MostAllocated", "RequestedToCapacityRatio"'
            ),
        ),
        (
            FIT,
            {"scoringStrategy": {"type": "RequestedToCapacityRatio"}},
            (
                f"{ARGS}.scoringStrategy.requestedToCapacityRatio: Required value: "
                "must be specified when type is RequestedToCapacityRatio"
            ),
        ),
        (
            FIT,
            {
                "scoringStrategy": {
                    "type": "RequestedToCapacityRatio",
                    "resources": [{"name": "cpu", "weight": 101}],
                    "requestedToCapacityRatio": {
                        "shape": [{"utilization": 50, "score": 11}, {"utilization": 50, "score": 0}]
                    },
                }
            },
            (
                f"[{ARGS}.scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not in valid "
                f"range (0, 100], {ARGS}.scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid "
                f"value: 50: values must be sorted in increasing order, {ARGS}.scoringStrategy.requestedToCapacityRatio"
                ".shape[0].score: Invalid value: 11: not in valid range [0, 10]]"
            ),
        ),
        (
            FIT,
            {"scoringStrategy": {"type": "MostAllocated", "requestedToCapacityRatio": {}}},
            (
                f"{ARGS}.scoringStrategy.requestedToCapacityRatio: Forbidden: "
                "must be nil when type is not RequestedToCapacityRatio"
            ),
        ),
        (
            FIT,
            {"ignoredResourceGroups": ["example.com/foo"]},
            (
                f'{ARGS}.ignoredResourceGroups[0]: Invalid value: "example.com/foo": '
                "resource group name can't contain '/'"
            ),
        ),
        (
            "NodeResourcesBalancedAllocation",
            {"resources": [{"name": "cpu", "weight": 2}, {"name": "cpu"}]},
            (
                f"[{ARGS}.resources[0].weight: Invalid value: 2: must be 1, "
                f'{ARGS}.resources[1].name: Duplicate value: "cpu"]'
            ),
        ),
        (
            SPREAD,
            {"defaultConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}]},
            f'{ARGS}.defaultingType: Invalid value: "System": when .defaultConstraints are not empty',
        ),
        (
            SPREAD,
            {"defaultingType": "List", "defaultConstraints": [{"labelSelector": {}, "whenUnsatisfiable": "Maybe"}]},
            (
                f"[{ARGS}.defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf), "
                f"{ARGS}.defaultConstraints[0].topologyKey: Required value: can not be empty, "
                f'{ARGS}.defaultConstraints[0].whenUnsatisfiable: Unsupported value: "Maybe": supported values: '
                f'"DoNotSchedule", "ScheduleAnyway", {ARGS}.defaultConstraints[0].labelSelector: Forbidden: '
                "constraint must not define a selector, as they deduced for each pod]"
            ),
        ),
        (
            "NodeAffinity",
            {
                "addedAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]
                    }
                }
            },
            (
                f"{ARGS}.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"
                '.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator'
            ),
        ),
        (
            "DefaultPreemption",
            {"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0},
            (
                f"[{ARGS}.minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as "
                f"minCandidateNodesAbsolute, {ARGS}.minCandidateNodesAbsolute: Invalid value: 0: cannot be zero at the "
                "same time as minCandidateNodesPercentage]"
            ),
        ),
        (
            FIT,
            {"foo": 1},
            (
                "decoding .profiles[0].pluginConfig[0]: decoding args for plugin NodeResourcesFit: "
                'strict decoding error: unknown field "foo"'
            ),
        ),
        (
            FIT,
            {"kind": "InterPodAffinityArgs"},
            (
                "decoding .profiles[0].pluginConfig[0]: args for plugin NodeResourcesFit were not of type "
                "NodeResourcesFitArgs.kubescheduler.config.k8s.io, got InterPodAffinityArgs.kubescheduler.config.k8s.io"
            ),
        ),
    ],
)
def test_arguments_that_make_no_sense(plugin: str, args: Object, message: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        profile(**{plugin: args})
    assert str(refused.value) == message


def test_pods_of_two_profiles_go_their_own_ways() -> None:
    packing = item(name="packing", NodeResourcesFit={"scoringStrategy": {"type": "MostAllocated"}})
    cluster = Cluster(parse(document(profiles=[item(name="default-scheduler"), packing])).profiles)
    for name in ("a", "b"):
        cluster.on_node(node(name))
    first = place(cluster, pod("one", "1", "2Gi"))
    assert place(cluster, pod("two", "1", "2Gi")) != first
    assert place(cluster, pod("three", "500m", "1Gi")) == "a"
    assert [place(cluster, pod(f"p{n}", "500m", "1Gi", schedulerName="packing")) for n in range(3)] == ["a"] * 3


def test_required_and_preferred_affinity_of_the_profile() -> None:
    term = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["batch"]}]}
    fast = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    added = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": fast}],
    }
    cluster = Cluster([profile(NodeAffinity={"addedAffinity": added})])
    cluster.on_node(node("a"))
    cluster.on_node(node("b", labels={"pool": "batch"}))
    cluster.on_node(node("c", labels={"pool": "batch", "disk": "ssd"}))
    assert place(cluster, pod("one")) == "c"
    found = cluster.schedule(cluster.read_pod(pod("two", nodeSelector={"disk": "hdd"})))
    assert not isinstance(found, Placement)
    assert found.message.startswith(
        "0/3 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity, "
        "2 node(s) didn't match Pod's node affinity/selector."
    )


def test_default_constraints_of_the_profile() -> None:
    rack = {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
    cluster = Cluster([profile(PodTopologySpread={"defaultingType": "List", "defaultConstraints": [rack]})])
    cluster.on_node(node("a", cpu="64", labels={"rack": "1"}))
    cluster.on_node(node("b", cpu="1", labels={"rack": "2"}))
    assert {place(cluster, pod(f"p{n}", "1", owner="rs")) for n in range(2)} == {"a", "b"}
    assert place(cluster, pod("p2", "1", owner="rs")) == "a"
    assert not isinstance(cluster.schedule(cluster.read_pod(pod("p3", "1", owner="rs"))), Placement)
    # A pod with constraints of its own, or that nobody owns, has no default ones.
    assert place(cluster, pod("own", owner="rs", topologySpreadConstraints=[spread("rack", 9, {})])) == "a"
    assert place(cluster, pod("lone", "1")) == "a"
