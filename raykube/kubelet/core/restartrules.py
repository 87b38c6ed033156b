"""A container's own restart policy and rules, and what a rule may ask of the whole pod.

    restartPolicy: Never                 first the rules, in order; then the container's policy; then the pod's
    restartPolicyRules:
    - action: Restart                    this container, where the pod's policy says no
      exitCodes: {operator: In, values: [42]}
    - action: RestartAllContainers       the pod begins anew in its sandbox: init containers first, restarts counted on
      exitCodes: {operator: In, values: [88]}

Nothing is remembered: a run that ended with such a code says when everything before it became old.
"""

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.pod import Object

RESTART_ALL = "RestartAllContainers"


def action_of(spec: Object, exit_code: int) -> str:
    """The action of the first rule that fits the exit code; "" for none. Sidecars have no rules."""
    if not spec.get("restartPolicy"):
        return ""
    for rule in spec.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        listed = exit_code in (codes.get("values") or ())
        if listed == (codes.get("operator") == "In"):
            return str(rule.get("action") or "")
    return ""


def should_restart(pod: Object, spec: Object, exit_code: int) -> bool:
    """Whether a container that ended with `exit_code` is to run again."""
    if pods.is_sidecar(spec) or action_of(spec, exit_code) in ("Restart", RESTART_ALL):
        return True
    policy = spec.get("restartPolicy") or pods.restart_policy(pod)
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def restarts_all_at(pod: Object, observed: ObservedPod) -> float:
    """When the latest run that restarts the whole pod ended; 0 without one. Runs that were made before are old."""
    sandbox = observed.ready_sandbox
    if sandbox is None or not any(spec.get("restartPolicyRules") for spec in pods.all_containers(pod)):
        return 0.0
    inits = [spec for spec in pods.init_containers(pod) if not pods.is_sidecar(spec)]
    specs = {spec["name"]: spec for spec in inits + pods.containers(pod)}
    return max(
        (
            run.finished_at
            for run in observed.containers
            if run.sandbox_id == sandbox.id
            and run.state is State.EXITED
            and run.name in specs
            and action_of(specs[run.name], run.exit_code) == RESTART_ALL
        ),
        default=0.0,
    )


def is_old(run: ObservedContainer | None, restarted_at: float) -> bool:
    return run is not None and run.created_at < restarted_at
