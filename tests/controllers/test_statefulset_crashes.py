"""StatefulSets whatever happens to them and wherever their controller is lost."""

import contextlib
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.controllers.core import kinds
from raykube.controllers.core import statefulset_pods as identities
from raykube.controllers.core.statefulset import StatefulSetController
from tests.controllers.model import Cluster, Crash, kubelet, set_pod, template
from tests.controllers.statefulsets import (
    CLAIM,
    LABELS,
    claims_of,
    edit,
    images,
    names,
    rolling,
    stateful_set,
    status,
)

CHANGES: list[Callable[[Cluster], None]] = [
    lambda cluster: edit(cluster, replicas=0),
    lambda cluster: edit(cluster, replicas=1),
    lambda cluster: edit(cluster, replicas=4),
    lambda cluster: edit(cluster, template=template(LABELS, "web:2")),
    lambda cluster: edit(cluster, template=template(LABELS, "web:1")),
    lambda cluster: edit(cluster, ordinals={"start": 2}),
    lambda cluster: edit(cluster, updateStrategy=rolling(3)),
    lambda cluster: edit(cluster, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
    lambda cluster: edit(
        cluster, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Delete"}
    ),
    lambda cluster: [cluster.remove(kinds.PODS, name) for name in names(cluster)[:1]] and None,
    lambda cluster: (
        [cluster.change(kinds.PODS, name, set_pod("Failed", False, cluster.now)) for name in names(cluster)[-1:]]
        and None
    ),
]


@given(
    policy=st.sampled_from(["OrderedReady", "Parallel"]),
    claims=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_converges_whatever_crashes(
    policy: str, claims: bool, steps: list[tuple[Callable[[Cluster], None], int, int]]
) -> None:
    cluster = Cluster()
    templates = {"volumeClaimTemplates": [CLAIM]} if claims else {}
    cluster.add(kinds.STATEFUL_SETS, stateful_set(2, podManagementPolicy=policy, **templates))
    for change, crash, passes in steps:
        change(cluster)
        for _ in range(passes):
            cluster.writes_left = crash
            with contextlib.suppress(Crash):
                cluster.settle(StatefulSetController())
            kubelet(cluster)
    cluster.writes_left = -1
    for _ in range(60):
        cluster.settle(StatefulSetController())
        if not _collect_claims(cluster) + kubelet(cluster):
            break
    cluster.settle(StatefulSetController())
    found = cluster.get(kinds.STATEFUL_SETS, "default", "web")
    assert found is not None
    start, count = identities.start_of(found), found["spec"]["replicas"]
    assert names(cluster) == sorted(f"web-{ordinal}" for ordinal in range(start, start + count))
    image = found["spec"]["template"]["spec"]["containers"][0]["image"]
    assert set(images(cluster).values()) <= {image}
    seen = status(cluster)
    assert seen["replicas"] == seen["availableReplicas"] == count
    assert seen.get("updatedReplicas", 0) == seen.get("currentReplicas", 0) == count
    assert seen["currentRevision"] == seen["updateRevision"]
    if claims:
        assert {f"data-{name}" for name in names(cluster)} <= set(claims_of(cluster))


def _collect_claims(cluster: Cluster) -> int:
    """The garbage collector's part: claims whose owner is gone go. How many."""
    gone = 0
    alive = {each["metadata"]["uid"] for each in cluster.all(kinds.PODS) + cluster.all(kinds.STATEFUL_SETS)}
    for claim in cluster.all(kinds.PERSISTENT_VOLUME_CLAIMS):
        owners = claim["metadata"].get("ownerReferences") or ()
        if owners and not any(owner["uid"] in alive for owner in owners):
            cluster.vanish(kinds.PERSISTENT_VOLUME_CLAIMS, claim)
            gone += 1
    return gone
