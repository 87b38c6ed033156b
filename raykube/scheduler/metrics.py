"""The scheduler's numbers, under upstream's names, in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

# Upstream's buckets of scheduler_pod_scheduling_sli_duration_seconds: 10 ms, doubled, 20 of them.
BUCKETS_S = tuple(0.01 * 2**exponent for exponent in range(20))
RESULTS = ("error", "scheduled", "unschedulable")


class Metrics:
    """Counts attempts and times pods from creation (as seen here) to binding."""

    def __init__(self, profiles: Iterable[str]) -> None:
        self._profiles = tuple(profiles)
        self._attempts: Counter[tuple[str, str]] = Counter()  # by profile and result
        self.conflicts = 0
        self.preemptions = 0
        self.victims = 0
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def on_attempt(self, profile: str, result: str) -> None:
        self._attempts[profile, result] += 1

    def on_bound(self, profile: str, waited_s: float) -> None:
        self.on_attempt(profile, "scheduled")
        self._buckets[bisect_left(BUCKETS_S, waited_s)] += 1
        self._sum_s += waited_s

    def render(self, pending: dict[str, int], leading: bool, lease: str) -> str:
        lines = [
            "# HELP scheduler_schedule_attempts_total Number of attempts to schedule pods, by the result.",
            "# TYPE scheduler_schedule_attempts_total counter",
        ]
        for profile in self._profiles:
            for result in RESULTS:
                labels = f'profile="{profile}",result="{result}"'
                lines.append(f"scheduler_schedule_attempts_total{{{labels}}} {self._attempts[profile, result]}")
        lines += [
            "# HELP scheduler_pending_pods Number of pending pods, by the queue type.",
            "# TYPE scheduler_pending_pods gauge",
        ]
        lines += [f'scheduler_pending_pods{{queue="{queue}"}} {count}' for queue, count in pending.items()]
        name = "scheduler_pod_scheduling_sli_duration_seconds"
        lines += [
            f"# HELP {name} E2e latency for a pod being scheduled, from the time it enters the queue.",
            f"# TYPE {name} histogram",
        ]
        total = 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_sum {self._sum_s}", f"{name}_count {total}"]
        lines += [
            "# HELP scheduler_preemption_attempts_total Total preemption attempts in the cluster till now.",
            "# TYPE scheduler_preemption_attempts_total counter",
            f"scheduler_preemption_attempts_total {self.preemptions}",
            "# HELP raykube_scheduler_preemption_victims_total Pods deleted to make room for others.",
            "# TYPE raykube_scheduler_preemption_victims_total counter",
            f"raykube_scheduler_preemption_victims_total {self.victims}",
            "# HELP raykube_scheduler_bind_conflicts_total Bindings refused because the pod had changed.",
            "# TYPE raykube_scheduler_bind_conflicts_total counter",
            f"raykube_scheduler_bind_conflicts_total {self.conflicts}",
            "# HELP leader_election_master_status 1 while this instance leads.",
            "# TYPE leader_election_master_status gauge",
            f'leader_election_master_status{{name="{lease}"}} {int(leading)}',
        ]
        return "\n".join(lines) + "\n"
