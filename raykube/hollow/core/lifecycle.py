"""The stages of a pod's life, as a file describes them.

    Lifecycle   which pods it is for, their stages, and how they stop
    Stage       what the pod's containers look like, for how long, and what comes then

The file's form is described at the top of `raykube/hollow/lifecycle.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raykube.base.duration import parse_duration
from raykube.hollow.core.chance import Delay

STATES = ("", "waiting", "running", "terminated")
ANNOTATION = "hollow.raykube.io/lifecycle"
RESTART_POLICIES = ("Always", "OnFailure", "Never")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `then`: (upper bound of the share in [0, 1], index of the stage); empty: it is the last."""

    name: str
    index: int
    state: str = ""
    ready: bool = True
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    delay: Delay | None = None
    then: tuple[tuple[float, int], ...] = ()

    @property
    def only(self) -> int | None:
        """The one stage that can follow; None when there are several."""
        return self.then[0][1] if len(self.then) == 1 else None

    def following(self, share: float) -> int:
        """The stage that the share in [0, 1) of all pods goes on to."""
        return next(index for bound, index in self.then if share < bound)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The life of the pods that match."""

    name: str
    index: int
    stages: tuple[Stage, ...]
    stop: Delay = field(default_factory=Delay)
    stop_code: int = 0
    owner: str = ""
    namespace: str = ""
    restart_policy: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, owner: str, namespace: str, restart_policy: str, labels: Mapping[str, str]) -> bool:
        """Whether a pod of such an owner (its controller's kind) is one of these."""
        return (
            self.owner in ("", owner)
            and self.namespace in ("", namespace)
            and self.restart_policy in ("", restart_policy)
            and (not self.labels or all(labels.get(key) == value for key, value in self.labels))
        )


def parse(document: Any) -> tuple[Lifecycle, ...]:
    """The lifecycles of a file that is read. Raises ValueError that names the place."""
    fields = _fields(document, "the file", {"lifecycles"})
    found = tuple(
        _lifecycle(each, index, f"lifecycles[{index}]") for index, each in enumerate(_list(fields, "lifecycles", ""))
    )
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"lifecycles: there are several {name!r}")
    if not found:
        raise ValueError("lifecycles: there must be one at least")
    return found


def choose(
    lifecycles: tuple[Lifecycle, ...],
    asked: str,
    owner: str,
    namespace: str,
    restart_policy: str,
    labels: Mapping[str, str],
) -> Lifecycle:
    """The lifecycle of a pod: the one that it asks for, else the first that matches, else the last."""
    if asked:
        for each in lifecycles:
            if each.name == asked:
                return each
    for each in lifecycles:
        if each.matches(owner, namespace, restart_policy, labels):
            return each
    return lifecycles[-1]


def _lifecycle(document: Any, index: int, place: str) -> Lifecycle:
    fields = _fields(document, place, {"name", "match", "stages", "stop"})
    match = _fields(fields.get("match") or {}, f"{place}.match", {"owner", "namespace", "restartPolicy", "labels"})
    stop = _fields(fields.get("stop") or {}, f"{place}.stop", {"delay", "exitCode"})
    policy = _text(match, "restartPolicy", f"{place}.match")
    if policy not in ("", *RESTART_POLICIES):
        raise ValueError(f"{place}.match.restartPolicy: must be {', '.join(RESTART_POLICIES)}")
    labels = match.get("labels") or {}
    if not isinstance(labels, dict):
        raise ValueError(f"{place}.match.labels: must be labels and their values")
    documents = [
        _fields(each, f"{place}.stages[{number}]", _STAGE_FIELDS)
        for number, each in enumerate(_list(fields, "stages", place))
    ]
    if not documents:
        raise ValueError(f"{place}.stages: there must be one at least")
    names = [_text(each, "name", f"{place}.stages[{number}]", True) for number, each in enumerate(documents)]
    if len(set(names)) < len(names):
        raise ValueError(f"{place}.stages: two have the same name")
    return Lifecycle(
        name=_text(fields, "name", place, True),
        index=index,
        stages=tuple(_stage(each, number, names, f"{place}.stages[{number}]") for number, each in enumerate(documents)),
        stop=_delay(stop.get("delay", 0), f"{place}.stop.delay"),
        stop_code=_exit_code(stop, f"{place}.stop"),
        owner=_text(match, "owner", f"{place}.match"),
        namespace=_text(match, "namespace", f"{place}.match"),
        restart_policy=policy,
        labels=tuple((str(key), str(value)) for key, value in labels.items()),
    )


