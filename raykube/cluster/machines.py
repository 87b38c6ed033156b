"""Which machines a cluster takes, under which names, and which of them run the control plane. Pure."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, count

from raykube.cluster.addresses import MACHINES_MAX
from raykube.cluster.facts import Facts
from raykube.cluster.state import DOCKER, ClusterState, Machine

ACCELERATOR = "accelerator_type:"  # of a resource of Ray: the kind
LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
NAME_MAX = 63  # a Node's name is a label's value, too
PROCESS_RUNTIME = "process"  # what --container-runtime-endpoint says for the embedded runtime


def node_name(hostname: str, address: str, used: Collection[str]) -> str:
    """A Node name for a machine: its host name, made unique by its address when two share it, and by a number when that
    is another's host name."""
    host = hostname.lower().split(".")[0]
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in host).strip("-") or "machine"
    place = "-" + address.replace(".", "-").replace(":", "-")
    ends = chain(["", place], (f"{place}-{number}" for number in count(2)))
    return next(whole for end in ends if (whole := f"{name[: NAME_MAX - len(end)].rstrip('-')}{end}") not in used)


def runtime_of(endpoint: str, facts: Facts) -> str:
    """The runtime of a machine's containers: an endpoint of CRI, DOCKER, or "" for the embedded one.

    `endpoint`: the operator's choice, "" for none.
    """
    if endpoint == PROCESS_RUNTIME:
        return ""
    if endpoint:
        return endpoint
    return facts.runtimes[0] if facts.is_root and facts.runtimes else ""


def all_have_networks(endpoint: str, found: Sequence[Facts]) -> bool:
    """Whether a new cluster on these machines gives its pods networks of their own: each needs a runtime that does."""
    return bool(found) and all(runtime_of(endpoint, facts) for facts in found)


def refusal(state: ClusterState, facts: Facts, version: str) -> str:
    """Why this machine cannot be one of the cluster's, and what to do; "" when it can."""
    if facts.version != version:
        return f"has raykube {facts.version}, the cluster has {version}: install the same on all machines"
    if others := set(facts.clusters) - {state.id}:
        return (
            f"has parts of another cluster, of id {min(others)}, in the same data directory: if you mean that one,"
            " 'raykube up --existing'; else end it with 'raykube down', or remove that directory there"
        )
    if not state.has_networks:
        return ""
    runtime = runtime_of(state.runtime_endpoint, facts)
    if not runtime:
        return "has no container runtime, the cluster's other machines have one: install containerd or Docker there"
    if runtime == DOCKER and DOCKER not in facts.runtimes:
        return "has no Docker that answers (20.10 or newer): install and start it there"
    if not facts.is_root:
        return "runs Ray as an ordinary user: its container runtime and networks need root"
    return ""


def accelerators(resources: Mapping[str, float]) -> str:
    """What Ray counts of a machine's GPUs and their like, as labels of its Node: key=value,….

    `ray.io/accelerator-type` is Ray's own name for the kind, as in its labels.
    """
    counts = {"GPU": "gpu", "TPU": "tpu", "neuron_cores": "neuron-core", "HPU": "hpu", "NPU": "npu"}
    found = {
        f"ray.io/{name}-count": f"{resources[key]:.0f}" for key, name in counts.items() if resources.get(key, 0) >= 1
    }
    kinds = [key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR)]
    if len(kinds) == 1 and LABEL_VALUE.fullmatch(kinds[0]):
        found["ray.io/accelerator-type"] = kinds[0]
    return ",".join(f"{key}={value}" for key, value in found.items())


def is_eligible(state: ClusterState, labels: Mapping[str, str]) -> bool:
    """Whether a machine with these Ray labels may have a part of the control plane."""
    return all(labels.get(key) == value for key, value in state.control_plane_selector.items())


