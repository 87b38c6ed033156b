"""The /etc/hosts of a pod."""

from raykube.kubelet.core.criconfig import hostname
from raykube.kubelet.core.pod import Object

HEAD = """# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def hosts_file(pod: Object, pod_ip: str) -> str:
    own = hostname(pod)
    text = HEAD
    if pod_ip and own:
        text += f"{pod_ip}\t{own}\n"
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or ()) + "\n" for alias in aliases)
    return text
