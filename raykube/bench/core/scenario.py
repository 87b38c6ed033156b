"""A scenario: a small file that says on how many machines which pods are created, changed and deleted.

    about: Pods created until they run           one line, for the list
    nodes: 100                                    --nodes gives another number
    pods: 3000                                    --pods; or podsPerNode: 30
    parts: [controller-manager, scheduler, hollow]     what runs beside store and apiserver
    flags: {hollow: {zones: 3}}                   flags of components
    pod: {...}                                    merged into every pod (RFC 7386); ${i} is its number, also ${i % 9}
    templates: {name: {...}}                      merged into the pods of steps that name it
    objects: [...]                                made before anything else: PriorityClasses, PodGroups, Services
    steps:                                        one after the other; each is measured by itself
    - {create: 100%}                              that many pods in bulk; rate: 500 for so many a second, rate: 50%
                                                  for that share of what the step before reached
    - {deploy: 100%, deployments: 10}             by Deployments
    - {rollout: true}                             all Deployments get a new template
    - {churn: 10%, seconds: 30}                   so many are deleted and made anew each second, the oldest first
    - {fail: 10%}                                 so many machines fall silent; their pods are replaced
    - {delete: 100%}                              pods that `create` made, then Deployments

A step waits for `wait`: running, bound, gone (of delete), or none; `measure: false` leaves it out of the report,
`template` names the pods' template, `timeout` bounds a wait in which no pod comes further.
"""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from raykube.base.duration import Duration

Object = dict[str, Any]
DEFAULT = "pod"
Part = Literal["controller-manager", "scheduler", "hollow"]
PARTS: tuple[Part, ...] = ("controller-manager", "scheduler", "hollow")


def _amount(value: object) -> object:
    """`30%` or a number."""
    if isinstance(value, str) and value.endswith("%"):
        try:
            share = Fraction(value[:-1]) / 100
        except ValueError:
            raise ValueError(f"{value!r} is no share: must be such as 30%") from None
        if not 0 <= share <= 1:
            raise ValueError(f"{value!r}: must be 0% to 100%")
        return share
    return value


Amount = Annotated[int | Fraction, BeforeValidator(_amount)]
Rate = Annotated[float | Fraction, BeforeValidator(_amount)]


def of(amount: int | Fraction, whole: int) -> int:
    """How many of `whole` an amount is."""
    return round(amount * whole) if isinstance(amount, Fraction) else amount


class Step(BaseModel):
    """One thing that is done and measured: exactly one of create, deploy, rollout, churn, fail, delete."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = ""
    create: Amount | None = None
    deploy: Amount | None = None
    rollout: bool = False
    churn: Amount | None = None
    fail: Amount | None = None
    delete: Amount | None = None
    template: str = DEFAULT
    rate: Rate = 0.0  # pods a second, or a share of what the step before reached; 0: as fast as it goes
    deployments: int = Field(1, ge=1)
    seconds: float = Field(10.0, gt=0)
    wait: Literal["", "running", "bound", "gone", "none"] = ""
    timeout: Duration = 600.0
    measure: bool = True

    @model_validator(mode="after")
    def _one(self) -> "Step":
        if len(self._verbs) != 1:
            raise ValueError("a step does one of create, deploy, rollout, churn, fail, delete")
        if self.rate < 0:
            raise ValueError(f"rate {self.rate}: must not be negative")
        return self

    @property
    def _verbs(self) -> list[str]:
        named = ("create", "deploy", "churn", "fail", "delete")
        return [name for name in named if getattr(self, name) is not None] + (["rollout"] if self.rollout else [])

    @property
    def verb(self) -> str:
        """What it does."""
        return self._verbs[0]

    @property
    def title(self) -> str:
        """What the report calls it."""
        return self.name or self.verb

    @property
    def goal(self) -> str:
        """What it waits for."""
        return self.wait or ("gone" if self.verb == "delete" else "running")

    def pods_per_s(self, reached: float) -> float:
        """Its rate, where the step before reached so many pods a second; 0: as fast as it goes."""
        return float(self.rate * reached if isinstance(self.rate, Fraction) else self.rate)


class Scenario(BaseModel):
    """A file of scenarios/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    about: str
    nodes: int = Field(100, ge=1)
    pods: int = Field(0, ge=0)
    pods_per_node: int = Field(0, ge=0, alias="podsPerNode")
    parts: list[Part] = [*PARTS]
    flags: dict[str, dict[str, str]] = {}
    pod: Object = {}
    templates: dict[str, Object] = {}
    objects: list[Object] = []
    steps: list[Step] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> "Scenario":
        if bool(self.pods) == bool(self.pods_per_node):
            raise ValueError("one of pods and podsPerNode says how many pods there are")
        if isinstance(self.steps[0].rate, Fraction):
            raise ValueError(f"step {self.steps[0].title}: rate is a share, and there is no step before it")
        for step in self.steps:
            if step.template != DEFAULT and step.template not in self.templates:
                raise ValueError(f"step {step.title}: there is no template {step.template!r}")
            if step.verb in ("deploy", "rollout") and "controller-manager" not in self.parts:
                raise ValueError(f"step {step.title}: needs the controller-manager")
            if step.verb == "fail" and "hollow" not in self.parts:
                raise ValueError(f"step {step.title}: needs hollow machines")
            if step.goal == "running" and "hollow" not in self.parts:
                raise ValueError(f"step {step.title}: without hollow machines nothing runs: wait for bound")
        return self

    def scaled(self, nodes: int = 0, pods: int = 0) -> "Scenario":
        """The same on another scale; 0: as it is. Steps in shares of pods and nodes follow."""
        nodes = nodes or self.nodes
        pods = pods or self.pods or self.pods_per_node * nodes
        return self.model_copy(update={"nodes": nodes, "pods": pods, "pods_per_node": 0})

    @property
    def failing(self) -> int:
        """How many machines fall silent in it: a process of their own plays them."""
        return max((of(step.fail, self.nodes) for step in self.steps if step.fail is not None), default=0)