def choose_eligible(state: ClusterState, found: Iterable[Facts]) -> None:
    """Has the selector count for the machines that `state` has already: it may be another one than when they came."""
    labels = {facts.address: facts.labels for facts in found}
    state.machines = [
        machine.model_copy(update={"eligible": is_eligible(state, labels[machine.address])})
        if machine.address in labels
        else machine
        for machine in state.machines
    ]


def admit(state: ClusterState, found: Iterable[Facts]) -> list[Machine]:
    """Takes the machines that `state` does not have yet; returns them. Those over MACHINES_MAX stay outside."""
    new = []
    for facts in found:
        if any(machine.address == facts.address for machine in state.machines):
            continue
        index = _free_index(state)
        if not index:
            break
        state.freed_indexes = [number for number in state.freed_indexes if number != index]
        machine = Machine(
            name=node_name(facts.hostname, facts.address, {machine.name for machine in state.machines}),
            address=facts.address,
            index=index,
            eligible=is_eligible(state, facts.labels),
            runtime=runtime_of(state.runtime_endpoint, facts) if state.has_networks else "",
            node_labels=accelerators(facts.resources),
        )
        state.machines.append(machine)
        new.append(machine)
    return new


def _free_index(state: ClusterState) -> int:
    """An index that no machine has, 0 when there is none.

    One that a machine had comes last, the longest ago freed of them first: its containers may still use its addresses.
    """
    taken = {machine.index for machine in state.machines}
    unused = (number for number in range(1, MACHINES_MAX + 1) if number not in taken.union(state.freed_indexes))
    freed = (number for number in state.freed_indexes if number not in taken)
    return next(chain(unused, freed), 0)


def forget(state: ClusterState, name: str) -> None:
    """Takes a machine out of the cluster. Raises KeyError."""
    machine = state.machine(name)
    state.machines = [other for other in state.machines if other.name != name]
    state.freed_indexes = [*(number for number in state.freed_indexes if number != machine.index), machine.index]


def set_control_plane(state: ClusterState, names: Iterable[str]) -> bool:
    """Makes `names` the machines of the control plane; returns whether they were not."""
    wanted = set(names)
    changed = [
        machine.model_copy(update={"control_plane": machine.name in wanted})
        if machine.control_plane != (machine.name in wanted)
        else machine
        for machine in state.machines
    ]
    differs = changed != state.machines
    state.machines = changed
    return differs


def first_control_plane(state: ClusterState) -> list[str]:
    """The machines that begin as a new cluster's control plane: those that may, in their order.

    Until there are enough of them it is one alone; the stewards add others as machines join.
    """
    fit = [machine.name for machine in state.machines if machine.eligible]
    return fit[: state.control_plane_size if len(fit) >= state.control_plane_size else 1]


def joined(record: ClusterState, wished: ClusterState) -> ClusterState:
    """`record`, the store's, with what the operator's `wished` adds to it: machines, flags, the size asked for.

    Where members are is the store's business: machines that both have, by their addresses, are as the record says, but
    for whether they may have one. A steward may have taken others meanwhile: where they have the name or the index, a
    new one gets another.
    """
    update = {name: getattr(wished, name) for name in ("extra_config", "gcs_address", "program_path")}
    update |= {name: getattr(wished, name) for name in ("control_plane_size", "control_plane_selector")}
    update |= {name: getattr(wished, name) for name in ("hollow_nodes", "hollow_actors")}
    eligible = {machine.address: machine.eligible for machine in wished.machines}
    known = [
        machine.model_copy(update={"eligible": eligible.get(machine.address, machine.eligible)})
        for machine in record.machines
    ]
    new = record.model_copy(update=update | {"machines": known})
    for machine in wished.machines:
        names, indexes, addresses = (
            {getattr(each, key) for each in new.machines} for key in ("name", "index", "address")
        )
        index = machine.index if machine.index not in indexes else _free_index(new)
        if machine.address in addresses or not index:
            continue
        name = node_name(machine.name, machine.address, names)
        new.machines.append(machine.model_copy(update={"control_plane": False, "name": name, "index": index}))
        new.freed_indexes = [number for number in new.freed_indexes if number != index]
    return new
