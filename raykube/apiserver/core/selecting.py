"""Selections: what a list or a watch is about, and how they come out of the selector texts of a request."""

from dataclasses import dataclass

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.api.selectors import FieldSelector, LabelSelector, check_supported
from raykube.apiserver.core.fields import Fields
from raykube.apiserver.core.item import Item

NODE_FIELD = "spec.nodeName"
_NODE = (NODE_FIELD,)


@dataclass(slots=True)
class Selection:
    """What a list or a watch is about. Empty strings and None select everything."""

    namespace: str = ""
    name: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None
    node: str = ""  # pods: those of this node, found by an index
    nodes: frozenset[str] = frozenset()  # pods: those of any of these nodes, for one who plays many kubelets

    def matches(self, known: Fields, item: Item) -> bool:
        """Whether `item` is selected."""
        key = self.key(known.resource)
        if key:
            if item.key != key:
                return False
        elif (self.namespace and not item.key.startswith(self.namespace + "/")) or (
            self.name and item.name != self.name
        ):
            return False
        if self.node and item.fields(known, _NODE)[NODE_FIELD] != self.node:
            return False
        if self.nodes and item.fields(known, _NODE)[NODE_FIELD] not in self.nodes:
            return False
        if self.fields is not None and not self.fields.matches(item.fields(known, self.fields.names)):
            return False
        return self.labels is None or self.labels.matches(item.labels(known))

    @property
    def is_plain(self) -> bool:
        """Whether an item's key alone tells if it is selected."""
        return self.labels is None and self.fields is None and not self.node and not self.nodes

    def key(self, resource: Resource) -> str:
        """The one item's key, where the selection names it; else empty."""
        if not self.name or not resource.namespaced:
            return self.name
        return f"{self.namespace}/{self.name}" if self.namespace else ""


def selection(resource: Resource, namespace: str, labels: str, fields: str, name: str = "") -> Selection:
    """Parses and checks selectors; equalities on name, namespace and node become indexes. Raises ApiError 400."""
    try:
        label_selector = LabelSelector.parse(labels) if labels else None
    except ValueError as error:
        raise ApiError.bad_request(f"unable to parse requirement: {error}") from None
    if name:
        fields = f"{fields},metadata.name={name}" if fields else f"metadata.name={name}"
    if not fields:
        return Selection(namespace, labels=label_selector)
    field_selector = _parse(fields)
    check_supported(resource, field_selector)
    indexed = ["metadata.name"]
    if resource.namespaced and not namespace:
        indexed.append("metadata.namespace")
    if _are_pods(resource):
        indexed.append(NODE_FIELD)
    fixed, rest = field_selector.split(indexed)
    return Selection(
        namespace or fixed.get("metadata.namespace", ""),
        fixed.get("metadata.name", ""),
        label_selector,
        None if rest.everything else rest,
        fixed.get(NODE_FIELD, ""),
    )


def _are_pods(resource: Resource) -> bool:
    return (resource.group, resource.plural) == ("", "pods")


def require_pods(resource: Resource) -> None:
    """Raises ApiError 400 for a resource whose objects are on no node."""
    if not _are_pods(resource):
        raise ApiError.bad_request(f"{resource.plural} cannot be selected by nodes")


def _parse(fields: str) -> FieldSelector:
    try:
        return FieldSelector.parse(fields)
    except ValueError as error:
        raise ApiError.bad_request(str(error)) from None


def fixed_fields(fields: str) -> tuple[tuple[str, str], ...]:
    """The `field=value` terms, as authorization looks at them. Raises ApiError 400."""
    if not fields:
        return ()
    return tuple((term.field, term.value) for term in _parse(fields).requirements if not term.negated)
