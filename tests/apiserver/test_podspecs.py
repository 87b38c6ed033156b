"""Pods whose spec is known: stored, or refused, exactly as if their spec had never been seen before."""

import random
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import admission, planning
from raykube.apiserver.core.admission import LOOKED_AT, Missing
from raykube.apiserver.core.planning import Operation, Planner
from raykube.apiserver.core.podspecs import PodSpecs, draft
from raykube.apiserver.core.strategy import Draw
from tests.apiserver.planner import Shelf

POD = builtin("v1", "Pod")
NOW = 1_800_000_000.0


class Maker:
    """A planner whose draws can be repeated."""

    def __init__(self, view: Shelf) -> None:
        self.random = random.Random(0)
        self.view = view
        self.planner = Planner(view, Draw(self.random.randbytes, self.random.randrange))

    def make(self, body: Any, seed: int = 0, **fields: Any) -> tuple[Any, ...]:
        self.random.seed(seed)
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        op = Operation(planning.CREATE, POD, "default", raw=raw, validation="Ignore", **fields)
        try:
            plan = self.planner.plan(op, None, NOW)
        except Missing as missing:
            return "missing", missing.error.status(), missing.patience_s
        except ApiError as error:
            return "refused", error.status()
        return (
            op.name,
            plan.key,
            plan.value,
            plan.reply,
            plan.code,
            plan.write,
            plan.retry_name,
            plan.created,
            plan.expected,
        )


def shelf() -> Shelf:
    view = Shelf()
    view.put(("", "namespaces", "", "default"), {"metadata": {"name": "default"}})
    view.put(("", "serviceaccounts", "default", "default"), {"metadata": {"name": "default", "namespace": "default"}})
    return view


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "x"}], **spec},
    }


def is_known(maker: Maker, body: dict[str, Any]) -> bool:
    found = draft(POD, orjson.dumps(body), "default")
    return found is not None and maker.planner._specs.find(found.key, maker.view.version) is not None


def test_a_spec_is_known_once_it_has_come_twice() -> None:
    maker = Maker(shelf())
    for number in range(4):
        assert is_known(maker, pod()) == (number >= 2)
        made = maker.make(pod(f"p{number}"), seed=number)
        assert made == Maker(shelf()).make(pod(f"p{number}"), seed=number)
    assert not is_known(maker, pod(hostNetwork=True))


def test_each_pod_has_a_token_volume_of_its_own() -> None:
    maker = Maker(shelf())
    names = set()
    for number in range(5):
        spec = orjson.loads(maker.make(pod(f"p{number}"), seed=number)[2])["spec"]
        (volume,) = spec["volumes"]
        assert [each["name"] for each in spec["containers"][0]["volumeMounts"]] == [volume["name"]]
        names.add(volume["name"])
    assert len(names) == 5


def test_what_admission_looks_at_makes_specs_unknown_when_it_changes() -> None:
    view = shelf()
    maker = Maker(view)
    body = pod()
    for _ in range(3):
        maker.make(body)
    assert is_known(maker, body)
    urgent = {"metadata": {"name": "urgent"}, "value": 1000, "globalDefault": True}
    view.put(("scheduling.k8s.io", "priorityclasses", "", "urgent"), urgent)
    assert orjson.loads(maker.make(body)[2])["spec"]["priority"] == 1000
    view.put(("", "namespaces", "", "default"), {"metadata": {"name": "default", "deletionTimestamp": "now"}})
    assert maker.make(body)[0] == "refused"
    view.put(("", "namespaces", "", "default"), None)
    assert maker.make(body)[0] == "missing"


