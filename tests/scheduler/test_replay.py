"""Recordings: what a scheduler saw, scheduled anew by the same one, by another configuration, or another version."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from raykube.api.errors import ApiError
from raykube.cli.main import root
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.rpc.clock import SystemClock
from raykube.scheduler.core.configuration import Settings, parse
from raykube.scheduler.core.outcomes import Outcome, Summary, differences
from raykube.scheduler.recording import FORMAT, Moment, Recorder, Recording
from raykube.scheduler.recording import _public as public
from raykube.scheduler.recording import parse as parse_recording
from raykube.scheduler.replay import Replay, as_recorded
from tests.kit.apiservers import Apiservers
from tests.kit.waiting import until
from tests.scheduler.device_cluster import user
from tests.scheduler.device_objects import DRIVER, claim, device, device_class, exactly, resource_slice
from tests.scheduler.objects import Object, node, pod
from tests.scheduler.test_gangs import pod_group
from tests.scheduler.test_plan_command import Command, fill, kubeconfig
from tests.scheduler.test_service import running

PACKING = """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}]
  plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}]}}
"""


def recording(*moments: tuple[float, str, Object]) -> Recording:
    return Recording(1_800_000_000.0, [Moment(*moment) for moment in moments])


def replayed(found: Recording, settings: Settings | None = None) -> dict[str, Outcome]:
    return {one.name: one for one in Replay(settings or Settings()).run(found)}


def three_pods(cpu: str = "1") -> Recording:
    first = [(0.0, "ADDED", node(name, cpu="4")) for name in "abc"]
    return recording(*first, *((float(second), "ADDED", pod(f"p{second}", cpu)) for second in (1, 2, 3)))


def test_another_configuration_is_compared() -> None:
    spread, packed = replayed(three_pods()), replayed(three_pods(), parse(PACKING))
    assert {one.node for one in spread.values()} == {"a", "b", "c"}
    assert {one.node for one in packed.values()} == {"a"}
    found = differences(spread.values(), packed.values())
    assert [(one.pod, one.one, one.other) for one in found] == [("d/p2", "b", "a"), ("d/p3", "c", "a")]
    assert (Summary.of(spread.values()).nodes, Summary.of(packed.values()).nodes) == (3, 1)


def test_pods_go_where_this_scheduler_says_and_not_where_they_were_recorded() -> None:
    """The recorded one had put p1 on c, so p2 found no room there; here both fit."""
    moments = three_pods("3").moments
    bound = pod("p1", "3", nodeName="c")
    found = recording(*moments[:4], (1.5, "MODIFIED", bound), *moments[4:])
    ours = replayed(found)
    assert [ours[name].node for name in ("p1", "p2", "p3")] == ["a", "b", "c"]
    theirs = {one.name: one for one in as_recorded(found)}
    assert (theirs["p1"].node, theirs["p1"].placed, theirs["p2"].node) == ("c", 1.5, "")
    assert [one.pod for one in differences(ours.values(), theirs.values())] == ["d/p1", "d/p2", "d/p3"]


def test_devices_are_those_that_this_scheduler_chose() -> None:
    """The recorded one gave p0's claim the device of b; here a is as good, and each device is given once."""
    claims = [claim(f"c{number}", exactly()) for number in range(3)]
    result = {"request": "gpu", "driver": DRIVER, "pool": "b", "device": "g0"}
    theirs = claim("c0", exactly(), status={"allocation": {"devices": {"results": [result]}}}, revision=5)
    found = recording(
        *((0.0, "ADDED", one) for one in (node("a"), node("b"), device_class())),
        *((0.0, "ADDED", resource_slice(name, name, [device("g0")])) for name in "ab"),
        *((1.0, "ADDED", one) for one in claims),
        (1.0, "ADDED", user("p0", "c0")),
        (2.0, "MODIFIED", theirs),
        (3.0, "ADDED", user("p1", "c1")),
        (4.0, "ADDED", user("p2", "c2")),
        (90.0, "DELETED", user("p0", "c0")),
        (91.0, "MODIFIED", claim("c0", exactly(), revision=6)),
    )
    ours = replayed(found)
    assert (ours["p0"].node, ours["p1"].node) == ("a", "b")
    assert (ours["p2"].node, ours["p2"].placed) == ("a", 91.0)


