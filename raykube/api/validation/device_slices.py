"""ResourceSlices: what a driver may say of its devices, and where they are."""

from typing import Any

from raykube.api import quantity
from raykube.api.cel_values import is_semver
from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, required, too_long, too_many
from raykube.api.labels import key_errors, value_errors
from raykube.api.validation.devices import EFFECTS, check_driver, check_pool, check_qualified
from raykube.api.validation.names import IMMUTABLE, dns_label, dns_subdomain
from raykube.api.validation.values import check_choice, check_required_text, check_text

Object = dict[str, Any]

DEVICES_MAX, DEVICES_WITH_MORE_MAX = 128, 64  # with taints or counters there are fewer
COUNTER_SETS_MAX = 8
COUNTERS_MAX = 32
CONSUMED_SETS_MAX = 2
FACTS_MAX = 32  # attributes and capacities of a device
TEXT_LENGTH_MAX = 64
TAINTS_MAX = 16
VALID_VALUES_MAX = 10
SET_OR_TRUE = "must be either unset or set to true"
PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
ONE_PLACE = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
ONE_DEVICE_PLACE = (
    "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true "
    "in the ResourceSlice spec"
)
NO_DEVICE_PLACE = (
    "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the "
    "ResourceSlice spec"
)


def check_slice(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = check_driver(spec.get("driver"), "spec.driver") + _check_pool(spec.get("pool") or {})
    causes += _check_place(spec, "spec", PLACES, ONE_PLACE, f"{ONE_PLACE}, but multiple fields are set")
    if spec.get("sharedCounters") is not None and spec.get("devices") is not None:
        causes.append(invalid_value("spec", "", "only one of `sharedCounters` or `devices` is allowed"))
    return (
        causes
        + _check_devices(spec)
        + _check_counter_sets(spec.get("sharedCounters") or [], "spec.sharedCounters", "name", COUNTER_SETS_MAX)
    )


def check_slice_update(new: Object, old: Object) -> list[Cause]:
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    pool, pool_before = spec.get("pool") or {}, before.get("pool") or {}
    causes = []
    if pool.get("name") != pool_before.get("name"):
        causes.append(invalid_value("spec.pool.name", pool.get("name"), IMMUTABLE))
    changed = [name for name in ("driver", "nodeName") if spec.get(name) != before.get(name)]
    return causes + [invalid_value(f"spec.{name}", spec.get(name), IMMUTABLE) for name in changed]


def _check_pool(pool: Object) -> list[Cause]:
    causes = check_pool(pool.get("name"), "spec.pool.name")
    count, generation = pool.get("resourceSliceCount") or 0, pool.get("generation") or 0
    if count <= 0:
        causes.append(invalid_value("spec.pool.resourceSliceCount", count, "must be greater than zero"))
    if generation < 0:
        text = "must be greater than or equal to zero"
        causes.append(invalid_value("spec.pool.generation", generation, text))
    return causes


def _check_place(owner: Object, path: str, names: tuple[str, ...], none: str, several: str) -> list[Cause]:
    causes: list[Cause] = []
    given = []
    for name in names:
        value = owner.get(name)
        if value is None:
            continue
        at = f"{path}.{name}"
        if name == "nodeName":
            if not value:
                causes.append(invalid_value(at, value, "must be either unset or set to a non-empty string"))
                continue
            causes += [invalid_value(at, value, error) for error in dns_subdomain(value)]
        elif name == "nodeSelector":
            terms = value.get("nodeSelectorTerms") or []
            if len(terms) != 1:
                text = "must have exactly one node selector term"
                causes.append(invalid_value(f"{at}.nodeSelectorTerms", terms, text))
        elif value is False:
            causes.append(invalid_value(at, value, SET_OR_TRUE))
            continue
        given.append(f"`{name}`")
    if not given:
        causes.append(required(path, none))
    elif len(given) > 1:
        causes.append(invalid_value(path, "{" + ", ".join(given) + "}", several))
    return causes


def _check_devices(spec: Object) -> list[Cause]:
    devices, path = spec.get("devices") or [], "spec.devices"
    has_more = any(one.get("taints") or one.get("consumesCounters") for one in devices)
    count_max = DEVICES_WITH_MORE_MAX if has_more else DEVICES_MAX
    causes: list[Cause] = [] if len(devices) <= count_max else [too_many(path, len(devices), count_max)]
    seen: set[str] = set()
    for index, one in enumerate(devices):
        at, name = f"{path}[{index}]", one.get("name") or ""
        causes += check_required_text(name, f"{at}.name", dns_label) + _check_facts(one, at)
        if name in seen:
            causes.append(duplicate(f"{at}.name", name))
        seen.add(name)
        if spec.get("perDeviceNodeSelection"):
            causes += _check_place(one, at, PLACES[:3], ONE_DEVICE_PLACE, ONE_DEVICE_PLACE)
        elif any(one.get(place) is not None for place in PLACES[:3]):
            causes.append(invalid_value(at, None, NO_DEVICE_PLACE))
        causes += _check_taints(one.get("taints") or [], f"{at}.taints")
        causes += _check_counter_sets(
            one.get("consumesCounters") or [], f"{at}.consumesCounters", "counterSet", CONSUMED_SETS_MAX
        )
    return causes


def _check_facts(device: Object, path: str) -> list[Cause]:
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    causes: list[Cause] = []
    if (count := len(attributes) + len(capacity)) > FACTS_MAX:
        text = f"the total number of attributes and capacities must not exceed {FACTS_MAX}"
        causes.append(invalid_value(path, count, text))
    for name, value in attributes.items():
        at = f"{path}.attributes[{name}]"
        causes += check_qualified(name, at)
        given = {kind: each for kind, each in value.items() if each is not None}
        if len(given) != 1:
            causes.append(invalid_value(at, value or "", "exactly one value must be specified"))
        for kind in ("string", "version"):
            text = given.get(kind) or ""
            if kind == "version" and kind in given and not is_semver(text):
                rule = "must be a string compatible with semver.org spec 2.0.0"
                causes.append(invalid_value(f"{at}.version", text, rule))
            if len(text.encode()) > TEXT_LENGTH_MAX:
                causes.append(too_long(f"{at}.{kind}", TEXT_LENGTH_MAX))
    for name, value in capacity.items():
        at = f"{path}.capacity[{name}]"
        causes += check_qualified(name, at)
        policy = value.get("requestPolicy")
        if policy is not None and not device.get("allowMultipleAllocations"):
            causes.append(forbidden_field(f"{at}.requestPolicy", "allowMultipleAllocations must be true"))
        elif policy is not None:
            causes += _check_policy(policy, value.get("value") or "0", f"{at}.requestPolicy")
    return causes


def _check_policy(policy: Object, capacity: str, path: str) -> list[Cause]:
    """What may be asked for of a capacity that claims share, and what who asks for nothing gets."""
    values, limits, default = policy.get("validValues") or [], policy.get("validRange"), policy.get("default")
    if values and limits is not None:
        text = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        return [forbidden_field(path, text)]
    name = "validValues" if values else "validRange"
    if not values and limits is None:
        return []
    if default is None:
        return [required(f"{path}.default", f"required when {name} is defined")]
    check = _check_values(values, default, capacity, f"{path}.{name}")
    return check if values else _check_range(limits or {}, default, capacity, f"{path}.{name}")


def _check_values(values: list[str], default: str, capacity: str, path: str) -> list[Cause]:
    causes = []
    for index in range(1, len(values)):
        if quantity.parse(values[index - 1]) > quantity.parse(values[index]):
            text = "values must be sorted in ascending order"
            causes.append(invalid_value(f"{path}[{index}]", quantity.canonical(values[index]), text))
    if len(values) > VALID_VALUES_MAX:
        return [*causes, too_many(path, len(values), VALID_VALUES_MAX)]
    seen: set[int] = set()
    for index, one in enumerate(values):
        if quantity.parse(one) > quantity.parse(capacity):
            text = f"option is larger than capacity value: {quantity.canonical(capacity)}"
            causes.append(invalid_value(f"{path}[{index}]", quantity.canonical(one), text))
        if (whole := quantity.value(one)) in seen:
            causes.append(duplicate(f"{path}[{index}]", str(whole)))
        seen.add(whole)
    if quantity.parse(default) not in map(quantity.parse, values):
        text = "default value is not valid according to the requestPolicy"
        causes.append(invalid_value(path, quantity.canonical(default), text))
    return causes


def _check_range(limits: Object, default: str, capacity: str, path: str) -> list[Cause]:
    least, most, step = limits.get("min"), limits.get("max"), limits.get("step")
    if least is None:
        return [required(f"{path}.min", "required when validRange is defined")]
    causes: list[Cause] = []

    def at_most(field: str, name: str, value: str, bound_name: str, bound: str) -> None:
        if quantity.parse(value) > quantity.parse(bound):
            text = f"{name} is larger than {bound_name}: {quantity.canonical(bound)}"
            causes.append(invalid_value(f"{path}.{field}", quantity.canonical(value), text))

    at_most("min", "min", least, "capacity value", capacity)
    if quantity.parse(default) < quantity.parse(least):
        text = f"default is less than min: {quantity.canonical(least)}"
        causes.append(invalid_value(f"{path}.min", quantity.canonical(default), text))
    if most is not None:
        at_most("max", "min", least, "max", most)
        at_most("max", "max", most, "capacity value", capacity)
        if quantity.parse(default) > quantity.parse(most):
            text = f"default is more than max: {quantity.canonical(most)}"
            causes.append(invalid_value(f"{path}.max", quantity.canonical(default), text))
    if step is None:
        return causes
    if quantity.parse(step) <= 0:
        return [*causes, invalid_value(f"{path}.step", quantity.canonical(step), "must be greater than zero")]
    added = quantity.add(least, step)
    if quantity.parse(added) > quantity.parse(capacity):
        text = f"one step {added} is larger than capacity value: {quantity.canonical(capacity)}"
        causes.append(invalid_value(f"{path}.step", quantity.canonical(step), text))
    for value in (default, most):
        # In whole units, as upstream counts them.
        if value is not None and (quantity.value(value) - quantity.value(least)) % quantity.value(step):
            given, first = quantity.canonical(step), quantity.canonical(least)
            text = f"value is not a multiple of a given step ({given}) from ({first})"
            causes.append(invalid_value(f"{path}.step", quantity.canonical(value), text))
    return causes


def _check_taints(taints: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = [] if len(taints) <= TAINTS_MAX else [too_many(path, len(taints), TAINTS_MAX)]
    for index, one in enumerate(taints):
        at = f"{path}[{index}]"
        key = one.get("key") or ""
        causes += [invalid_value(f"{at}.key", key, error) for error in key_errors(key)]
        causes += check_text(one.get("value"), f"{at}.value", value_errors)
        causes += check_choice(one.get("effect"), f"{at}.effect", EFFECTS)
    return causes


def _check_counter_sets(sets: list[Object], path: str, name_field: str, most: int) -> list[Cause]:
    """What a pool has, or a device consumes, of counters; `name_field` names the set, once each."""
    causes: list[Cause] = [] if len(sets) <= most else [too_many(path, len(sets), most)]
    seen: set[str] = set()
    for index, one in enumerate(sets):
        at, name = f"{path}[{index}]", one.get(name_field) or ""
        causes += check_required_text(name, f"{at}.{name_field}", dns_label)
        if name in seen:
            causes.append(duplicate(f"{at}.{name_field}", name))
        seen.add(name)
        causes += _check_counters(one.get("counters") or {}, f"{at}.counters")
    return causes


def _check_counters(counters: Object, path: str) -> list[Cause]:
    if not counters:
        return [required(path)]
    causes: list[Cause] = [] if len(counters) <= COUNTERS_MAX else [too_many(path, len(counters), COUNTERS_MAX)]
    for name in counters:
        causes += [invalid_value(f"{path}[{name}]", name, error) for error in dns_label(name)]
    return causes