_STAGE_FIELDS = {"name", "state", "ready", "exitCode", "reason", "message", "delay", "then"}


def _stage(fields: dict[str, Any], index: int, names: list[str], place: str) -> Stage:
    state = _text(fields, "state", place)
    if state not in STATES:
        raise ValueError(f"{place}.state: must be {', '.join(STATES[1:])}")
    ready = fields.get("ready", True)
    if not isinstance(ready, bool):
        raise ValueError(f"{place}.ready: must be true or false")
    delay = _delay(fields["delay"], f"{place}.delay") if "delay" in fields else None
    then = _then(fields.get("then"), names, place)
    if state != "terminated" and bool(then) != (delay is not None):
        raise ValueError(f"{place}: delay and then go together")
    return Stage(
        name=names[index],
        index=index,
        state=state,
        ready=ready,
        exit_code=_exit_code(fields, place),
        reason=_text(fields, "reason", place),
        message=_text(fields, "message", place),
        delay=delay,
        then=then,
    )


def _then(value: Any, names: list[str], place: str) -> tuple[tuple[float, int], ...]:
    if value is None:
        return ()
    choices = value if isinstance(value, list) else [{"stage": value, "weight": 1}]
    weights = []
    for number, each in enumerate(choices):
        at = f"{place}.then[{number}]" if isinstance(value, list) else f"{place}.then"
        fields = _fields(each, at, {"stage", "weight"})
        name = _text(fields, "stage", at, True)
        if name not in names:
            raise ValueError(f"{at}: there is no stage {name!r}")
        weight = fields.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(f"{at}.weight: must be a number, 0 or more")
        weights.append((float(weight), names.index(name)))
    total = sum(weight for weight, _ in weights)
    if not total:
        raise ValueError(f"{place}.then: one weight at least must be above 0")
    found, sum_ = [], 0.0
    for weight, stage in weights:
        sum_ += weight / total
        found.append((sum_, stage))
    last = max(number for number, (weight, _) in enumerate(weights) if weight)
    return (*found[:last], (1.0, found[last][1]))  # the sum of shares may be a little less than 1


def _delay(value: Any, place: str) -> Delay:
    if not isinstance(value, dict):
        return Delay("constant", _seconds(value, place))
    if "uniform" in value:
        _fields(value, place, {"uniform"})
        ends = value["uniform"]
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"{place}.uniform: must be two durations")
        low, high = (_seconds(end, f"{place}.uniform") for end in ends)
        if low > high:
            raise ValueError(f"{place}.uniform: the first must not be longer than the second")
        return Delay("uniform", low, high)
    if "exponential" in value:
        fields = _fields(value, place, {"exponential", "max"})
        mean = _seconds(fields["exponential"], f"{place}.exponential")
        return Delay("exponential", mean, _seconds(fields["max"], f"{place}.max") if "max" in fields else float("inf"))
    fields = _fields(value, place, {"normal", "deviation"})
    mean = _seconds(fields.get("normal"), f"{place}.normal")
    return Delay("normal", mean, _seconds(fields.get("deviation", 0), f"{place}.deviation"))


def _seconds(value: Any, place: str) -> float:
    seconds = value
    if isinstance(value, str):
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ValueError(f"{place}: must be a duration, 0 or more, such as 1m30s")
    return float(seconds)


def _exit_code(fields: dict[str, Any], place: str) -> int:
    code = fields.get("exitCode", 0)
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
        raise ValueError(f"{place}.exitCode: must be 0 to 255")
    return code


def _text(fields: dict[str, Any], name: str, place: str, required: bool = False) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{place}.{name}: must be a text")
    if required and not value:
        raise ValueError(f"{place}.{name}: is required")
    return value


def _list(fields: dict[str, Any], name: str, place: str) -> list[Any]:
    value = fields.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f"{place + '.' if place else ''}{name}: must be a list")
    return value


def _fields(value: Any, place: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: must have fields, not be {value!r}")
    for name in value:
        if name not in known:
            raise ValueError(f"{place}: there is no field {name!r}; there are {', '.join(sorted(known))}")
    return value
