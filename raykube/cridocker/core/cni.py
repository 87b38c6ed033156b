"""CNI (spec 1.0.0): a network's configuration → what each plugin is given, in order; results → addresses."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raykube.pb import cri_pb2

Object = dict[str, Any]

INTERFACE = "eth0"
SUFFIXES = (".conflist", ".conf", ".json")


class BadNetwork(Exception):
    """A configuration file that is none."""


def network(files: Mapping[str, str]) -> Object:
    """The network that holds for pods: the first file by name, as a list of plugins. Raises BadNetwork."""
    names = sorted(name for name in files if name.endswith(SUFFIXES))
    if not names:
        raise BadNetwork("no networks found")
    name = names[0]
    try:
        found = json.loads(files[name])
    except ValueError as error:
        raise BadNetwork(f"{name}: {error}") from None
    if isinstance(found, dict) and "plugins" not in found and found.get("type"):
        found = {"cniVersion": found.get("cniVersion", ""), "name": found.get("name", ""), "plugins": [found]}
    if not isinstance(found, dict) or not found.get("name") or not found.get("plugins"):
        raise BadNetwork(f"{name} has no name or no plugins")
    return found


def plugin_input(network: Object, index: int, config: cri_pb2.PodSandboxConfig, previous: Object | None) -> Object:
    """The standard input of the plugin at `index`."""
    plugin = {key: value for key, value in network["plugins"][index].items() if key != "capabilities"}
    plugin |= {"name": network["name"], "cniVersion": network.get("cniVersion") or "0.1.0"}
    capabilities = network["plugins"][index].get("capabilities") or {}
    offered = runtime_config(config)
    given = {key: offered[key] for key, asked in capabilities.items() if asked and key in offered}
    if given:
        plugin["runtimeConfig"] = given
    if previous is not None:
        plugin["prevResult"] = previous
    return plugin


def runtime_config(config: cri_pb2.PodSandboxConfig) -> Object:
    mappings = [
        {
            "hostPort": one.host_port,
            "containerPort": one.container_port,
            "protocol": cri_pb2.Protocol.Name(one.protocol).lower(),
            "hostIP": one.host_ip,
        }
        for one in config.port_mappings
        if one.host_port > 0
    ]
    dns = config.dns_config
    found: Object = {
        "dns": {"servers": list(dns.servers), "searches": list(dns.searches), "options": list(dns.options)}
    }
    return found | ({"portMappings": mappings} if mappings else {})


def environment(
    command: str, sandbox_id: str, namespace: str, config: cri_pb2.PodSandboxConfig, folders: Sequence[str]
) -> dict[str, str]:
    """The CNI_ variables; `namespace`: path of a network namespace, "" when it is gone."""
    pod = config.metadata
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.namespace,
        "K8S_POD_NAME": pod.name,
        "K8S_POD_INFRA_CONTAINER_ID": sandbox_id,
        "K8S_POD_UID": pod.uid,
    }
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox_id,
        "CNI_NETNS": namespace,
        "CNI_IFNAME": INTERFACE,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
        "CNI_PATH": ":".join(folders),
    }


def addresses(result: Object) -> list[str]:
    """IPv4 and IPv6 addresses of a result, as its plugin ordered them (0.2.0 names them ip4 and ip6)."""
    found = [one.get("address", "") for one in result.get("ips") or ()]
    found += [(result.get(key) or {}).get("ip", "") for key in ("ip4", "ip6")]
    return [one.partition("/")[0] for one in found if one]
