"""What the pure parts decide about volumes."""

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import node_selectors
from raykube.kubelet.core import mountinfo, ownership, volumespec
from raykube.kubelet.core.payload import File, PodFacts, payload
from raykube.kubelet.core.sources import Sources
from raykube.pb import cri_pb2

Object = dict[str, Any]
FACTS = PodFacts("10.1.0.1", ("10.0.0.1",), {"cpu": "4", "memory": "8Gi"})

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
30 27 0:27 / /data/pods/u/volumes/a rw shared:9 - tmpfs tmpfs rw
31 30 0:28 / /data/pods/u/volumes/a/in\040side ro,nosuid - tmpfs tmpfs rw
32 27 254:0 /x /data/pods/u2 rw - ext4 /dev/vda rw
33 27 0:29 / /data/pods/u/volumes/a rw - tmpfs tmpfs rw
"""


def pod(*containers: Object, **spec: Any) -> Object:
    metadata = {"name": "p", "namespace": "ns", "uid": "u"}
    return {"metadata": metadata, "spec": {"containers": list(containers or [{"name": "c"}]), "nodeName": "n"} | spec}


def test_mountinfo() -> None:
    mounts = mountinfo.parse(MOUNTINFO)
    assert mounts[3] == mountinfo.Mount(
        31, "0:28", "/", "/data/pods/u/volumes/a/in side", ("ro", "nosuid"), False, "tmpfs", "tmpfs"
    )
    assert mounts[1].shared
    # What lies on top comes off first, and a neighbour whose name begins alike is left alone.
    volume = "/data/pods/u/volumes/a"
    assert mountinfo.below(mounts, "/data/pods/u") == [volume, f"{volume}/in side", volume]
    held = mountinfo.holder(mounts, "/data/pods/u/volumes/a/file")
    assert held is not None
    assert held.id == 33
    root = mountinfo.holder(mounts, "/data/pods/u3")
    assert root is not None
    assert root.id == 27


@pytest.mark.parametrize(
    ("mode", "read_only", "becomes"),
    [
        (stat.S_IFREG | 0o644, False, 0o664),
        (stat.S_IFREG | 0o600, True, 0o640),
        (stat.S_IFREG | 0o400, True, 0o440),
        (stat.S_IFREG | 0o755, False, 0o775),
        (stat.S_IFDIR | 0o755, False, 0o2775),
        (stat.S_IFDIR | 0o700, True, 0o2750),
        (stat.S_IFDIR | 0o777, False, 0o2777),
    ],
)
def test_what_a_group_may_do(mode: int, read_only: bool, becomes: int) -> None:
    assert ownership.group_mode(mode, read_only) == becomes
    assert ownership.group_matches(stat.S_IFMT(mode) | becomes, 7, 7, read_only)
    assert not ownership.group_matches(stat.S_IFMT(mode) | becomes, 7, 8, read_only)


@given(st.integers(0, 0o7777), st.booleans(), st.booleans())
def test_giving_a_volume_away_takes_nothing_from_anybody(bits: int, directory: bool, read_only: bool) -> None:
    mode = (stat.S_IFDIR if directory else stat.S_IFREG) | bits
    once = ownership.group_mode(mode, read_only)
    assert once & bits == bits
    assert ownership.group_mode(stat.S_IFMT(mode) | once, read_only) == once


def test_the_user_of_all_containers() -> None:
    def user(number: int) -> Object:
        return {"name": "c", "securityContext": {"runAsUser": number}}

    assert ownership.fs_user(pod()) is None
    assert ownership.fs_user(pod(securityContext={"runAsUser": 5})) == 5
    assert ownership.fs_user(pod(user(6), securityContext={"runAsUser": 5})) == 6
    assert ownership.fs_user(pod(user(6), {"name": "d"})) is None
    assert ownership.fs_user(pod(user(6), initContainers=[user(7)])) is None


def test_tokens_are_closed_where_somebody_is_named_for_them() -> None:
    volume = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    sources = Sources("ns")
    assert payload(pod(), volume, sources, ["x"], FACTS) == {"token": File(b"x", 0o644)}
    own = pod(securityContext={"runAsUser": 5})
    assert payload(own, volume, sources, ["x"], FACTS) == {"token": File(b"x", 0o600, 5)}
    group = pod(securityContext={"fsGroup": 5})
    assert payload(group, volume, sources, ["x"], FACTS) == {"token": File(b"x", 0o600)}


def test_what_no_part_serves_is_said() -> None:
    source: Object = {"clusterTrustBundle": {"name": "b", "path": "ca"}}
    volume = {"name": "t", "projected": {"sources": [source]}}
    with pytest.raises(ValueError, match="ClusterTrustBundle projection is not supported"):
        payload(pod(), volume, Sources("ns"), [], FACTS)
    source["clusterTrustBundle"]["optional"] = True
    assert payload(pod(), volume, Sources("ns"), [], FACTS) == {}


def test_the_size_of_an_empty_dir_in_memory() -> None:
    limited = {"name": "c", "resources": {"limits": {"memory": "1Gi"}}}
    has = {"memory": "8Gi"}
    assert volumespec.memory_bytes_max(pod(), {}, has) == 8 << 30
    assert volumespec.memory_bytes_max(pod(limited), {}, has) == 1 << 30
    assert volumespec.memory_bytes_max(pod(limited, {"name": "d"}), {}, has) == 8 << 30
    assert volumespec.memory_bytes_max(pod(limited, limited), {}, has) == 2 << 30
    assert volumespec.memory_bytes_max(pod(limited), {"sizeLimit": "16Mi"}, has) == 16 << 20
    assert volumespec.memory_bytes_max(pod(), {"sizeLimit": "0"}, {}) == 0


def test_media() -> None:
    assert volumespec.memory_medium({"medium": "Memory"})
    assert not volumespec.memory_medium({})
    with pytest.raises(volumespec.NotUsable, match='storage medium "HugePages-2Mi" is not supported'):
        volumespec.memory_medium({"medium": "HugePages-2Mi"})
    with pytest.raises(volumespec.NotUsable, match='unknown storage medium "Tape"'):
        volumespec.memory_medium({"medium": "Tape"})


CLAIM: Object = {
    "metadata": {"name": "c", "namespace": "ns", "uid": "cu"},
    "spec": {"volumeName": "pv"},
    "status": {"phase": "Bound"},
}
VOLUME: Object = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
PERSISTENT: Object = {
    "metadata": {"name": "pv"},
    "spec": {
        "claimRef": {"uid": "cu"},
        "local": {"path": "/mnt/x"},
        "nodeAffinity": {
            "required": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "h", "operator": "In", "values": ["n1"]}]}]
            }
        },
    },
}


def test_a_claim_leads_to_its_volume() -> None:
    assert volumespec.check_claim(pod(), VOLUME, CLAIM) == "pv"
    found = volumespec.bound_volume(VOLUME, CLAIM, PERSISTENT, {"h": "n1"}, "n1")
    assert found == volumespec.Resolved("pv", "local", {"path": "/mnt/x"})
    with pytest.raises(volumespec.NotUsable, match="no matching NodeSelectorTerms"):
        volumespec.bound_volume(VOLUME, CLAIM, PERSISTENT, {"h": "n2"}, "n2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": {"phase": "Pending"}}, "error processing PVC ns/c: PVC is not bound"),
        ({"spec": {}}, "PVC has empty pvc.Spec.VolumeName"),
        ({"metadata": CLAIM["metadata"] | {"deletionTimestamp": "t"}}, "PVC is being deleted"),
    ],
)
def test_claims_that_give_nothing(change: Object, message: str) -> None:
    with pytest.raises(volumespec.NotUsable, match=message):
        volumespec.check_claim(pod(), VOLUME, CLAIM | change)


def test_somebody_elses_ephemeral_claim() -> None:
    volume = {"name": "v", "ephemeral": {}}
    assert volumespec.claim_name(pod(), volume) == "p-v"
    with pytest.raises(volumespec.NotUsable, match="PVC ns/c was not created for pod ns/p"):
        volumespec.check_claim(pod(), volume, CLAIM)
    owner = {"ownerReferences": [{"uid": "u", "controller": True}]}
    assert volumespec.check_claim(pod(), volume, CLAIM | {"metadata": CLAIM["metadata"] | owner}) == "pv"


def test_another_claims_volume() -> None:
    other = PERSISTENT | {"spec": PERSISTENT["spec"] | {"claimRef": {"uid": "old"}}}
    with pytest.raises(volumespec.NotUsable, match=r"found PV object pv with unexpected pvc\.UID old; expected"):
        volumespec.bound_volume(VOLUME, CLAIM, other, {"h": "n1"}, "n1")


def test_how_a_container_mounts() -> None:
    assert volumespec.propagation({"name": "v"}) == cri_pb2.PROPAGATION_PRIVATE
    assert volumespec.propagation({"mountPropagation": "Bidirectional"}) == cri_pb2.PROPAGATION_BIDIRECTIONAL
    wanted = {"name": "v", "readOnly": True, "recursiveReadOnly": "Enabled"}
    assert volumespec.recursive_read_only(wanted, supported=True)
    with pytest.raises(volumespec.NotUsable, match="but it is not supported by the runtime"):
        volumespec.recursive_read_only(wanted, supported=False)
    assert not volumespec.recursive_read_only(wanted | {"recursiveReadOnly": "IfPossible"}, supported=False)
    with pytest.raises(volumespec.NotUsable, match="but it is not read-only"):
        volumespec.recursive_read_only(wanted | {"readOnly": False}, supported=True)
    with pytest.raises(volumespec.NotUsable, match='not compatible with propagation "HostToContainer"'):
        volumespec.recursive_read_only(wanted | {"mountPropagation": "HostToContainer"}, supported=True)


@pytest.mark.parametrize(
    ("operator", "values", "holds"),
    [
        ("In", ["a", "5"], True),
        ("In", ["a"], False),
        ("NotIn", ["a"], True),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["4"], True),
        ("Lt", ["4"], False),
        ("Gt", ["x"], False),
        ("Other", ["5"], False),
    ],
)
def test_node_selectors(operator: str, values: list[str], holds: bool) -> None:
    term = {"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}
    assert node_selectors.matches({"nodeSelectorTerms": [term]}, {"k": "5"}) is holds


def test_terms_of_node_selectors() -> None:
    named = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    assert node_selectors.matches(None, {})
    assert not node_selectors.matches({"nodeSelectorTerms": [{}]}, {})
    assert node_selectors.matches({"nodeSelectorTerms": [{}, named]}, {}, "n1")
    assert not node_selectors.matches({"nodeSelectorTerms": [named]}, {}, "n2")
