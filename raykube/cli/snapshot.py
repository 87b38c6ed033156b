"""`raykube kv snapshot`: backups of the store, with the flags of etcdctl and etcdutl."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import click

from raykube.kv import backup_files
from raykube.kv.core import backup
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.channel import Channel

MAINTENANCE = etcd_pb2.DESCRIPTOR.services_by_name["Maintenance"]


@click.group()
def snapshot() -> None:
    """Save the store's content, look at a saved one, or begin a new cluster with it.

    'etcdctl snapshot save' writes the same file. It is in the store's own format: 'restore' and 'status' here read it,
    and those of etcdctl and etcdutl, which look for etcd's database, do not.
    """


def _endpoint(text: str) -> tuple[bool, str]:
    """(with TLS, address) of an endpoint in one of the forms that etcdctl takes."""
    scheme, separator, address = text.partition("://")
    if not separator:
        return False, text
    if scheme not in ("http", "https"):
        raise click.UsageError(f"--endpoints: {text!r} is not of the form address:port, http://… or https://…")
    return scheme == "https", address.rstrip("/")


async def _save(address: str, tls: Tls | None, path: Path) -> int:
    """Streams a backup into `path`; returns its size. Raises OSError, RpcError, ValueError."""
    temporary = path.with_name(f"{path.name}.part")
    channel = Channel(address, tls)
    size = 0
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            async for piece in channel.stub(MAINTENANCE).Snapshot(etcd_pb2.SnapshotRequest()):
                file.write(piece.blob)
                size += len(piece.blob)
            file.flush()
            os.fsync(file.fileno())
        if not backup.has_sum(size):
            raise ValueError(f"{address} sent {size} bytes and no checksum: nothing is saved")
        temporary.rename(path)
        return size
    finally:
        temporary.unlink(missing_ok=True)
        await channel.close()


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--endpoints", default="127.0.0.1:2379", show_default=True, help="the member to ask: exactly one")
@click.option("--cacert", type=click.Path(path_type=Path), help="CA that signed the member's certificate")
@click.option("--cert", type=click.Path(path_type=Path), help="certificate to show")
@click.option("--key", type=click.Path(path_type=Path), help="key of --cert")
def save(file: Path, endpoints: str, cacert: Path | None, cert: Path | None, key: Path | None) -> None:
    """Write what a member holds now to FILE."""
    if "," in endpoints:
        raise click.UsageError("--endpoints: a snapshot is of one member: name one")
    is_https, address = _endpoint(endpoints)
    tls = None
    if cert is not None and key is not None and cacert is not None:
        tls = Tls(cert, key, cacert)
    elif is_https or not cert == key == cacert:
        raise click.UsageError("--cacert, --cert and --key go together, and https needs them")
    try:
        asyncio.run(_save(address, tls, file))
    except (OSError, RpcError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        raise click.ClickException(f"no snapshot of {address}: {reason}") from None
    click.echo(f"Snapshot saved at {file}")


def _read(file: Path, skip_hash_check: bool) -> backup_files.Backup:
    try:
        return backup_files.open_backup(file, skip_hash_check)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _readable(size: int) -> str:
    """Bytes as etcdctl shows them: in powers of a thousand, with one decimal below ten."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.1f} {units[0]}" if number < 10 and units[0] != "B" else f"{number:.0f} {units[0]}"


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-w", "--write-out", type=click.Choice(["simple", "json", "table", "fields"]), default="simple", show_default=True
)
def status(file: Path, write_out: str) -> None:
    """Show hash, revision, number of keys and size of a saved snapshot: FILE."""
    found = _read(file, skip_hash_check=False)
    try:
        store = backup_files.read_machine(found).store
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    keys = len(store.index.histories)
    facts: dict[str, Any] = {
        "hash": store.hash(),
        "revision": store.revision,
        "totalKey": keys,
        "totalSize": found.size,
    }
    row = (f"{facts['hash']:x}", str(store.revision), str(keys), _readable(found.size))
    if write_out == "json":
        click.echo(json.dumps(facts))
    elif write_out == "fields":
        for name, value in zip(("Hash", "Revision", "Keys", "Size"), facts.values(), strict=True):
            click.echo(f'"{name}" : {value}')
    elif write_out == "table":
        heads = ("HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE")
        widths = [max(len(head), len(cell)) for head, cell in zip(heads, row, strict=True)]
        line = "+".join(["", *("-" * (width + 2) for width in widths), ""])
        cells = (
            cell.rjust(width) if cell.isdigit() else cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        )
        titles = (head.center(width) for head, width in zip(heads, widths, strict=True))
        click.echo("\n".join((line, f"| {' | '.join(titles)} |", line, f"| {' | '.join(cells)} |", line)))
    else:
        click.echo(", ".join(row))


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="directory to write [default: NAME.etcd]")
@click.option("--wal-dir", type=click.Path(path_type=Path), help="directory for the log [default: in --data-dir]")
@click.option("--name", default="default", show_default=True, help="name of this member in the new cluster")
@click.option(
    "--initial-cluster", default="default=http://localhost:2380", show_default=True, help="members of the new cluster"
)
@click.option("--initial-cluster-token", default="etcd-cluster", show_default=True, help="as for the new cluster")
@click.option(
    "--initial-advertise-peer-urls",
    default="http://localhost:2380",
    show_default=True,
    help="this member's addresses for the others",
)
@click.option("--skip-hash-check", is_flag=True, help="also take a file without checksum, as from a member's snap/")
@click.option("--bump-revision", type=click.IntRange(min=0), default=0, help="add to the store's revision")
@click.option("--mark-compacted", is_flag=True, help="compact at that revision: watchers from before are told")
def restore(
    file: Path,
    data_dir: Path | None,
    wal_dir: Path | None,
    name: str,
    initial_cluster: str,
    initial_cluster_token: str,
    initial_advertise_peer_urls: str,
    skip_hash_check: bool,
    bump_revision: int,
    mark_compacted: bool,
) -> None:
    """Make the data directory of one member of a new cluster out of a saved snapshot: FILE.

    Run it once for each member, with the same FILE and --initial-cluster; then start all with those flags. Ids of
    cluster and members are new; revisions and leases are kept.
    """
    found = _read(file, skip_hash_check)
    target = data_dir or Path(f"{name}.etcd")
    cluster = backup_files.NewCluster(
        name, initial_cluster.split(","), initial_cluster_token, initial_advertise_peer_urls.split(",")
    )
    try:
        backup_files.restore(found, cluster, target, wal_dir, bump_revision, mark_compacted)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Restored {file} to {target}")
