"""Rows of who may do what: role bindings, certificate requests, admission, flow control.

Roles have the default columns."""

from typing import Any

from raykube.api.table.ages import human_duration, object_age
from raykube.api.table.columns import (
    AGE,
    NAME,
    NONE,
    UNSET,
    Object,
    Printer,
    name_of,
    named_and_aged,
    number,
    spec,
    status,
    text,
)


def _subjects(obj: Object, kind: str) -> str:
    names = []
    for subject in obj.get("subjects") or ():
        if subject.get("kind") == kind:
            name = subject.get("name", "")
            names.append(f"{subject.get('namespace', '')}/{name}" if kind == "ServiceAccount" else name)
    return ", ".join(names)


def _binding(obj: Object, now: float) -> list[Any]:
    role = obj.get("roleRef") or {}
    return [
        name_of(obj),
        f"{role.get('kind', '')}/{role.get('name', '')}",
        object_age(obj, now),
        _subjects(obj, "User"),
        _subjects(obj, "Group"),
        _subjects(obj, "ServiceAccount"),
    ]


def _bindings(about: str) -> Printer:
    return Printer(
        (
            NAME,
            text("Role", f"{about}:roleRef"),
            AGE,
            text("Users", f"Users in the {about.rpartition('.')[2]}", wide=True),
            text("Groups", f"Groups in the {about.rpartition('.')[2]}", wide=True),
            text("ServiceAccounts", f"ServiceAccounts in the {about.rpartition('.')[2]}", wide=True),
        ),
        _binding,
    )


def _certificate_state(obj: Object) -> str:
    types = {each.get("type") for each in status(obj).get("conditions") or ()}
    words = ["Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"]
    if "Failed" in types:
        words.append("Failed")
    if status(obj).get("certificate"):
        words.append("Issued")
    return ",".join(words)


def _certificate_request(obj: Object, now: float) -> list[Any]:
    wanted = spec(obj)
    seconds = wanted.get("expirationSeconds")
    return [
        name_of(obj),
        object_age(obj, now),
        wanted.get("signerName") or NONE,
        wanted.get("username", ""),
        NONE if seconds is None else human_duration(seconds),
        _certificate_state(obj),
    ]


def _param_kind(obj: Object) -> str:
    kind = spec(obj).get("paramKind")
    return f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else UNSET


def _param_ref(obj: Object) -> str:
    reference = spec(obj).get("paramRef")
    if not reference:
        return UNSET
    name, space = reference.get("name") or "*", reference.get("namespace")
    return f"{space}/{name}" if space else name


def _flow_schema(obj: Object, now: float) -> list[Any]:
    wanted = spec(obj)
    dangling: Object = next(
        (each for each in status(obj).get("conditions") or () if each.get("type") == "Dangling"), {}
    )
    return [
        name_of(obj),
        (wanted.get("priorityLevelConfiguration") or {}).get("name", NONE),
        wanted.get("matchingPrecedence", 0),
        (wanted.get("distinguisherMethod") or {}).get("type", NONE),
        object_age(obj, now),
        dangling.get("status", "?"),
    ]


def _priority_level(obj: Object, now: float) -> list[Any]:
    wanted = spec(obj)
    limited = wanted.get("limited") or wanted.get("exempt") or {}
    queuing = ((wanted.get("limited") or {}).get("limitResponse") or {}).get("queuing") or {}
    return [
        name_of(obj),
        wanted.get("type", ""),
        limited.get("nominalConcurrencyShares", NONE),
        *(queuing.get(each, NONE) for each in ("queues", "handSize", "queueLengthLimit")),
        object_age(obj, now),
    ]


def _webhooks(about: str) -> Printer:
    return named_and_aged(
        (number("Webhooks", f"admissionregistration.v1.{about}:webhooks"), lambda obj: len(obj.get("webhooks") or ()))
    )


_LIMITED = "flowcontrol.v1.LimitedPriorityLevelConfiguration"
_RBAC, _ADMISSION, _FLOW = "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "flowcontrol.apiserver.k8s.io"

PRINTERS = {
    (_RBAC, "rolebindings"): _bindings("rbac.v1.RoleBinding"),
    (_RBAC, "clusterrolebindings"): _bindings("rbac.v1.ClusterRoleBinding"),
    ("certificates.k8s.io", "certificatesigningrequests"): Printer(
        (
            NAME,
            AGE,
            text("SignerName", "certificates.v1.CertificateSigningRequestSpec:signerName"),
            text("Requestor", "certificates.v1.CertificateSigningRequestSpec:request"),
            text("RequestedDuration", "certificates.v1.CertificateSigningRequestSpec:expirationSeconds"),
            text("Condition", "certificates.v1.CertificateSigningRequestStatus:conditions"),
        ),
        _certificate_request,
    ),
    (_ADMISSION, "validatingwebhookconfigurations"): _webhooks("ValidatingWebhookConfiguration"),
    (_ADMISSION, "mutatingwebhookconfigurations"): _webhooks("MutatingWebhookConfiguration"),
    (_ADMISSION, "validatingadmissionpolicies"): named_and_aged(
        (
            number("Validations", "Validations indicates the number of validation rules defined in this configuration"),
            lambda obj: len(spec(obj).get("validations") or ()),
        ),
        (text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"), _param_kind),
    ),
    (_ADMISSION, "validatingadmissionpolicybindings"): named_and_aged(
        (
            text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
            lambda obj: spec(obj).get("policyName", ""),
        ),
        (text("ParamRef", "ParamRef indicates the param resource which sets the configration param"), _param_ref),
    ),
    (_FLOW, "flowschemas"): Printer(
        (
            NAME,
            text("PriorityLevel", "flowcontrol.v1.FlowSchemaSpec:priorityLevelConfiguration"),
            number("MatchingPrecedence", "flowcontrol.v1.FlowSchemaSpec:matchingPrecedence"),
            text("DistinguisherMethod", "flowcontrol.v1.FlowSchemaSpec:distinguisherMethod"),
            AGE,
            text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
        ),
        _flow_schema,
    ),
    (_FLOW, "prioritylevelconfigurations"): Printer(
        (
            NAME,
            text("Type", "flowcontrol.v1.PriorityLevelConfigurationSpec:type"),
            number("NominalConcurrencyShares", f"{_LIMITED}:nominalConcurrencyShares"),
            number("Queues", "flowcontrol.v1.QueuingConfiguration:queues"),
            number("HandSize", "flowcontrol.v1.QueuingConfiguration:handSize"),
            number("QueueLengthLimit", "flowcontrol.v1.QueuingConfiguration:queueLengthLimit"),
            AGE,
        ),
        _priority_level,
    ),
}
