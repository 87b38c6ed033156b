"""Archives that a container sends for a copy, honest and hostile, unpacked beside files that are the caller's."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from raykube.client.extraction import extract


def folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member


def file(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def hardlink(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.LNKTYPE, target
    return member


def unpack(destination: Path, *members: tarfile.TarInfo) -> None:
    """Every file's content is `sent`."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member in members:
            data = b"sent" if member.isreg() else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    raw.seek(0)
    with tarfile.open(fileobj=raw, mode="r|") as archive:
        extract(archive, destination)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with files of the caller's."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".bashrc").write_text("mine")
    (home / ".ssh" / "keys").write_text("mine")
    return home


def test_a_folder(home: Path) -> None:
    unpack(
        home / "as",
        folder("hosts/"),
        file("hosts/a"),
        folder("hosts/deep/"),
        symlink("hosts/deep/up", "../a"),
        hardlink("hosts/deep/same", "hosts/a"),
        symlink("hosts/nowhere", "nothing"),
    )
    assert (home / "as/a").read_text() == (home / "as/deep/up").read_text() == (home / "as/deep/same").read_text()
    assert os.readlink(home / "as/nowhere") == "nothing"
    assert {one.name for one in home.iterdir()} == {".bashrc", ".ssh", "as"}


def test_a_file_replaces_a_file_and_a_folder_joins_a_folder(home: Path) -> None:
    unpack(home / ".bashrc", file("hosts"))
    assert (home / ".bashrc").read_text() == "sent"
    unpack(home, folder("hosts"), file("hosts/new"), folder("hosts/.ssh"), file("hosts/.ssh/new"))
    assert (home / "new").read_text() == (home / ".ssh/new").read_text() == "sent"
    assert (home / ".ssh/keys").read_text() == "mine"
    unpack(home / "not/there/yet", file("hosts"))
    assert (home / "not/there/yet").read_text() == "sent"


HOSTILE = {
    "up": [folder("hosts/"), file("hosts/../.bashrc")],
    "up at once": [file("../.bashrc")],
    "up behind a folder": [folder("hosts"), folder("hosts/a"), file("hosts/a/../../.bashrc")],
    "absolute": [folder("hosts"), file("/hosts/a")],
    "a link out": [folder("hosts"), symlink("hosts/a", "../.bashrc")],
    "an absolute link": [folder("hosts"), symlink("hosts/a", "/etc/passwd")],
    "written through a link's name": [folder("hosts"), symlink("hosts/a", "../.bashrc"), file("hosts/a")],
    "written over a link": [folder("hosts"), symlink("hosts/a", "b"), file("hosts/a")],
    "written behind a link": [folder("hosts"), symlink("hosts/a", "."), file("hosts/a/b")],
    "the top a link": [symlink("hosts", ".ssh"), file("hosts/keys")],
    "the top a link later": [folder("hosts"), symlink("hosts", ".ssh"), file("hosts/keys")],
    "a link of links": [folder("hosts"), symlink("hosts/b/l", "../a/../.bashrc"), symlink("hosts/a", ".")],
    "a hard link up": [folder("hosts"), hardlink("hosts/a", "hosts/../.bashrc"), file("hosts/a")],
    "an absolute hard link": [folder("hosts"), hardlink("hosts/a", "/etc/passwd")],
    "a hard link to a link": [folder("hosts"), symlink("hosts/a", "b"), hardlink("hosts/c", "hosts/a")],
    "a device": [folder("hosts"), file("hosts/a")],
}
HOSTILE["a device"][1].type = tarfile.CHRTYPE


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_members(home: Path, members: list[tarfile.TarInfo]) -> None:
    with pytest.raises(tarfile.TarError):
        unpack(home / "hosts", *members)
    assert (home / ".bashrc").read_text() == (home / ".ssh/keys").read_text() == "mine"
    assert {one.name for one in home.iterdir()} == {".bashrc", ".ssh"}, "nothing is left"


def test_a_link_among_the_callers_files_is_not_followed(home: Path) -> None:
    copy = home / "copy"
    copy.mkdir()
    (copy / "sub").symlink_to(home / ".ssh")
    (copy / "text").symlink_to(home / ".bashrc")
    unpack(copy, folder("hosts"), file("hosts/text"))
    assert (home / ".bashrc").read_text() == "mine" and (copy / "text").read_text() == "sent"
    with pytest.raises(OSError):
        unpack(copy, folder("hosts"), folder("hosts/sub"), file("hosts/sub/keys"))
    assert (home / ".ssh/keys").read_text() == "mine"
