"""`--config`: fields of upstream's file, and who wins."""

import logging
from pathlib import Path

import pytest

from raykube.kubelet.config import Config
from raykube.kubelet.configfile import merged
from raykube.kubelet.core.configfile import FIELDS

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def read(tmp_path: Path, text: str, **flags: object) -> Config:
    file = tmp_path / "kubelet.yaml"
    file.write_text(text)
    return merged(Config.model_validate({"config": file} | flags))


def test_fields_become_flags_and_flags_win(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = HEAD + (
        "maxPods: 30\nsyncFrequency: 1m30s\nstaticPodPath: /m\nclusterDNS: [10.96.0.10]\nport: 1\n"
        "evictionHard: {memory.available: 200Mi, nodefs.available: 5%}\nsystemReserved: {cpu: 200m, memory: 1Gi}\n"
        "evictionSoftGracePeriod: {memory.available: 1m}\n"
        "enforceNodeAllocatable: [none]\n"
        "registerWithTaints: [{key: a, value: b, effect: NoSchedule}]\n"
        "staticPodURLHeader: {X-Own: [one, two]}\n"
        "authentication: {x509: {clientCAFile: /ca}, anonymous: {enabled: false}}\n"
        "shutdownGracePeriodByPodPriority: [{priority: 5, shutdownGracePeriodSeconds: 7}]\nmaxpods: 3\n"
    )
    config = read(tmp_path, text, port=2)
    assert (config.max_pods, config.sync_frequency, config.pod_manifest_path) == (30, 90.0, Path("/m"))
    assert config.eviction_hard == "memory.available<200Mi,nodefs.available<5%"
    assert config.system_reserved == "cpu=200m,memory=1Gi"
    assert config.eviction_soft_grace_period == "memory.available=1m"
    assert config.register_with_taints == ["a=b:NoSchedule"]
    assert config.manifest_url_header == ["X-Own:one", "X-Own:two"]
    assert config.shutdown_grace_period_by_pod_priority == {"5": "7"}
    assert config.enforce_node_allocatable == "none"
    assert config.client_ca_file == Path("/ca")
    assert config.port == 2
    assert "fields without meaning here: authentication.anonymous, maxpods" in caplog.text


def test_a_disk_with_other_users_is_judged_only_where_something_says_so(tmp_path: Path) -> None:
    assert "nodefs" in merged(Config()).eviction_hard
    shared = merged(Config(shared_disk=True))
    assert (shared.eviction_hard, shared.image_gc_high_threshold) == ("memory.available<100Mi", 100)
    by_file = read(tmp_path, HEAD + "imageGCHighThresholdPercent: 90\n", shared_disk=True)
    assert (by_file.eviction_hard, by_file.image_gc_high_threshold) == ("memory.available<100Mi", 90)
    by_flag = read(tmp_path, HEAD + "maxPods: 30\n", shared_disk=True, eviction_hard="nodefs.available<1%")
    assert (by_flag.eviction_hard, by_flag.image_gc_high_threshold) == ("nodefs.available<1%", 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Pod\n", "want kind KubeletConfiguration of kubelet.config.k8s.io/v1beta1"),
        ("a: [", "while parsing"),
        (HEAD + "maxPods: many\n", "max_pods: Input should be a valid integer"),
        (HEAD + "syncFrequency: 5 weeks\n", "sync_frequency"),
        (HEAD + "evictionHard: much\n", "evictionHard: want a map"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"kubelet\.yaml") as failure:
        read(tmp_path, text)
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--config: cannot read .*none: No such file"):
        merged(Config(config=tmp_path / "none"))


def test_every_field_has_a_flag(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert {flag for flag, _ in FIELDS.values()} <= set(Config.model_fields)
