"""A pod's resolv.conf: by its dnsPolicy from the cluster's DNS or the machine's own file, with its dnsConfig on top."""

from dataclasses import dataclass, field

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object

SERVERS_MAX = 3  # what libc reads
SEARCHES_MAX = 32
SEARCH_LINE_CHARACTERS_MAX = 2048
CLUSTER_OPTIONS = ("ndots:5",)


@dataclass(frozen=True, slots=True)
class Dns:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


NO_DNS = Dns(searches=(".",))  # of a machine that is to lend pods nothing


@dataclass(slots=True)
class PodDns:
    dns: Dns
    warnings: list[tuple[str, str]] = field(default_factory=list)  # (reason, message) of events


def parse_resolv_conf(text: str) -> Dns:
    """The last `search` and all `nameserver` and `options` lines, as libc has it."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = [word.rstrip(".") or "." for word in words[1:]]
        elif words[0] == "options":
            options += words[1:]
    return Dns(tuple(servers), tuple(dict.fromkeys(searches)), tuple(dict.fromkeys(options)))


def _policy(pod: Object) -> str:
    policy = str(pod["spec"].get("dnsPolicy") or "ClusterFirst")
    if policy == "ClusterFirstWithHostNet":
        return "ClusterFirst"
    if policy == "ClusterFirst" and pods.on_host_network(pod):
        return "Default"
    return policy


def _options(base: tuple[str, ...], own: list[Object]) -> tuple[str, ...]:
    """Options of the pod replace those of the same name."""
    merged = {option.partition(":")[0]: option for option in base}
    for option in own:
        value = option.get("value")
        merged[option["name"]] = f"{option['name']}:{value}" if value else option["name"]
    return tuple(merged.values())


def pod_dns(pod: Object, host: Dns, cluster_dns: tuple[str, ...], cluster_domain: str) -> PodDns:
    """What the pod's resolv.conf says."""
    result = PodDns(Dns())
    policy = _policy(pod)
    if policy == "ClusterFirst" and not cluster_dns:
        message = (
            f'pod: "{pods.full_name(pod)}". kubelet does not have ClusterDNS IP configured and cannot create Pod using '
            '"ClusterFirst" policy. Falling back to "Default" policy.'
        )
        result.warnings.append(("MissingClusterDNS", message))
        policy = "Default"
    if policy == "ClusterFirst":
        domains = []
        if cluster_domain:
            domains = [f"{pods.namespace(pod)}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain]
        base = Dns(cluster_dns, (*domains, *host.searches), CLUSTER_OPTIONS)
    else:
        base = host if policy == "Default" else Dns()
    own = pod["spec"].get("dnsConfig") or {}
    dns = Dns(
        tuple(dict.fromkeys((*base.servers, *(own.get("nameservers") or ())))),
        tuple(dict.fromkeys((*base.searches, *(own.get("searches") or ())))),
        _options(base.options, own.get("options") or []),
    )
    result.dns = _within_limits(dns, result.warnings)
    return result


def _within_limits(dns: Dns, warnings: list[tuple[str, str]]) -> Dns:
    servers, searches = dns.servers[:SERVERS_MAX], dns.searches[:SEARCHES_MAX]
    while len(" ".join(searches)) > SEARCH_LINE_CHARACTERS_MAX:
        searches = searches[:-1]
    if searches != dns.searches:
        message = (
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(searches)
        )
        warnings.append(("DNSConfigForming", message))
    if servers != dns.servers:
        message = (
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(servers)
        )
        warnings.append(("DNSConfigForming", message))
    return Dns(servers, searches, dns.options)
