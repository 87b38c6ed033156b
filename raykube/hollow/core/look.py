"""What a pod looks like now: which patch shows it, and what goes into the patch's holes."""

from raykube.base.clock import rfc3339
from raykube.hollow.core import addresses
from raykube.hollow.core.show import RUNNING, TERMINATED, WAITING, Sight
from raykube.hollow.core.slot import BACKOFF, ENDED, STOPPED, Pod

_ZERO = b"%030x" % 0


def sight(pod: Pod) -> Sight | None:
    """What the pod looks like now; None when that is nothing to tell."""
    _, was_started, was_ready = pod.shown
    stage = pod.now_in
    last = pod.last is not None and (pod.mode == BACKOFF or pod.last.attempt < pod.attempt)
    if pod.mode == STOPPED:
        code, reason = pod.shape.lifecycle.stop_code, ""
        if pod.last is not None and pod.last.attempt == pod.attempt:
            code, reason = pod.last.code, pod.last.reason
        phase = "Failed" if code else "Succeeded"
        return Sight(TERMINATED, phase, False, reason, "", code, last, was_started, was_ready)
    if pod.mode == BACKOFF:
        if pod.attempt == 0:  # restarted at once
            assert pod.last is not None
            return Sight(
                TERMINATED, "Running", False, pod.last.reason, stage.message, pod.last.code, False, was_started,
                was_ready,
            )  # fmt: skip
        name = " ".join(each.name for each in pod.shape.containers)
        message = f"back-off {pod.backoff_s:.0f}s restarting failed container={name}"
        return Sight(WAITING, "Running", False, "CrashLoopBackOff", message, 0, True, was_started, was_ready)
    if pod.mode == ENDED:
        if stage.state != TERMINATED:
            return None
        phase = "Succeeded" if stage.exit_code == 0 else "Failed"
        return Sight(
            TERMINATED, phase, False, stage.reason, stage.message, stage.exit_code, last, was_started, was_ready
        )
    if not stage.state:
        return None
    ready = stage.state == RUNNING and stage.ready
    phase = "Pending" if stage.state == WAITING and not last else "Running"
    return Sight(stage.state, phase, ready, stage.reason, stage.message, stage.exit_code, last, was_started, was_ready)


def is_shown(shown: tuple[str, bool, bool], text: bytes) -> bool:
    """Whether a pod's JSON shows that phase and readiness in the form of our patches; in another form it does not."""
    return (b'"phase":"%b"' % shown[0].encode()) in text and (b'"type":"Ready","status":"True"' in text) == shown[2]


def values(pod: Pod, host: bytes, now: float) -> dict[bytes, bytes]:
    """What fills the holes of its patch (`show`). `host`: its node's address."""
    last = pod.last
    ident = pod.uid.replace("-", "")[:32].encode()
    found = {
        b"now": rfc3339(now).encode(),
        b"end": rfc3339(pod.since).encode(),
        b"start": rfc3339(pod.start_at).encode(),
        b"run": rfc3339(pod.run_at or (last.run_at if last else pod.start_at)).encode(),
        b"restarts": b"%d" % pod.attempt,
        b"id": b"%b%030x" % (ident, pod.attempt),
        b"first_id": ident + _ZERO,
        b"host": host,
        b"ip": addresses.text(pod.ip) if pod.ip else host,
    }
    if last is not None:
        found |= {
            b"last_code": b"%d" % last.code,
            b"last_reason": last.reason.encode(),
            b"last_run": rfc3339(last.run_at).encode(),
            b"last_end": rfc3339(last.end_at).encode(),
            b"last_id": b"%b%030x" % (ident, last.attempt),
        }
    return found