def test_a_pod_waits_until_another_has_ended_in_the_recording() -> None:
    running_one = pod("old", "1", nodeName="a")
    found = recording(
        (0.0, "ADDED", node("a", cpu="1")),
        (0.0, "ADDED", running_one),
        (5.0, "ADDED", pod("new", "1")),
        (70.0, "DELETED", running_one),
        (75.0, "ADDED", pod("late", "1")),
        (80.0, "DELETED", pod("late", "1")),
    )
    ours = replayed(found)
    assert list(ours) == ["new", "late"], "a pod that came with its node is not this scheduler's"
    assert (ours["new"].node, ours["new"].placed) == ("a", 70.0)
    assert ours["late"].why.startswith("0/1 nodes are available: 1 Insufficient cpu.")
    assert Summary.of(ours.values()) == Summary(1, 1, 1, 0, 65.0, 65.0)


def test_a_pod_that_is_tried_again_pauses_as_long_as_the_configuration_says() -> None:
    """The room that comes at once is too late for the first attempt."""
    found = recording(
        (0.0, "ADDED", node("a", cpu="1")),
        (1.0, "ADDED", pod("p", "2")),
        (1.25, "MODIFIED", node("a", cpu="2")),
        (60.0, "ADDED", pod("last", "2")),
    )
    assert replayed(found)["p"].placed == 2.0
    slow = PACKING + "podInitialBackoffSeconds: 8\n"
    assert replayed(found, parse(slow))["p"].placed == 9.0


def test_a_gang_is_placed_as_a_whole_once_it_is_there() -> None:
    members = [pod(f"g{number}", "1", schedulingGroup={"podGroupName": "g"}) for number in range(3)]
    found = recording(
        (0.0, "ADDED", pod_group("g", 3)),
        (0.0, "ADDED", node("a", cpu="3")),
        *((float(number + 1), "ADDED", member) for number, member in enumerate(members)),
        (9.0, "ADDED", pod("other", "1")),
    )
    ours = replayed(found)
    assert {(ours[f"g{number}"].node, ours[f"g{number}"].placed) for number in range(3)} == {("a", 3.0)}
    assert not ours["other"].node


def test_a_pod_of_higher_priority_takes_the_room_of_another() -> None:
    weak = pod("weak", "1", priority=0)
    found = recording(
        (0.0, "ADDED", node("a", cpu="1")),
        (1.0, "ADDED", weak),
        (2.0, "ADDED", pod("strong", "1", priority=100)),
        (3.0, "MODIFIED", weak | {"status": {"phase": "Running"}}),
        (9.0, "ADDED", node("b", cpu="1")),
        (30.0, "ADDED", node("c", cpu="1")),
    )
    ours = replayed(found)
    assert (ours["weak"].evicted, ours["strong"].node, ours["strong"].evicts) == (True, "a", ["d/weak"])
    assert Summary.of(ours.values()).evicted == 1


async def test_what_is_recorded_beside_a_scheduler_is_what_it_did(tmp_path: Path) -> None:
    out = io.BytesIO()
    async with running() as (api, _):
        for name in "abc":
            await api.put(node(name, cpu="4"))
        secret = pod("p0", "1")
        secret["spec"]["containers"][0] |= {"env": [{"name": "TOKEN", "value": "s3cret"}], "args": ["--x"]}
        secret["metadata"]["managedFields"] = [{"manager": "kubectl"}]
        client = ApiClient([api.address])
        recorder = Recorder(client, SystemClock(), out)
        task = asyncio.create_task(recorder.run(None))
        await until(lambda: recorder.count >= 3)
        await asyncio.sleep(0.2)  # what comes now has a time of its own in the recording, as the pods below have
        await api.put(secret)
        for number in range(1, 7):
            await api.put(pod(f"p{number}", "1"))
            await asyncio.sleep(0.05)
        await until(lambda: all(api.node_of(f"p{number}") for number in range(7)))
        await until(lambda: sum(bool(one.node) for one in as_recorded(parse_recording(lines(out)))) == 7)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()
        nodes = {f"p{number}": api.node_of(f"p{number}") for number in range(7)}
    found = parse_recording(lines(out))
    assert {one.name: one.node for one in as_recorded(found)} == nodes
    assert {name: one.node for name, one in replayed(found).items()} == nodes
    assert [one.at for one in found.moments[:3]] == [0.0] * 3
    assert found.moments[-1].at > 0.2
    assert b"s3cret" not in out.getvalue() and b"managedFields" not in out.getvalue()


def test_a_recording_tells_nothing_of_what_runs() -> None:
    told = pod("p", "1")
    told["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": '{"env":"s3cret"}',
        "a": "stays",
    }
    told["spec"]["containers"][0]["livenessProbe"] = {"exec": {"command": ["s3cret"]}}
    told["spec"]["ephemeralContainers"] = [{"name": "d", "env": [{"name": "TOKEN", "value": "s3cret"}]}]
    before = orjson.dumps(told)
    found = orjson.dumps(public(told))
    assert b"s3cret" not in found and b"stays" in found
    assert orjson.dumps(told) == before


