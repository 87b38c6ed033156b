"""Ids of members and clusters, out of the flags that all members share."""

from collections.abc import Iterable
from hashlib import sha1
from urllib.parse import urlsplit

from raykube.kv.core.raft.membership import Member, Membership


def member_id(peer_urls: Iterable[str], token: str) -> int:
    """The id of the member with these peer addresses in the cluster `token`; never 0."""
    text = "".join(sorted(peer_urls)) + token
    return int.from_bytes(sha1(text.encode()).digest()[:8], "big") or 1


def token_id(token: str) -> int:
    """A hash of `--initial-cluster-token`, kept in the log; never 0."""
    return int.from_bytes(sha1(token.encode()).digest()[:8], "big") or 1


def cluster_id(membership: Membership) -> int:
    """The id of the cluster that began with these members."""
    data = b"".join(member.to_bytes(8, "big") for member in membership.ids)
    return int.from_bytes(sha1(data).digest()[:8], "big") or 1


def parse_initial_cluster(items: Iterable[str], token: str) -> Membership:
    """`m1=http://a:2380,m2=http://b:2380` (a name may come twice) → members. Raises ValueError."""
    urls: dict[str, list[str]] = {}
    for item in items:
        name, sign, url = item.partition("=")
        if not sign or not name:
            raise ValueError(f"--initial-cluster: {item!r} is not of the form name=url")
        check_url(url)
        urls.setdefault(name, []).append(url)
    members = [Member(member_id(peers, token), name, tuple(sorted(peers))) for name, peers in urls.items()]
    if len({member.id for member in members}) != len(members):
        raise ValueError("--initial-cluster: two members have the same address")
    return Membership(tuple(sorted(members, key=lambda member: member.id)))


def require_advertised(name: str, own: Member, advertised: Iterable[str]) -> None:
    """Raises ValueError when a member would tell other addresses than all others were told of it."""
    if own.peer_urls != tuple(sorted(advertised)):
        raise ValueError(
            f"--initial-cluster has {','.join(own.peer_urls)} for {name!r}, "
            f"and --initial-advertise-peer-urls has {','.join(advertised)}"
        )


def address_of(url: str) -> tuple[str, str]:
    """`https://127.0.0.2:2380` → ("https", "127.0.0.2:2380"). Raises ValueError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is not of the form http://address:port or https://address:port")
    return parts.scheme, parts.netloc


def check_url(url: str) -> None:
    """Raises ValueError on what etcd refuses as a URL of a member. (A log may have one with a slash at the end.)"""
    address_of(url)
    if urlsplit(url).path:
        raise ValueError(f"{url!r} is not of the form http://address:port or https://address:port: it has a path")


def is_same_place(urls: Iterable[str], others: Iterable[str]) -> bool:
    """Whether both are the same addresses."""
    return {address_of(url) for url in urls} == {address_of(url) for url in others}


def takes_ipv4(url: str, urls: Iterable[str]) -> bool:
    """Whether a server that listens on `url` takes IPv4 on `[::]`, as etcd does: unless others of `urls` do, there."""
    others = [urlsplit(other) for other in urls]
    return not any(other.port == urlsplit(url).port and ":" not in (other.hostname or "") for other in others)
