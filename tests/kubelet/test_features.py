"""What a machine can do becomes labels of its Node, which pods choose by."""

import platform
import re
from pathlib import Path

from raykube.kubelet import machine
from raykube.kubelet.core.features import PREFIX, Features, labels
from raykube.kubelet.core.nodestatus import Health, MachineFacts, NodeConfig, new_node

A100 = "NVIDIA A100-SXM4-40GB"
INTEL = Features(
    flags=frozenset({"fpu", "avx2", "aes", "sse4_2"}),
    vendor="GenuineIntel",
    system="debian",
    system_version="12",
    devices=frozenset({"0302_10de", "0200_8086"}),
    gpus=(A100, A100),
)


def test_labels_have_the_names_that_others_discover_by() -> None:
    assert labels(INTEL, "6.1.0-13-amd64") == {
        "feature.node.kubernetes.io/cpu-cpuid.AVX2": "true",
        "feature.node.kubernetes.io/cpu-cpuid.AESNI": "true",
        "feature.node.kubernetes.io/cpu-cpuid.SSE42": "true",
        "feature.node.kubernetes.io/cpu-model.vendor_id": "Intel",
        "feature.node.kubernetes.io/kernel-version.full": "6.1.0-13-amd64",
        "feature.node.kubernetes.io/kernel-version.major": "6",
        "feature.node.kubernetes.io/kernel-version.minor": "1",
        "feature.node.kubernetes.io/system-os_release.ID": "debian",
        "feature.node.kubernetes.io/system-os_release.VERSION_ID": "12",
        "feature.node.kubernetes.io/pci-0302_10de.present": "true",
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB",
    }


def test_what_is_not_known_or_fits_no_label_is_left_out() -> None:
    assert labels(Features(), "") == {}
    odd = Features(vendor="a b", system="x" * 64, devices=frozenset({"_", "0300_10de/.."}), gpus=("A", "B"))
    found = labels(odd, "5.4+custom~1")
    assert found == {
        PREFIX + "kernel-version.major": "5",
        PREFIX + "kernel-version.minor": "4",
        "nvidia.com/gpu.count": "2",
    }


def test_a_node_has_them_and_what_the_operator_says_goes_before() -> None:
    facts = MachineFacts(4, 1 << 30, 1 << 40, "m", "s", "b", "6.1.0", "Debian", "amd64", INTEL)
    config = NodeConfig("n", (), "v1", 10250, labels={"nvidia.com/gpu.product": "mine"})
    found = new_node(config, facts, Health("x"), 0.0)["metadata"]["labels"]
    assert found["kubernetes.io/arch"] == "amd64"
    assert found[PREFIX + "cpu-cpuid.AVX2"] == "true"
    assert found["nvidia.com/gpu.product"] == "mine"


def test_this_machine_is_read(tmp_path: Path) -> None:
    facts = machine.read(tmp_path)
    found = labels(facts.features, facts.kernel)
    assert found[PREFIX + "kernel-version.major"] == platform.release().split(".")[0]
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    assert (PREFIX + "cpu-cpuid.AVX2" in found) == ("avx2" in flags)
