"""What holds on containerd holds on Docker: the same tests, on this room's nodes."""

from tests.kubelet.containerd.test_sandbox import *  # noqa: F403
