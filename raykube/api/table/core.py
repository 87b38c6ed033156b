"""Rows of the rest of the core group: Namespaces, ConfigMaps, Secrets, ServiceAccounts, Events, Leases, quotas."""

from typing import Any

from raykube.api.table.ages import age, object_age
from raykube.api.table.columns import (
    AGE,
    CREATED_AT,
    NAME,
    Column,
    Object,
    Printer,
    name_of,
    named_and_aged,
    number,
    spec,
    status,
    text,
)


def named_and_dated(obj: Object, now: float) -> list[Any]:
    """The cells of kinds that have no columns of their own."""
    return [name_of(obj), obj.get("metadata", {}).get("creationTimestamp") or "<unknown>"]


DEFAULT = Printer((NAME, CREATED_AT), named_and_dated)


def _event_source(event: Object) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    component = source.get("component") or event.get("reportingComponent") or event.get("reportingController") or ""
    host = source.get("host") or event.get("reportingInstance")
    return f"{component}, {host}" if host else component


def _event(obj: Object, now: float) -> list[Any]:
    """An Event of either shape: core/v1 or events.k8s.io/v1."""
    subject = obj.get("involvedObject") or obj.get("regarding") or {}
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    count = obj.get("count") or obj.get("deprecatedCount") or 1
    if series:
        last, count = series.get("lastObservedTime"), series.get("count", 0)
    kind, name = subject.get("kind", "").lower(), subject.get("name")
    return [
        age(last, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{name}" if name else kind,
        subject.get("fieldPath", ""),
        _event_source(obj),
        (obj.get("message") or obj.get("note") or "").strip(),
        age(first, now),
        count,
        name_of(obj),
    ]


_EVENTS = Printer(
    (
        text("Last Seen", "core.v1.Event:lastTimestamp"),
        text("Type", "core.v1.Event:type"),
        text("Reason", "core.v1.Event:reason"),
        text("Object", "core.v1.Event:involvedObject"),
        text("Subobject", "core.v1.ObjectReference:fieldPath", wide=True),
        text("Source", "core.v1.Event:source", wide=True),
        text("Message", "core.v1.Event:message"),
        text("First Seen", "core.v1.Event:firstTimestamp", wide=True),
        number("Count", "core.v1.Event:count", wide=True),
        Column("Name", NAME.about, format="name", priority=1),
    ),
    _event,
)


def _quota(obj: Object, now: float) -> list[Any]:
    hard, used = status(obj).get("hard") or {}, status(obj).get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for name in sorted(hard):
        part = f"{name}: {used.get(name, 0)}/{hard[name]}"
        (limits if name.startswith("limits.") else requests).append(part)
    return [name_of(obj), ", ".join(requests), ", ".join(limits), object_age(obj, now)]


def _component(obj: Object, now: float) -> list[Any]:
    healthy: Object = next((each for each in obj.get("conditions") or () if each.get("type") == "Healthy"), {})
    state = {"True": "Healthy", "False": "Unhealthy"}.get(healthy.get("status", ""), "Unknown")
    return [name_of(obj), state, healthy.get("message", ""), healthy.get("error", "")]


PRINTERS = {
    ("", "namespaces"): named_and_aged(
        (text("Status", "The status of the namespace"), lambda obj: status(obj).get("phase", ""))
    ),
    ("", "configmaps"): named_and_aged(
        (
            number("Data", "core.v1.ConfigMap:data"),
            lambda obj: len(obj.get("data") or ()) + len(obj.get("binaryData") or ()),
        )
    ),
    ("", "secrets"): named_and_aged(
        (text("Type", "core.v1.Secret:type"), lambda obj: obj.get("type", "Opaque")),
        (number("Data", "core.v1.Secret:data"), lambda obj: len(obj.get("data") or ())),
    ),
    ("", "serviceaccounts"): named_and_aged(
        (number("Secrets", "core.v1.ServiceAccount:secrets"), lambda obj: len(obj.get("secrets") or ()))
    ),
    ("", "events"): _EVENTS,
    ("events.k8s.io", "events"): _EVENTS,
    ("", "resourcequotas"): Printer(
        (
            NAME,
            text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
            text("Limit", "Limits control the maximum amount of cpu/memory that a container may use."),
            AGE,
        ),
        _quota,
    ),
    ("", "componentstatuses"): Printer(
        (
            NAME,
            text("Status", "Status of the component conditions"),
            text("Message", "Message of the component conditions"),
            text("Error", "Error of the component conditions"),
        ),
        _component,
    ),
    ("coordination.k8s.io", "leases"): named_and_aged(
        (text("Holder", "coordination.v1.LeaseSpec:holderIdentity"), lambda obj: spec(obj).get("holderIdentity") or "")
    ),
}
