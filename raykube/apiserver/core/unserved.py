"""Kinds that are not for use, of which warnings tell: those that upstream gives up, whoever asks for one, and those
that this cluster stores and on which nothing of it acts, whoever writes one.

Kinds for which upstream has nothing of its own either (an Ingress without a controller for it) are not among them.
"""

from raykube.api.resources import Resource

_NOT_ASKED = "this cluster stores it, but asks nobody: requests are neither changed nor refused by it"
_WARNINGS = {
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"): _NOT_ASKED,
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"): _NOT_ASKED,
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _NOT_ASKED,
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"): _NOT_ASKED,
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): _NOT_ASKED,
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _NOT_ASKED,
    ("apiextensions.k8s.io", "customresourcedefinitions"): (
        "this cluster does not serve custom resources: the definition is stored, and is never Established"
    ),
    ("apiregistration.k8s.io", "apiservices"): "this cluster does not serve the APIs of other servers: it is stored",
    ("autoscaling", "horizontalpodautoscalers"): (
        "this cluster has no controller of HorizontalPodAutoscalers: nothing is scaled by it"
    ),
    ("certificates.k8s.io", "certificatesigningrequests"): (
        "this cluster signs no certificates for requests: it stays without one"
    ),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"): "this cluster's apiservers do not queue requests by it",
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"): (
        "this cluster's apiservers do not queue requests by it"
    ),
    ("networking.k8s.io", "servicecidrs"): (
        "this cluster takes addresses of Services from its flag --service-cluster-ip-range alone"
    ),
}


_DEPRECATED = {
    ("", "componentstatuses"): "v1 ComponentStatus is deprecated in v1.19+",
    ("", "endpoints"): "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}


def deprecation(resource: Resource) -> str:
    """What to tell whoever asks for `resource`; "" where it is there to stay."""
    return _DEPRECATED.get((resource.group, resource.plural), "")


def warning(resource: Resource) -> str:
    """What to tell whoever writes an object of `resource`; "" where somebody acts on it."""
    return _WARNINGS.get((resource.group, resource.plural), "")
