"""Administrative access to devices is for namespaces that are marked for it."""

from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import admission
from tests.apiserver.planner import Shelf
from tests.scheduler.device_objects import claim, exactly, option

Object = dict[str, Any]
CLAIMS, TEMPLATES = (builtin("resource.k8s.io/v1", kind) for kind in ("ResourceClaim", "ResourceClaimTemplate"))
REFUSAL = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label"


def shelf(**labels: str) -> Shelf:
    found = Shelf()
    found.put(("", "namespaces", "", "d"), {"metadata": {"name": "d", "labels": labels}})
    return found


def admin() -> Object:
    alternatives = [{"name": "a"} | option(), {"name": "b"} | option(adminAccess=True)]
    return claim("c", exactly("x"), {"name": "y", "firstAvailable": alternatives})


def test_a_claim_and_a_template_are_looked_through() -> None:
    template = {"metadata": {"name": "t", "namespace": "d"}, "spec": {"spec": admin()["spec"]}}
    for resource, obj in ((CLAIMS, admin()), (TEMPLATES, template)):
        with pytest.raises(ApiError, match=REFUSAL) as refused:
            admission.devices(resource, obj, shelf())
        assert refused.value.code == 422
        with pytest.raises(ApiError, match=REFUSAL):
            admission.devices(resource, obj, shelf(**{admission.ADMIN_ACCESS: "yes"}))
        admission.devices(resource, obj, shelf(**{admission.ADMIN_ACCESS: "true"}))


def test_others_need_no_mark() -> None:
    admission.devices(CLAIMS, claim("c", exactly()), shelf())
