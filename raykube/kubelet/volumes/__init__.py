"""Volumes on this machine: makes them, keeps them current, names the mounts of a container, takes them away.

ROOT/pods/UID/volumes/PLUGIN/NAME                      kubernetes.io~empty-dir, ~configmap, ~secret, ~projected, …
ROOT/pods/UID/volume-subpaths/NAME/CONTAINER/INDEX     a bind mount of one subPath
ROOT/pods/UID/etc-hosts
ROOT/pods/UID/containers/NAME/ATTEMPT                  a run's termination message
ROOT/logs/pods/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log

Where the kubelet may mount, what comes from Secrets, tokens and the pod itself lies in a tmpfs of its own, and so does
an emptyDir with medium Memory. A PersistentVolume (local, hostPath) is used where it is: no mount can be left over.

Rules:
- The file system is the only memory: a kubelet that was killed at any instruction finds in /proc/self/mountinfo what it
  had mounted, mounts what is missing, and takes off what belongs to pods that are gone.
- Nothing is deleted through a mount or a symbolic link (`removal`), and no subPath leads out of its volume
  (`safepath`): both by openat2, which leaves that to the kernel.
"""

from raykube.kubelet.volumes.failure import VolumeFailed
from raykube.kubelet.volumes.pod_volumes import Volumes

__all__ = ["VolumeFailed", "Volumes"]
