"""What happens in the cluster, as far as a pod that fits nowhere may care. Each filter names what may help it."""

from enum import Flag, auto


class Event(Flag):
    """Kinds of changes."""

    NODE = auto()  # a node came, or its labels, taints or size changed
    NODE_GONE = auto()  # a domain of spreading may have gone with it
    POD_GONE = auto()  # something was freed
    STORAGE = auto()  # a claim, volume or storage class came or changed
    DEVICES = auto()  # a slice or class came or changed, or a claim gave devices back
    POD_CHANGED = auto()  # a pod was placed, or its labels or namespace changed: spreading and affinity may differ


NOTHING = Event(0)