def lines(out: io.BytesIO) -> list[bytes]:
    return out.getvalue().splitlines()


async def test_recording_ends_with_its_time_and_when_nobody_answers_or_nothing_can_be_written() -> None:
    async with ApiClient(["127.0.0.1:1"]) as client:
        with pytest.raises(ApiError, match="no apiserver answered for"):
            await Recorder(client, SystemClock(), io.BytesIO(), silence_s=0.3).run(None)

    class Full(io.BytesIO):
        def write(self, line: Any) -> int:
            if b'"at"' in line:
                raise OSError(28, "No space left on device")
            return super().write(line)

    async with running(0) as (api, _):
        await api.put(node("a"))
        async with ApiClient([api.address]) as client:
            recorder = Recorder(client, SystemClock(), out := io.BytesIO())
            async with asyncio.timeout(30):
                await recorder.run(0.2)
            assert [one.object["kind"] for one in parse_recording(lines(out)).moments] == ["Node"]
            async with asyncio.timeout(30):
                with pytest.raises(OSError, match="No space left"):
                    await Recorder(client, SystemClock(), Full()).run(None)


# The command


def write(path: Path, found: Recording) -> Path:
    head = {"recording": FORMAT, "began": found.began}
    path.write_bytes(b"\n".join(map(orjson.dumps, [head, *(one._asdict() for one in found.moments)])) + b"\n")
    return path


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(root, ["replay", *map(str, arguments)])


def test_the_command_compares_configurations_and_versions(tmp_path: Path) -> None:
    stream = write(tmp_path / "stream", three_pods())
    config = tmp_path / "packing.yaml"
    config.write_text(PACKING)
    shown = command(stream, "--against", config)
    assert shown.exit_code == 3, shown.output
    assert shown.output.splitlines()[0].split() == ["POD", "DEFAULTS", "PACKING.YAML", "WHY"]
    assert shown.output.splitlines()[1].split() == ["d/p2", "b", "a"]
    assert shown.output.splitlines()[-1] == "2 pods differ"
    before = tmp_path / "before.json"
    before.write_text(command(stream, "-o", "json").output)
    assert len(json.loads(before.read_text())["outcomes"]) == 3
    same = command(stream, "--against", before)
    assert (same.exit_code, same.output.splitlines()[-1]) == (0, "no pod differs")
    assert command(stream, "--config", config, "--against", before).exit_code == 3


@pytest.mark.integration
async def test_the_command_records_a_real_apiserver(tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    async with Apiservers(tmp_path) as servers, servers.client() as api:
        await fill(api)
        raykube = Command(kubeconfig(tmp_path, servers.address("grpc")))
        task = asyncio.create_task(raykube("record", str(stream), "--for", "8s"))
        await until(lambda: stream.exists() and stream.read_bytes().count(b'"kind":"Node"') == 3, 60)
        waits = pod("late", "3", namespace="default", automountServiceAccountToken=False)
        for field in ("uid", "resourceVersion"):
            del waits["metadata"][field]
        (result,) = await api.write([operations.create(waits)])
        assert result.code == 201, result.body
        assert "objects and changes in" in await task
        assert "--for" in await raykube("record", str(stream), "--for", "long", code=2)
        error = await raykube("record", str(tmp_path / "no" / "stream"), code=1)
        assert f"cannot write {tmp_path}/no/stream: No such file or directory" in error
    shown = json.loads(command(stream, "-o", "json").output)["outcomes"]
    assert [(one["name"], one["node"]) for one in shown] == [("late", "a")]
    assert shown[0]["placed"] == shown[0]["came"]


def test_what_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    stream, bad = write(tmp_path / "stream", three_pods()), tmp_path / "bad"
    bad.write_text("kind: Pod\n")
    assert "no recording of `raykube record`" in command(bad).output
    assert "cannot read" in command(tmp_path / "none").output
    assert "Object 'apiVersion' is missing" in command(stream, "--against", bad).output
    bad.write_text('{"outcomes": [{"node": "x"}]}')
    assert "--against" in command(stream, "--against", bad).output
    with stream.open("ab") as out:
        out.write(b'{"at": 4.0, "type": "ADD')
    assert command(stream, "-o", "json").exit_code == 0, "the recorder was killed while it wrote"
    with stream.open("ab") as out:
        out.write(b'\n{"at": 5.0}\n')
    assert "line 8 is no JSON" in command(stream).output
