"""One pod's next steps: (desired pod, what the runtime shows, probe results, back-off, now) → a plan.

    ┌ no sandbox ──► sandbox ──► init containers, one after the other ──► containers ──► all ended: stop sandbox
    │                   ▲         (sidecars stay and are not waited for once started)
    └───────────────────┴── the sandbox died: a new one, from the start

Rules:
- A container is in a plan's `starts` only if its newest run has ended (or it never ran): nothing runs twice.
- A pod whose phase is Succeeded or Failed, and a pod that terminates, only ever stops things.
- An ephemeral container starts once, whatever the others do.
- A restart of all containers (restartrules.py) ends what is old before anything begins anew.
- Back-off delays a restart, never a first start; `wake_at` says when to plan again.
"""

from dataclasses import dataclass

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.probes import ProbeResults
from raykube.kubelet.core.restart_backoff import RestartBackoff
from raykube.kubelet.core.restartrules import is_old, restarts_all_at, should_restart


@dataclass(frozen=True, slots=True)
class Kill:
    container_id: str
    name: str
    message: str
    hooks: bool = True  # whether its preStop hook runs


@dataclass(frozen=True, slots=True)
class Start:
    name: str
    attempt: int
    after: float | None = None  # when the run before ended; None for a first start


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that is not started now, and what its status says about that."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    stop_pod: bool = False  # kill what runs, then stop every sandbox
    new_sandbox: bool = False
    sandbox_attempt: int = 0
    kills: tuple[Kill, ...] = ()
    starts: tuple[Start, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    wake_at: float | None = None

    @property
    def idle(self) -> bool:
        return not (self.stop_pod or self.new_sandbox or self.kills or self.starts)


def crash_message(pod: Object, name: str, delay_s: float) -> str:
    minutes, seconds = divmod(int(delay_s), 60)
    text = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    return f"back-off {text} restarting failed container={name} pod={pods.full_name(pod)}"


RESTART_MESSAGE = "Stopping container because all containers of the pod restart"


class _Planner:
    def __init__(
        self,
        pod: Object,
        observed: ObservedPod,
        probes: ProbeResults,
        backoff: RestartBackoff,
        spec_hashes: dict[str, str],
        now: float,
    ) -> None:
        self.pod = pod
        self.observed = observed
        self.probes = probes
        self.backoff = backoff
        self.spec_hashes = spec_hashes
        self.now = now
        self.starts: list[Start] = []
        self.kills: list[Kill] = []
        self.waiting: list[Waiting] = []
        self.wake_at: float | None = None
        self.restarted_at = restarts_all_at(pod, observed)  # runs from before are old; 0: none is

    def start(self, spec: Object, previous: ObservedContainer | None) -> None:
        """Starts a container, or waits for its back-off to end."""
        name = spec["name"]
        if previous is None:
            self.starts.append(Start(name, 0))
            return
        finished_at = previous.finished_at or previous.created_at
        until = self.backoff.until(name, finished_at)
        if until > self.now:
            delay = self.backoff.delay_s(name, finished_at)
            self.waiting.append(Waiting(name, "CrashLoopBackOff", crash_message(self.pod, name, delay)))
            self.wake_at = until if self.wake_at is None else min(self.wake_at, until)
            return
        self.starts.append(Start(name, previous.attempt + 1, finished_at))

    def unhealthy(self, spec: Object, running: ObservedContainer) -> str:
        """Why a running container must be killed; "" when it need not."""
        name = spec["name"]
        wanted = self.spec_hashes.get(name)
        if wanted and running.spec_hash and running.spec_hash != wanted:
            return f"Container {name} definition changed, will be restarted"
        restarts = should_restart(self.pod, spec, 137)
        suffix = ", will be restarted" if restarts else ""
        if self.probes.startup_failed(running.id):
            return f"Container {name} failed startup probe{suffix}"
        if self.probes.liveness_failed(running.id):
            return f"Container {name} failed liveness probe{suffix}"
        return ""

    def keep(self, spec: Object, running: ObservedContainer) -> None:
        """Lets a container run, or kills it when it is unhealthy; its end leads to the restart."""
        reason = self.unhealthy(spec, running)
        if reason:
            self.kills.append(Kill(running.id, running.name, reason))

    def make_sure(self, lost: ObservedContainer) -> None:
        """Stops a container of which the runtime does not know whether it runs; then it has ended."""
        message = "Container is in unknown state, try killing it before restart"
        self.kills.append(Kill(lost.id, lost.name, message))

    def init_containers(self, sandbox_id: str) -> str:
        """Plans init containers; answers "done", "blocked" or "failed"."""
        specs = pods.init_containers(self.pod)
        here = {
            one.name: one
            for one in reversed(self.observed.containers)
            if one.sandbox_id == sandbox_id and not is_old(one, self.restarted_at)
        }
        initialized = any(spec["name"] in here for spec in pods.containers(self.pod))
        # Older runs may have been cleaned away: whoever comes before one that ran has succeeded.
        reached = max((index for index, spec in enumerate(specs) if spec["name"] in here), default=-1)
        for index, spec in enumerate(specs):
            latest = here.get(spec["name"])
            if latest is not None and latest.state is State.UNKNOWN:
                self.make_sure(latest)
                return "blocked"
            if pods.is_sidecar(spec):
                if latest is not None and latest.state is State.RUNNING:
                    self.keep(spec, latest)
                    if not initialized and not self.probes.started(spec, latest.id):
                        return "blocked"
                    continue
                self.start(spec, latest or self.observed.latest(spec["name"]))
                if not initialized:
                    return "blocked"
                continue
            if initialized or index < reached:
                continue
            if latest is None:
                self.start(spec, self.observed.latest(spec["name"]))
                return "blocked"
            if latest.state is State.RUNNING:
                self.keep(spec, latest)
                return "blocked"
            if latest.state is State.EXITED and latest.exit_code == 0:
                continue
            if latest.state is State.EXITED and not should_restart(self.pod, spec, latest.exit_code):
                return "failed"
            self.start(spec, latest)
            return "blocked"
        return "done"

    def ephemeral_containers(self) -> None:
        """Plans what somebody added to look into the pod, be its other containers well or not."""
        for spec in pods.ephemeral_containers(self.pod):
            if self.observed.latest(spec["name"]) is None:
                self.starts.append(Start(spec["name"], 0))

    def containers(self) -> bool:
        """Plans the main containers; answers whether any of them runs or will run."""
        alive = False
        for spec in pods.containers(self.pod):
            latest = self.observed.latest(spec["name"])
            if is_old(latest, self.restarted_at):
                self.start(spec, latest)
                alive = True
            elif latest is not None and latest.state is State.RUNNING:
                self.keep(spec, latest)
                alive = True
            elif latest is not None and latest.state is State.UNKNOWN:
                self.make_sure(latest)
                alive = True
            elif latest is None or latest.state is not State.EXITED or should_restart(self.pod, spec, latest.exit_code):
                self.start(spec, latest)
                alive = True
        return alive

    def plan(self) -> Plan:
        sandbox = self.observed.ready_sandbox
        no_address = sandbox is not None and not sandbox.ip and not pods.on_host_network(self.pod)
        several = sum(one.ready for one in self.observed.sandboxes) > 1
        if sandbox is None or no_address or several:
            return self._new_sandbox()
        old = [one for one in self.observed.containers if is_old(one, self.restarted_at)]
        alive = [one for one in old if one.state in (State.RUNNING, State.UNKNOWN)]
        if alive:
            return Plan(kills=tuple(Kill(one.id, one.name, RESTART_MESSAGE, hooks=False) for one in alive))
        self.ephemeral_containers()
        progress = self.init_containers(sandbox.id)
        if progress == "failed":
            return Plan(stop_pod=True)
        if progress == "done" and not self.containers():
            return Plan(stop_pod=True)
        return Plan(
            kills=tuple(self.kills),
            starts=tuple(self.starts),
            waiting=tuple(self.waiting),
            wake_at=self.wake_at,
        )

    def _new_sandbox(self) -> Plan:
        newest = self.observed.sandbox
        attempt = 0 if newest is None else newest.attempt + 1
        if (newest is not None or self.observed.containers) and not self._anything_left_to_run():
            return Plan(stop_pod=bool(self.observed.running) or any(one.ready for one in self.observed.sandboxes))
        # Back-off holds for the pod as a whole only if none of its containers may start now.
        running = [one for one in self.observed.sandboxes if one.ready]
        return Plan(
            stop_pod=bool(running or self.observed.running),
            new_sandbox=not (running or self.observed.running),
            sandbox_attempt=attempt,
        )

    def _anything_left_to_run(self) -> bool:
        for spec in pods.containers(self.pod):
            latest = self.observed.latest(spec["name"])
            if latest is None:
                inits_failed = any(
                    run.state is State.EXITED
                    and run.exit_code != 0
                    and not should_restart(self.pod, init, run.exit_code)
                    for init in pods.init_containers(self.pod)
                    if (run := self.observed.latest(init["name"])) is not None
                )
                return not inits_failed
            if latest.state is not State.EXITED or should_restart(self.pod, spec, latest.exit_code):
                return True
        return False


def plan(
    pod: Object,
    observed: ObservedPod,
    probes: ProbeResults,
    backoff: RestartBackoff,
    spec_hashes: dict[str, str],
    now: float,
    terminating: bool = False,
) -> Plan:
    """The next steps for `pod`. Applying them and planning again converges; a finished pod's plan is idle."""
    if terminating or pods.is_terminal(pod):
        alive = bool(observed.running) or any(sandbox.ready for sandbox in observed.sandboxes)
        return Plan(stop_pod=alive)
    return _Planner(pod, observed, probes, backoff, spec_hashes, now).plan()