def test_admission_looks_at_nothing_else() -> None:
    seen = set()

    class Watched(Shelf):
        def find(self, group: str, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
            seen.add((group, plural))
            return super().find(group, plural, namespace, name)

        def every(self, group: str, plural: str, namespace: str = "") -> list[dict[str, Any]]:
            seen.add((group, plural))
            return super().every(group, plural, namespace)

    view = Watched()
    view.objects = shelf().objects
    view.put(("node.k8s.io", "runtimeclasses", "", "r"), {"metadata": {"name": "r"}})
    for body in (pod(), pod(runtimeClassName="r"), pod(priorityClassName="no")):
        Maker(view).make(body)
    assert seen == set(LOOKED_AT)


def test_limits_are_not_learnt() -> None:
    view = shelf()
    limits = [{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]
    view.put(("", "limitranges", "default", "l"), {"metadata": {"name": "l"}, "spec": {"limits": limits}})
    maker = Maker(view)
    for _ in range(4):
        made = orjson.loads(maker.make(pod())[2])
        assert made["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
    assert not is_known(maker, pod())


def same_again(view: Shelf, *bodies: dict[str, Any]) -> None:
    """Each body is made as by a planner that has seen none, also the third time."""
    maker = Maker(view)
    for seed in range(3 * len(bodies)):
        body = bodies[seed // 3]
        assert maker.make(body, seed) == Maker(view).make(body, seed)


def test_a_volume_that_only_looks_like_the_tokens_keeps_its_name() -> None:
    token = {"name": "kube-api-access-mine", "emptyDir": {}}
    mount = {"name": "kube-api-access-mine", "mountPath": "/x"}
    same_again(shelf(), pod(volumes=[token]), pod(volumes=[token], containers=[{"name": "c", "volumeMounts": [mount]}]))


def test_a_secret_that_only_looks_like_the_tokens_volume_keeps_its_name() -> None:
    view = shelf()
    secrets = [{"name": "kube-api-access-mine"}]
    account = {"metadata": {"name": "default"}, "imagePullSecrets": secrets}
    view.put(("", "serviceaccounts", "default", "default"), account)
    same_again(view, pod(), pod(automountServiceAccountToken=False))


def test_a_mirror_pod_is_not_like_others_of_its_spec() -> None:
    mirror = pod()
    mirror["metadata"]["annotations"] = {admission.MIRROR: "x"}
    same_again(shelf(), pod(), mirror)


def test_a_flood_of_specs_is_forgotten() -> None:
    specs = PodSpecs()
    for number in range(5000):
        specs.find(("default", b"%d" % number), 0)
        specs.learn(("default", b"%d" % number), {}, b"")
    assert len(specs._known) <= 1024


NAMES = st.sampled_from(["p", "", "Not A Name", "a" * 300])
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES,
        "generateName": st.sampled_from(["p-", "UPPER-"]),
        "namespace": st.sampled_from(["default", "other"]),
        "labels": st.sampled_from([{"app": "web"}, {"app": "*"}, {"": "x"}, {}, None, {"a": 1}]),
        "annotations": st.sampled_from(
            [{"a": "b"}, {"*": "b"}, {admission.MIRROR: "x"}, {"kubernetes.io/limit-ranger": "x"}, None]
        ),
        "ownerReferences": st.sampled_from(
            [[{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": True}], [{"name": "n"}], None]
        ),
        "finalizers": st.sampled_from([["a/b"], ["b"], []]),
        "uid": st.just("mine"),
        "creationTimestamp": st.sampled_from([None, "2020-01-01T00:00:00Z", "2020-01-01T00:00:00.5+01:00"]),
        "deletionTimestamp": st.just("2020-01-01T00:00:00Z"),
        "resourceVersion": st.sampled_from(["", "7"]),
        "managedFields": st.sampled_from([[], [{"manager": "m", "operation": "Update"}]]),
        "unheardOf": st.just(1),
    },
)
SPEC = st.fixed_dictionaries(
    {
        "containers": st.sampled_from(
            [
                [{"name": "c", "image": "x"}],
                [{"name": "c", "image": "x", "resources": {"limits": {"cpu": "0.5", "memory": "1000Mi"}}}],
                [{"name": "c", "image": "x", "volumeMounts": [{"name": "kube-api-access-mine", "mountPath": "/x"}]}],
                [{"name": "c"}, {"name": "c", "image": "y", "unheardOf": 1}],
                [],
            ]
        )
    },
    optional={
        "automountServiceAccountToken": st.sampled_from([True, False, None]),
        "serviceAccountName": st.sampled_from(["default", "builder", "nobody"]),
        "priorityClassName": st.sampled_from(["high", "none"]),
        "volumes": st.sampled_from([[{"name": "kube-api-access-mine", "emptyDir": {}}], [{"name": "v"}], None]),
        "schedulingGates": st.just([{"name": "a.b/c"}]),
        "nodeName": st.just("n"),
        "restartPolicy": st.sampled_from(["Never", "Sometimes", 3]),
        "runtimeClassName": st.sampled_from(["r", "none"]),
    },
)
PARTS = st.fixed_dictionaries(
    {"kind": st.just("Pod"), "apiVersion": st.just("v1"), "metadata": METADATA | st.none(), "spec": SPEC},
    optional={"status": st.sampled_from([{}, {"phase": "Running"}, None, 3]), "unheardOf": st.just({})},
)
BODY = st.one_of(PARTS, PARTS, st.sampled_from([b"{", b"[]", {"kind": "Node", "apiVersion": "v1"}, {"spec": {}}]))
ACCOUNTS = st.sampled_from(
    [
        {},
        {"imagePullSecrets": [{"name": "s"}]},
        {"imagePullSecrets": [{"name": "kube-api-access-mine"}]},
        {"automountServiceAccountToken": False},
    ]
)
CHANGES = st.sampled_from(["", "", "class", "account", "limits"])


@settings(max_examples=300, deadline=None)
@given(specs=st.lists(BODY, min_size=1, max_size=3), account=ACCOUNTS, data=st.data())
def test_known_and_unknown_specs_are_one(specs: list[Any], account: dict[str, Any], data: st.DataObject) -> None:
    view = shelf()
    view.put(("", "serviceaccounts", "default", "builder"), {"metadata": {"name": "builder"}, **account})
    view.put(("scheduling.k8s.io", "priorityclasses", "", "high"), {"metadata": {"name": "high"}, "value": 7})
    view.put(("node.k8s.io", "runtimeclasses", "", "r"), {"metadata": {"name": "r"}, "overhead": {"podFixed": {}}})
    maker = Maker(view)
    for seed in range(6):
        body = data.draw(st.sampled_from(specs))
        if isinstance(body, dict) and isinstance(body.get("spec"), dict) and data.draw(st.booleans()):
            body = {**body, "metadata": data.draw(METADATA)}
        fields = {"field_manager": data.draw(st.sampled_from(["", "m"])), "dry_run": data.draw(st.booleans())}
        assert maker.make(body, seed, **fields) == Maker(view).make(body, seed, **fields)
        change = data.draw(CHANGES)
        if change == "class":
            value = data.draw(st.integers(0, 3))
            obj = {"metadata": {"name": "d"}, "value": value, "globalDefault": True}
            view.put(("scheduling.k8s.io", "priorityclasses", "", "d"), obj)
        elif change == "account":
            view.put(
                ("", "serviceaccounts", "default", "builder"), {"metadata": {"name": "builder"}, **data.draw(ACCOUNTS)}
            )
        elif change == "limits":
            limits = [{"type": "Container", "default": {"cpu": "1"}}]
            view.put(("", "limitranges", "default", "l"), {"metadata": {"name": "l"}, "spec": {"limits": limits}})
