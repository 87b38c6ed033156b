"""What a machine can do, as labels of its Node, in the names of Node Feature Discovery and of NVIDIA's GPU discovery.

    feature.node.kubernetes.io/cpu-cpuid.AVX2: "true"         flags of the CPU that programs are built for
    feature.node.kubernetes.io/cpu-model.vendor_id: Intel
    feature.node.kubernetes.io/kernel-version.full: 6.1.0-13  also .major and .minor
    feature.node.kubernetes.io/system-os_release.ID: debian   also .VERSION_ID
    feature.node.kubernetes.io/pci-0302_10de.present: "true"  display controllers and accelerators, by class and vendor
    nvidia.com/gpu.count: "4", nvidia.com/gpu.product: NVIDIA-A100-SXM4-40GB

A pod chooses by them with nodeSelector or node affinity. A label that its value does not fit into is left out.
"""

import re
from dataclasses import dataclass

PREFIX = "feature.node.kubernetes.io/"
# The kernel's name of a flag → the name that CPU makers, and the label, have for it. What every CPU has says nothing.
FLAGS = {
    **{name: name.upper() for name in ("avx", "avx2", "adx", "f16c", "gfni", "vaes", "sha", "sve", "sve2")},
    **{name: name.upper() for name in ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512ifma")},
    **{name: name.upper() for name in ("asimd", "asimddp", "asimdhp", "bf16", "crc32", "i8mm")},
    "aes": "AESNI",
    "amx_bf16": "AMXBF16",
    "amx_int8": "AMXINT8",
    "amx_tile": "AMXTILE",
    "avx512_bf16": "AVX512BF16",
    "avx512_fp16": "AVX512FP16",
    "avx512_vnni": "AVX512VNNI",
    "avx_vnni": "AVXVNNI",
    "bmi1": "BMI1",
    "bmi2": "BMI2",
    "fma": "FMA3",
    "hypervisor": "HYPERVISOR",
    "sha_ni": "SHA",
    "sse4_2": "SSE42",
    "svm": "SVM",
    "vmx": "VMX",
}
VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "0x41": "ARM"}
DEVICES = re.compile(r"(?:03|12)[0-9a-f]{2}_[0-9a-f]{4}")  # display controllers, processing accelerators
_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Features:
    """What was read from the machine, in the kernel's words."""

    flags: frozenset[str] = frozenset()
    vendor: str = ""
    system: str = ""  # ID of /etc/os-release
    system_version: str = ""  # VERSION_ID
    devices: frozenset[str] = frozenset()  # of PCI: class_vendor, four hexadecimal digits each
    gpus: tuple[str, ...] = ()  # the model of each


NOTHING_KNOWN = Features()


def labels(features: Features, kernel: str) -> dict[str, str]:
    """`kernel`: its release."""
    found = {f"cpu-cpuid.{FLAGS[flag]}": "true" for flag in features.flags & FLAGS.keys()}
    found["cpu-model.vendor_id"] = VENDORS.get(features.vendor, features.vendor)
    found["kernel-version.full"] = kernel
    if version := _VERSION.match(kernel):
        found["kernel-version.major"], found["kernel-version.minor"] = version.groups()
    found["system-os_release.ID"] = features.system
    found["system-os_release.VERSION_ID"] = features.system_version
    found |= {f"pci-{device}.present": "true" for device in features.devices if DEVICES.fullmatch(device)}
    named = {PREFIX + key: value for key, value in found.items()}
    if features.gpus:
        named["nvidia.com/gpu.count"] = str(len(features.gpus))
        if len(set(features.gpus)) == 1:
            named["nvidia.com/gpu.product"] = features.gpus[0].replace(" ", "-")
    return {key: value for key, value in named.items() if _VALUE.fullmatch(value)}
