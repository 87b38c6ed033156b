"""Strategic merge against the real one: `kubectl patch --local` carries upstream's code.

Each run of kubectl gets one patch and many objects, so that a few processes compare hundreds of merges."""

import copy
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.api.patch import strategic_merge
from tests.kit.require import require_program

DEPLOYMENT = resources.builtin("apps/v1", "Deployment")
SERVICE = resources.builtin("v1", "Service")
ACCOUNT = resources.builtin("v1", "ServiceAccount")


def kubectl_patch(objects: list[dict[str, Any]], patch: dict[str, Any], folder: Path) -> list[dict[str, Any]] | str:
    """What upstream makes of `objects`, or its complaint."""
    manifest = folder / "objects.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    program = require_program("kubectl")
    run = subprocess.run(
        [program, "patch", "--local", "-f", str(manifest), "--type=strategic", "-p", json.dumps(patch), "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if run.returncode:
        return run.stderr
    decoder, text, items = json.JSONDecoder(), run.stdout.strip(), []
    while text:  # one document after the other
        item, end = decoder.raw_decode(text)
        items.append(item)
        text = text[end:].lstrip()
    return items


def pruned(value: Any) -> Any:
    """Without what decoding into Go's types drops: empty values, and directives that had nothing to direct."""
    if isinstance(value, dict):
        kept = {name: pruned(each) for name, each in value.items() if not name.startswith("$")}
        return {name: each for name, each in kept.items() if each not in (None, "", {}, [], 0, False)}
    if isinstance(value, list):
        return [pruned(each) for each in value]
    return value


def unordered(value: Any) -> Any:
    """With every list sorted: upstream's order depends on where Go's slices share memory once an item was deleted."""
    if isinstance(value, dict):
        return {name: unordered(each) for name, each in value.items()}
    if isinstance(value, list):
        return sorted(map(unordered, value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


def same(value: Any) -> Any:
    return value


class Dice:
    """Random manifests and patches of a Deployment, in the places where merges differ."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, pool: list[Any], most: int = 4) -> list[Any]:
        return self.random.sample(pool, self.random.randint(0, min(most, len(pool))))

    def chance(self, one_in: int = 2) -> bool:
        return self.random.randrange(one_in) == 0

    def container(self, name: str, patch: bool) -> dict[str, Any]:
        item: dict[str, Any] = {"name": name}
        if patch and self.chance(6):
            return {"name": name, "$patch": "delete"}
        if self.chance():
            item["image"] = self.random.choice(["x", "y", "z"])
        if self.chance():
            item["args"] = self.some(["1", "2", "3"])
        if self.chance():
            env = [{"name": each, "value": self.random.choice("pq")} for each in self.some(["A", "B", "C"])]
            item["env"] = env
            if env and patch and self.chance():
                item["$setElementOrder/env"] = self.order([each["name"] for each in env], ["A", "B", "C", "D"])
        if self.chance():
            item["ports"] = [{"containerPort": port, "name": f"p{port}"} for port in self.some([80, 81, 443])]
        if self.chance():
            item["resources"] = {"limits": {"cpu": self.random.choice(["1", "2"])}}
            if patch and self.chance(3):
                item["resources"]["$patch"] = self.random.choice(["replace", "delete"])
        if patch and self.chance(4):
            field = self.random.choice(["image", "args", "env", "ports"])
            item[field] = None
            item.pop(f"$setElementOrder/{field}", None)
        return item

    def order(self, named: list[str], pool: list[str]) -> list[dict[str, str]]:
        """An element order that contains `named` in their order, with others in between."""
        order = list(named)
        for other in self.some([each for each in pool if each not in named]):
            order.insert(self.random.randint(0, len(order)), other)
        return [{"name": each} for each in order]

    def volume(self, name: str, patch: bool) -> dict[str, Any]:
        source, value = self.random.choice(
            [("emptyDir", {}), ("hostPath", {"path": "/x"}), ("configMap", {"name": self.random.choice("cd")})]
        )
        item: dict[str, Any] = {"name": name, source: value}
        if patch and self.chance():
            item["$retainKeys"] = ["name", source]
        return item

    def deployment(self, patch: bool) -> dict[str, Any]:
        names = ["a", "b", "c", "d", "e"]
        pod: dict[str, Any] = {}
        containers = [self.container(name, patch) for name in self.some(names)]
        if containers or self.chance():
            pod["containers"] = containers
        if containers and patch and self.chance(3):
            pod["$setElementOrder/containers"] = self.order(
                [each["name"] for each in containers if "$patch" not in each], names
            )
        elif patch and self.chance(8):
            pod.setdefault("containers", []).append({"$patch": "replace"})
        if self.chance():
            pod["volumes"] = [self.volume(name, patch) for name in self.some(["u", "v", "w"])]
        if self.chance():
            pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in self.some(["k", "l"])]
        if self.chance():
            pod["nodeSelector"] = dict.fromkeys(self.some(["m", "n"]), self.random.choice("12"))
            if patch and self.chance(3):
                pod["nodeSelector"]["m"] = None
        if self.chance():
            pod["topologySpreadConstraints"] = [
                {"topologyKey": key, "maxSkew": self.random.choice([1, 2]), "whenUnsatisfiable": "DoNotSchedule"}
                for key in self.some(["zone", "host"])
            ]
        if patch and self.chance(10):
            pod["volumes"] = None
        strategy: dict[str, Any] = self.random.choice(
            [{"type": "Recreate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}]
        )
        if patch and self.chance():
            strategy = {**strategy, "$retainKeys": sorted(strategy)}
        metadata: dict[str, Any] = {"labels": dict.fromkeys(self.some(["m", "n"]), "1")}
        if self.chance():
            metadata["finalizers"] = self.some(["f/1", "f/2", "f/3", "f/4"])
        if patch and self.chance():
            gone = [each for each in ["f/1", "f/2", "f/3"] if each not in metadata.get("finalizers", [])]
            metadata["$deleteFromPrimitiveList/finalizers"] = self.some(gone)  # upstream adds or deletes at random
        if metadata.get("finalizers") and patch and self.chance(3):
            metadata["$setElementOrder/finalizers"] = [
                each for each in ["f/4", "f/1", "f/2", "f/3"] if each not in metadata.get("finalizers", [])
            ] + metadata.get("finalizers", [])
        spec: dict[str, Any] = {"template": {"metadata": metadata, "spec": pod}}
        if self.chance():
            spec["strategy"] = strategy
        return {"spec": spec}


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(30))
def test_random_patches_merge_as_upstream_s(seed: int, tmp_path: Path) -> None:
    dice = Dice(seed)
    patch = dice.deployment(patch=True)
    objects = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"d{number}"}, **dice.deployment(False)}
        for number in range(12)
    ]
    before = copy.deepcopy((objects, patch))
    expected = kubectl_patch(objects, patch, tmp_path)
    try:
        merged: list[dict[str, Any]] | None = [strategic_merge(DEPLOYMENT, each, patch) for each in objects]
    except ApiError as error:
        assert isinstance(expected, str), error
        return
    assert not isinstance(expected, str), expected
    arranged = unordered if '"delete"' in json.dumps(patch) else same
    assert arranged(pruned(merged)) == arranged(pruned(expected))
    assert (objects, patch) == before, "an argument was changed"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("obj", "patch"),
    [
        (
            {"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}},
            {"spec": {"ports": [{"port": 81, "targetPort": 8081}], "selector": {"app": "x"}}},
        ),
        ({"spec": {"externalIPs": ["1.1.1.1"]}}, {"spec": {"externalIPs": ["2.2.2.2"]}}),
        ({"metadata": {"annotations": {"a": "1"}}}, {"metadata": {"annotations": {"a": None, "b": "2"}}}),
        ({"spec": {"selector": {"a": "1"}}}, {"spec": {"selector": {"$patch": "replace", "b": "2"}}}),
        ({"spec": {"selector": {"a": "1"}}}, {"spec": {"$patch": "delete"}}),
        (
            {"metadata": {"ownerReferences": [{"uid": "1", "name": "a", "kind": "K", "apiVersion": "v1"}]}},
            {"metadata": {"ownerReferences": [{"uid": "1", "$patch": "delete"}]}},
        ),
    ],
)
def test_services(obj: dict[str, Any], patch: dict[str, Any], tmp_path: Path) -> None:
    whole = {"apiVersion": "v1", "kind": "Service", **obj}
    whole.setdefault("metadata", {})["name"] = "s"
    expected = kubectl_patch([whole], patch, tmp_path)
    assert not isinstance(expected, str), expected
    assert pruned(strategic_merge(SERVICE, whole, patch)) == pruned(expected[0])


POD = {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}}


@pytest.mark.parametrize(
    ("containers", "code", "message"),
    [
        ([{"image": "y"}], 500, "map: map[image:y] does not contain declared merge key: name"),
        ([{"name": "a", "$patch": "merge"}], 500, "merging lists cannot yet be specified in the patch"),
        ([{"name": "a", "$patch": "no"}], 500, "unknown patch type: no in map: map[$patch:no name:a]"),
    ],
)
def test_refusals(containers: list[Any], code: int, message: str) -> None:
    with pytest.raises(ApiError) as raised:
        strategic_merge(DEPLOYMENT, POD, {"spec": {"template": {"spec": {"containers": containers}}}})
    assert (raised.value.code, raised.value.message) == (code, message)


def test_what_is_not_in_retain_keys_may_not_be_set() -> None:
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": {}}}}
    with pytest.raises(ApiError) as raised:
        strategic_merge(DEPLOYMENT, {"spec": {"strategy": {"type": "RollingUpdate"}}}, patch)
    assert raised.value.code == 422


def test_a_list_of_secrets_is_keyed_by_name() -> None:
    merged = strategic_merge(ACCOUNT, {"secrets": [{"name": "a"}]}, {"secrets": [{"name": "b"}]})
    assert merged == {"secrets": [{"name": "b"}, {"name": "a"}]}


def test_the_outcome_has_nothing_of_the_patch() -> None:
    old = {"spec": {"ports": [{"port": 1}], "selector": {"a": "b"}, "externalIPs": ["10.0.0.1"]}}
    patch = {
        "spec": {
            "ports": [{"port": 2, "name": None}, {"$patch": "replace"}],
            "selector": {"$patch": "replace", "c": "d"},
            "externalIPs": ["10.0.0.2"],
            "ipFamilies": ["IPv4"],
        }
    }
    before = copy.deepcopy((old, patch))
    spec = strategic_merge(SERVICE, old, patch)["spec"]
    for each in ("ports", "externalIPs", "ipFamilies"):
        spec[each].append("changed")
    spec["ports"][0]["name"] = "changed"
    spec["selector"]["c"] = "changed"
    assert (old, patch) == before
