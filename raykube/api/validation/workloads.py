"""Controllers of pods: their templates, selectors, strategies, and what of them never changes."""

from dataclasses import replace
from typing import Any

from raykube.api.cron import schedule_problem, zone
from raykube.api.errors import Cause, forbidden_field, invalid_value, not_supported, required
from raykube.api.label_selectors import LabelSelector
from raykube.api.validation.metadata import check_selector, is_empty_selector
from raykube.api.validation.names import IMMUTABLE, NOT_NEGATIVE, dns_label
from raykube.api.validation.pod import check_template
from raykube.api.validation.storage import check_claim
from raykube.api.validation.values import (
    check_at_most_all,
    check_choice,
    check_choice_if_set,
    check_not_negative,
    check_number_or_percent,
    check_text,
    is_zero,
)

Object = dict[str, Any]

_INDEXED_COMPLETIONS_MAX = 10**5


def check_deployment(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = check_not_negative(spec, "spec", "replicas")
    causes += _check_selected_template(spec, "deployment")
    causes += _check_strategy(spec.get("strategy") or {})
    causes += check_not_negative(spec, "spec", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and 0 <= deadline <= (spec.get("minReadySeconds") or 0):
        causes.append(invalid_value("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"))
    return causes


def check_replica_set(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = check_not_negative(spec, "spec", "replicas", "minReadySeconds")
    return causes + _check_selected_template(spec, "deployment")  # upstream says so for both


def check_replication_controller(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = check_not_negative(spec, "spec", "minReadySeconds", "replicas")
    selector = spec.get("selector") or {}
    if not selector:
        causes.append(required("spec.selector"))
    template = spec.get("template")
    if template is None:
        return [*causes, required("spec.template")]
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector and not selector.items() <= labels.items():
        text = "`selector` does not match template `labels`"
        causes.append(invalid_value("spec.template.metadata.labels", labels, text))
    causes += check_template(template, "spec.template")
    return causes + _check_always(template)


def check_stateful_set(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = _check_either(spec.get("podManagementPolicy"), "spec.podManagementPolicy", "OrderedReady", "Parallel")
    causes += _check_stateful_update(spec.get("updateStrategy") or {})
    policy, path = spec.get("persistentVolumeClaimRetentionPolicy") or {}, "spec.persistentVolumeClaimRetentionPolicy"
    for when in ("whenDeleted", "whenScaled"):
        causes += check_choice_if_set(policy.get(when), f"{path}.{when}", ("Delete", "Retain"))
    causes += check_not_negative(spec, "spec", "replicas", "minReadySeconds", "revisionHistoryLimit")
    causes += check_not_negative(spec.get("ordinals") or {}, "spec.ordinals", "start")
    causes += check_text(spec.get("serviceName"), "spec.serviceName", dns_label)
    claims = spec.get("volumeClaimTemplates") or []
    for index, claim in enumerate(claims):
        causes += [
            replace(cause, field=f"spec.volumeClaimTemplates[{index}].{cause.field}") for cause in check_claim(claim)
        ]
    return causes + _check_selected_template(_with_claims_mounted(spec, claims), "statefulset", owner="StatefulSet")


def _check_stateful_update(strategy: Object) -> list[Cause]:
    kind, path = strategy.get("type"), "spec.updateStrategy"
    rolling = strategy.get("rollingUpdate")
    if kind == "OnDelete" and rolling is not None:
        return [invalid_value(f"{path}.rollingUpdate", rolling, "only allowed for updateStrategy 'RollingUpdate'")]
    if kind not in ("RollingUpdate", "OnDelete"):
        return [invalid_value(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")] if kind else [required(path)]
    causes = check_not_negative(rolling or {}, f"{path}.rollingUpdate", "partition")
    most, place = (rolling or {}).get("maxUnavailable"), f"{path}.rollingUpdate.maxUnavailable"
    if most is None:
        return causes
    causes += check_number_or_percent(most, place)
    if is_zero(most):
        causes.append(invalid_value(place, most, "cannot be 0"))
    return causes + check_at_most_all(most, place)


def _check_either(value: Any, path: str, first: str, second: str) -> list[Cause]:
    if value in (first, second):
        return []
    return [invalid_value(path, value, f"must be '{first}' or '{second}'")] if value else [required(path)]


def _with_claims_mounted(spec: Object, claims: list[Object]) -> Object:
    """The spec with a volume for each claim template, as its pods will have: containers may mount them."""
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    volumes = inner.get("volumes") or []
    names = [(claim.get("metadata") or {}).get("name") for claim in claims]
    taken = {volume.get("name") for volume in volumes}
    added = [{"name": name, "emptyDir": {}} for name in dict.fromkeys(names) if name and name not in taken]
    if not added:
        return spec
    return {**spec, "template": {**template, "spec": {**inner, "volumes": [*volumes, *added]}}}


def check_daemon_set(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = _check_selected_template(spec, "daemonset")
    causes += check_not_negative(spec, "spec", "minReadySeconds")
    strategy = spec.get("updateStrategy") or {}
    causes += check_choice_if_set(strategy.get("type"), "spec.updateStrategy.type", ("RollingUpdate", "OnDelete"))
    if strategy.get("type") == "RollingUpdate":
        rolling, path = strategy.get("rollingUpdate") or {}, "spec.updateStrategy.rollingUpdate"
        for name in ("maxUnavailable", "maxSurge"):
            causes += check_number_or_percent(rolling.get(name), f"{path}.{name}")
            causes += check_at_most_all(rolling.get(name), f"{path}.{name}")
        if is_zero(rolling.get("maxUnavailable")) and is_zero(rolling.get("maxSurge")):
            text = "cannot be 0 when maxSurge is 0"
            causes.append(required(f"{path}.maxUnavailable", text))
        elif not is_zero(rolling.get("maxUnavailable")) and not is_zero(rolling.get("maxSurge")):
            text = "may not be set when maxUnavailable is non-zero"
            causes.append(invalid_value(f"{path}.maxSurge", rolling.get("maxSurge"), text))
    return causes + check_not_negative(spec, "spec", "revisionHistoryLimit")


def check_revision(obj: Object) -> list[Cause]:
    """ControllerRevisions."""
    causes = [] if obj.get("data") is not None else [required("data", "data is mandatory")]
    revision = obj.get("revision") or 0
    return causes + ([invalid_value("revision", revision, NOT_NEGATIVE)] if revision < 0 else [])


def _check_selected_template(spec: Object, kind: str, owner: str = "ReplicaSet") -> list[Cause]:
    """The selector, the template, and that one selects the other."""
    causes: list[Cause] = []
    selector = spec.get("selector")
    if selector is None:
        causes.append(required("spec.selector"))
    else:
        causes += check_selector(selector, "spec.selector")
        if is_empty_selector(selector):
            causes.append(invalid_value("spec.selector", selector, f"empty selector is invalid for {kind}"))
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not _selects(selector, labels) and not (causes and selector is not None):
        text = "`selector` does not match template `labels`"
        causes.append(invalid_value("spec.template.metadata.labels", labels or None, text))
    causes += check_template(template, "spec.template")
    causes += _check_always(template)
    if "activeDeadlineSeconds" in (template.get("spec") or {}):
        text = f"activeDeadlineSeconds in {owner} is not Supported"
        causes.append(forbidden_field("spec.template.spec.activeDeadlineSeconds", text))
    return causes


def _selects(selector: Any, labels: dict[str, str]) -> bool:
    try:
        return bool(LabelSelector.from_object(selector).matches(labels))
    except ValueError:
        return False


def _check_always(template: Object) -> list[Cause]:
    policy = (template.get("spec") or {}).get("restartPolicy")
    if policy in (None, "Always"):
        return []
    return [not_supported("spec.template.spec.restartPolicy", policy, ["Always"])]


def _check_strategy(strategy: Object) -> list[Cause]:
    path = "spec.strategy"
    causes = check_choice(strategy.get("type"), f"{path}.type", ("Recreate", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling is not None:
        text = "may not be specified when strategy `type` is 'Recreate'"
        causes.append(forbidden_field(f"{path}.rollingUpdate", text))
    elif strategy.get("type") == "RollingUpdate":
        rolling = rolling or {}
        for name in ("maxUnavailable", "maxSurge"):
            causes += check_number_or_percent(rolling.get(name), f"{path}.rollingUpdate.{name}")
        if is_zero(rolling.get("maxUnavailable")) and is_zero(rolling.get("maxSurge")):
            text = "may not be 0 when `maxSurge` is 0"
            field = f"{path}.rollingUpdate.maxUnavailable"
            causes.append(invalid_value(field, rolling.get("maxUnavailable", 0), text))
        causes += check_at_most_all(rolling.get("maxUnavailable"), f"{path}.rollingUpdate.maxUnavailable")
    return causes


# -- jobs


def check_job(obj: Object) -> list[Cause]:
    causes = check_job_spec(obj.get("spec") or {}, "spec")
    spec = obj.get("spec") or {}
    selector, template = spec.get("selector"), spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector is None:
        causes.append(required("spec.selector"))
    elif not _selects(selector, labels):
        text = "`selector` does not match template `labels`"
        causes.append(invalid_value("spec.template.metadata.labels", labels or None, text))
    return causes


def check_job_spec(spec: Object, path: str) -> list[Cause]:
    """A job's spec, also inside a CronJob, where it has no selector yet."""
    causes = check_not_negative(
        spec, path, "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"
    )
    causes += check_not_negative(spec, path, "backoffLimitPerIndex", "maxFailedIndexes")
    mode = spec.get("completionMode")
    causes += check_choice_if_set(mode, f"{path}.completionMode", ("NonIndexed", "Indexed"))
    if mode == "Indexed":
        if spec.get("completions") is None:
            causes.append(required(f"{path}.completions", "when completion mode is Indexed"))
        if (spec.get("parallelism") or 0) > _INDEXED_COMPLETIONS_MAX:
            text = f"must be less than or equal to {_INDEXED_COMPLETIONS_MAX} when completion mode is Indexed"
            causes.append(invalid_value(f"{path}.parallelism", spec["parallelism"], text))
    elif "backoffLimitPerIndex" in spec:
        text = "requires indexed completion mode"
        causes.append(invalid_value(f"{path}.backoffLimitPerIndex", spec["backoffLimitPerIndex"], text))
    causes += check_choice_if_set(
        spec.get("podReplacementPolicy"), f"{path}.podReplacementPolicy", ("Failed", "TerminatingOrFailed")
    )
    template = spec.get("template") or {}
    causes += check_template(template, f"{path}.template")
    policy = (template.get("spec") or {}).get("restartPolicy")
    field = f"{path}.template.spec.restartPolicy"
    if policy in (None, "", "Always"):
        causes.append(required(field, 'valid values: "OnFailure", "Never"'))
    elif policy not in ("OnFailure", "Never"):
        causes.append(not_supported(field, policy, ["OnFailure", "Never"]))
    elif policy == "OnFailure" and spec.get("podFailurePolicy"):
        text = 'only "Never" is supported when podFailurePolicy is specified'
        causes.append(invalid_value(field, policy, text))
    return causes


def check_cron_job(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    schedule = spec.get("schedule") or ""
    if not schedule:
        causes.append(required("spec.schedule"))
    elif schedule.startswith(("TZ=", "CRON_TZ=")):
        text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        causes.append(invalid_value("spec.schedule", schedule, text))
    elif problem := schedule_problem(schedule):
        causes.append(invalid_value("spec.schedule", schedule, problem))
    causes += _check_time_zone(spec.get("timeZone"))
    causes += check_not_negative(spec, "spec", "startingDeadlineSeconds")
    causes += check_choice(spec.get("concurrencyPolicy"), "spec.concurrencyPolicy", ("Allow", "Forbid", "Replace"))
    causes += check_not_negative(spec, "spec", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    if job.get("manualSelector"):
        supported = ["nil", "false"]
        causes.append(not_supported("spec.jobTemplate.spec.manualSelector", True, supported))
    if job.get("selector") is not None:
        text = "`selector` will be auto-generated"
        causes.append(invalid_value("spec.jobTemplate.spec.selector", job["selector"], text))
    return causes + check_job_spec(job, "spec.jobTemplate.spec")


def _check_time_zone(name: str | None) -> list[Cause]:
    if name is None:
        return []
    if not name:
        return [invalid_value("spec.timeZone", name, "timeZone must be nil or non-empty string")]
    if name.lower() == "local":
        text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        return [invalid_value("spec.timeZone", name, text)]
    try:
        zone(name)
    except ValueError as error:
        return [invalid_value("spec.timeZone", name, str(error))]
    return []


# -- updates


def check_selector_update(new: Object, old: Object) -> list[Cause]:
    """Deployments, replica sets, daemon sets: the selector stays."""
    return _same(new, old, "selector")


def _same(new: Object, old: Object, *names: str) -> list[Cause]:
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    return [
        invalid_value(f"spec.{name}", wanted.get(name), IMMUTABLE)
        for name in names
        if wanted.get(name) != stored.get(name)
    ]


def check_revision_update(new: Object, old: Object) -> list[Cause]:
    """What a revision holds stays; its number may change."""
    data = new.get("data")
    return [] if data == old.get("data") else [invalid_value("data", data, IMMUTABLE)]


_STATEFUL_SET_MUTABLE = frozenset(
    (
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    )
)


def check_stateful_set_update(new: Object, old: Object) -> list[Cause]:
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    names = {*wanted, *stored} - _STATEFUL_SET_MUTABLE
    if all(wanted.get(name) == stored.get(name) for name in names):
        return []
    text = (
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
        "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    )
    return [forbidden_field("spec", text)]


_SUSPENDED_MUTABLE = ("nodeSelector", "affinity", "tolerations", "schedulingGates", "topologySpreadConstraints")


def check_job_update(new: Object, old: Object) -> list[Cause]:
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    causes: list[Cause] = []
    elastic = wanted.get("completionMode") == "Indexed" and wanted.get("completions") == wanted.get("parallelism")
    if not elastic:
        causes += _same(new, old, "completions")
    causes += _same(new, old, "selector")
    if _frozen_template(wanted, stored) != _frozen_template(stored, stored):
        causes.append(invalid_value("spec.template", wanted.get("template"), IMMUTABLE))
    return causes + _same(new, old, "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy")


def _frozen_template(spec: Object, stored: Object) -> Object:
    """The part of a job's template that may not change: where its pods go may, before the first has started."""
    template: Object = spec.get("template") or {}
    if not stored.get("suspend"):
        return template
    inner = template.get("spec") or {}
    frozen = {name: value for name, value in inner.items() if name not in _SUSPENDED_MUTABLE}
    return {"spec": frozen}
