"""Makes a `Pod` of an object as the API has it; what pods have in common they share."""

import sys
from collections.abc import Mapping
from typing import Any

from raykube.api import resource_claims
from raykube.scheduler.core import resizing
from raykube.scheduler.core.deadlines import deadline_of
from raykube.scheduler.core.gangs import membership
from raykube.scheduler.core.interference import class_of_work
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.profile import Profile
from raykube.scheduler.core.requirements import RequirementsCache
from raykube.scheduler.core.volumes import claims_of

Object = dict[str, Any]

ENDED = ("Succeeded", "Failed")
LABELS_MAX = 4096


class PodReader:
    """`profiles` by schedulerName; `fallback` for pods of other schedulers."""

    def __init__(self, profiles: Mapping[str, Profile], fallback: Profile) -> None:
        self._profiles = profiles
        self._first_profile = fallback
        self._requirements = RequirementsCache()
        self._labels: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}

    def read(self, obj: Object) -> Pod:
        metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
        owner = next((ref["uid"] for ref in metadata.get("ownerReferences") or () if ref.get("controller")), "")
        counted = resizing.counted(obj) if spec.get("nodeName") else obj
        profile = self._profiles.get(spec.get("schedulerName", ""), self._first_profile)
        return Pod(
            uid=metadata["uid"],
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            resource_version=int(metadata.get("resourceVersion") or 0),
            labels=self._shared(metadata.get("labels") or {}),
            owner=owner,
            workload=sys.intern(class_of_work(metadata)),
            priority=int(spec.get("priority") or 0),
            node=spec.get("nodeName") or "",
            terminating="deletionTimestamp" in metadata,
            ended=status.get("phase") in ENDED,
            reported=next(
                (
                    item.get("message", "")
                    for item in status.get("conditions") or ()
                    if item["type"] == "PodScheduled" and item["status"] == "False"
                ),
                "",
            ),
            needs=self._requirements.of(counted, owner, profile.name, profile.arguments),
            claims=claims_of(obj),
            nominated=status.get("nominatedNodeName") or "",
            gang=membership(obj),
            deadline=deadline_of(obj),
            devices=resource_claims.of_pod(obj) if "resourceClaims" in spec else (),
            generation=metadata.get("generation") or 0,
            started=status.get("startTime") or "",
            resizing=counted is not obj,
        )

    def _shared(self, labels: dict[str, str]) -> dict[str, str]:
        """One object for equal labels, as the pods of a workload have them: pods keep no more of what was read."""
        key = tuple(labels.items())
        known = self._labels.get(key)
        if known is None:
            if len(self._labels) >= LABELS_MAX:
                self._labels.clear()
            known = self._labels[key] = labels
        return known
