"""The CNI configuration of a machine, as the container runtime reads it (CNI specification 0.4.0)."""

import json
from collections.abc import Collection, Sequence
from ipaddress import ip_network
from typing import Any, Literal

FILE_NAME = "10-raykube.conflist"
NETWORK_NAME = "raykube"

PluginKind = Literal["bridge", "ptp"]


def conflist(
    pod_cidrs: Sequence[str], kind: PluginKind, *, bridge: str, mtu: int, available: Collection[str], data_dir: str
) -> bytes:
    """The file's text: pods get an address of each of `pod_cidrs` and a default route.

    `available`: names of the plug-ins that are there. `portmap` (hostPort), `bandwidth` and `firewall` are optional;
    of them the first two are used if they are there. `mtu` in bytes. `data_dir`: where taken addresses are remembered,
    in a folder with the network's name.
    """
    attach: dict[str, Any] = {
        "type": kind,
        "mtu": mtu,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": cidr}] for cidr in pod_cidrs],
            "dataDir": data_dir,
            "routes": [{"dst": "::/0" if ip_network(cidr).version == 6 else "0.0.0.0/0"} for cidr in pod_cidrs],
        },
    }
    if kind == "bridge":
        # A pod that reaches itself through a Service goes out of and into the same port.
        attach |= {"bridge": bridge, "isGateway": True, "hairpinMode": True}
    plugins = [attach]
    for name, capabilities in (("portmap", {"portMappings": True}), ("bandwidth", {"bandwidth": True})):
        if name in available:
            plugins.append({"type": name, "capabilities": capabilities})
    document = {"cniVersion": "0.4.0", "name": NETWORK_NAME, "plugins": plugins}
    return json.dumps(document, indent=2).encode() + b"\n"
