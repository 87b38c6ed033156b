"""Unpacks the archive of a copy that a container sent, without trusting it.

A name with `..` or an absolute one, a link that leads out of the copy, and a member that would be written through or
over a link are refused. The archive is unpacked into a new folder beside the destination and moved there when it is
whole, so that what was refused leaves nothing.
"""

import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_COPY = "copy"


def extract(archive: tarfile.TarFile, destination: Path) -> None:
    """Makes the archive's one file or folder `destination`; a folder that is there keeps its other files.

    Raises tarfile.TarError for what is refused, and OSError.
    """
    place = Path(os.path.abspath(destination))
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".raykube-copy-", dir=place.parent) as folder:
        root = Path(folder) / _COPY
        links: set[PurePosixPath] = set()
        for member in archive:
            path = _inside(member, member.name, root)
            if not links.isdisjoint((path, *path.parents)):
                raise tarfile.OutsideDestinationError(member, str(root / path))
            if member.issym():
                if path == PurePosixPath():
                    raise tarfile.LinkOutsideDestinationError(member, member.linkname)
                links.add(path)
            elif member.islnk():  # names another member
                target = _inside(member, member.linkname, root)
                if not links.isdisjoint((target, *target.parents)):
                    raise tarfile.LinkOutsideDestinationError(member, str(root / target))
                member.linkname = str(target)
            if path == PurePosixPath() and not member.isdir():
                member.name = _COPY
                archive.extract(member, folder, filter="data")
                continue
            root.mkdir(exist_ok=True)
            member.name = str(path)
            archive.extract(member, root, filter="data")
        _check_links(root, links)
        if os.path.lexists(root):
            _move(root, place.resolve() if place.is_dir() else place)


def _inside(member: tarfile.TarInfo, name: str, root: Path) -> PurePosixPath:
    """A name without its first part, which the destination stands for."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.OutsideDestinationError(member, str(root / path))
    return PurePosixPath(*path.parts[1:])


def _check_links(root: Path, links: Iterable[PurePosixPath]) -> None:
    """Links may lead through links that came later: only the whole tree says where to."""
    real = root.resolve()
    for path in links:
        target = (root / path).resolve()
        if target != real and real not in target.parents:
            raise tarfile.LinkOutsideDestinationError(tarfile.TarInfo(str(path)), str(target))


def _move(source: Path, place: Path) -> None:
    """Folders are merged; a link among what is there is never followed."""
    if source.is_symlink() or not source.is_dir() or place.is_symlink() or not place.is_dir():
        os.replace(source, place)
        return
    for child in source.iterdir():
        _move(child, place / child.name)
