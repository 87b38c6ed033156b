"""Which pods lie on which node, for the node authorizer: a pod is read when its node's kubelet asks.

    bind ──► the node's name, out of the pod's bytes ──► unread ──► the kubelet asks ──► read: what the pod refers to

So a pod costs a look at its bytes where nobody ever asks, as for hollow machines. What a pod refers to changes once it
has a node only with ephemeral containers, which are few: of all that is written about the others only their binding and
their end count.
"""

from collections.abc import Callable

from raykube.apiserver.core.item import Change, Item
from raykube.apiserver.core.node_authorizer import NodeAuthorizer

# Also the value of a label with this name: what is found is where a pod may be, and reading it tells.
_NODE = b'"nodeName":"'
_EPHEMERAL = b'"ephemeralContainers":['


class Assignments:
    """Follows the pods and tells `nodes` of those that matter; `find` gives a pod's item by its key."""

    def __init__(self, nodes: NodeAuthorizer, find: Callable[[str], Item | None]) -> None:
        self._nodes = nodes
        self._find = find
        # node → key → the revision at which the pod was found to be elsewhere, 0 when it was not looked at
        self._unread: dict[str, dict[str, int]] = {}

    def on_change(self, change: Change) -> None:
        """A write of a pod."""
        before, after = _places(change.before), _places(change.after)
        if before == after and not (change.after is not None and _EPHEMERAL in change.after.data):
            return
        for node in before:
            self._drop(node, change.key)
        if before:
            namespace, _, name = change.key.partition("/")
            self._nodes.forget((namespace, name))
        for node in after:
            self._unread.setdefault(node, {})[change.key] = 0

    def _drop(self, node: str, key: str) -> None:
        keys = self._unread.get(node)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._unread[node]

    def read(self, node: str) -> None:
        """The kubelet of `node` asks for something."""
        elsewhere: dict[str, int] = {}
        for key, known in self._unread.pop(node, {}).items():
            item = self._find(key)
            if item is None:
                continue
            if item.revision != known:
                pod = item.decode()
                if (pod.get("spec") or {}).get("nodeName") == node:
                    self._nodes.on_event("ADDED", pod)
                    continue
            elsewhere[key] = item.revision  # it may come here still
        if elsewhere:
            self._unread[node] = elsewhere


def _places(item: Item | None) -> set[str]:
    places: set[str] = set()
    if item is None:
        return places
    data = item.data
    at = data.find(_NODE)
    while at >= 0:
        start = at + len(_NODE)
        places.add(data[start : data.index(b'"', start)].decode())
        at = data.find(_NODE, start)
    return places
