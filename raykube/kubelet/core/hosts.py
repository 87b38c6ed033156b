"""A pod's /etc/hosts."""

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.criconfig import fully_qualified, short_hostname
from raykube.kubelet.core.pod import Object

HEAD = """# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
HOST_HEAD = "# Kubernetes-managed hosts file (host network).\n"


def hosts_file(pod: Object, pod_ips: tuple[str, ...], cluster_domain: str, machine_file: str) -> str:
    """`machine_file` is the machine's own: pods on its network begin with that."""
    if pods.on_host_network(pod):
        text = HOST_HEAD + machine_file
    else:
        text = HEAD
        name, full = short_hostname(pod), fully_qualified(pod, cluster_domain)
        for address in pod_ips:
            text += f"{address}\t{full}\t{name}\n" if full else f"{address}\t{name}\n"
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or ()) + "\n" for alias in aliases)
    return text
