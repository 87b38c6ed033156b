"""Of kubelets in tests: how full the disk of the machine that they run on is is no matter of theirs."""

EVICTION_HARD = "memory.available<100Mi"
IMAGE_GC_HIGH_THRESHOLD = 100  # never
FLAGS = (  # of `raykube up`
    *("--extra-config", f"kubelet.eviction-hard={EVICTION_HARD}"),
    *("--extra-config", f"kubelet.image-gc-high-threshold={IMAGE_GC_HIGH_THRESHOLD}"),
)
