"""The addresses of this host, as the kernel lists them."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path


def local_addresses(proc: Path = Path("/proc/net")) -> list[str]:
    """Every IPv4 and IPv6 address of this host; an unreadable list is empty."""
    found: list[str] = []
    try:
        candidate = ""
        for line in (proc / "fib_trie").read_text().splitlines():
            text = line.strip()
            if text.startswith("|-- "):
                candidate = text[4:]
            elif text == "/32 host LOCAL" and candidate:
                found.append(candidate)
    except OSError:
        pass
    try:
        for line in (proc / "if_inet6").read_text().splitlines():
            address = IPv6Address(int(line.split()[0], 16))
            if not address.is_link_local:
                found.append(str(address))
    except (OSError, ValueError, IndexError):
        pass
    return list(dict.fromkeys(found))


def chosen(wanted: list[str], primary: tuple[str, ...], local: list[str]) -> list[str]:
    """The addresses that `--nodeport-addresses` means: single ones as they are, networks by what this host has."""
    found: list[str] = []
    for text in wanted or ["primary"]:
        if text == "primary":
            found += primary
            continue
        network = ip_network(text, strict=False)
        if network.num_addresses == 1:
            found.append(str(network.network_address))
        else:
            found += [address for address in local if _within(address, network)]
    return list(dict.fromkeys(found))


def _within(address: str, network: IPv4Network | IPv6Network) -> bool:
    return ip_address(address) in network
