"""What volumes do to a real file system: links that lead out, mounts in the way, writers that are killed."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raykube.kubelet.core.payload import File
from raykube.kubelet.volumes import atomicwriter, emptydir, hostpath, mounts, ownership, removal, safepath, subpath
from raykube.kubelet.volumes.failure import VolumeFailed
from tests.kit.require import missing


@pytest.fixture
def may_mount(tmp_path: Path) -> Iterator[None]:
    if not mounts.allowed():
        missing("needs root, to mount")
    yield
    mounts.detach_below(tmp_path)


def open_beneath(base: Path, path: str, mode: int | None = 0o750) -> str:
    with safepath.opened(str(base), path, mode) as handle:
        return os.readlink(f"/proc/self/fd/{handle}")


# -- paths


def test_links_inside_a_volume_are_followed_and_others_are_not(tmp_path: Path) -> None:
    base, outside = tmp_path / "volume", tmp_path / "outside"
    (base / "data" / "deep").mkdir(parents=True)
    outside.mkdir()
    (base / "in").symlink_to("data/deep")
    (base / "data" / "up").symlink_to("../data")
    for name, target in (("out", "../outside"), ("absolute", str(outside)), ("root", "/")):
        (base / name).symlink_to(target)
    assert open_beneath(base, "in") == str(base / "data" / "deep")
    assert open_beneath(base, "data/up/deep") == str(base / "data" / "deep")
    for path in ("out", "absolute", "root/etc", "out/new", "../outside", "data/../../outside"):
        with pytest.raises(OSError, match="Invalid cross-device link"):
            open_beneath(base, path)
    assert not list(outside.iterdir())


def test_missing_directories_are_made_inside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert open_beneath(tmp_path, "link/b/c", 0o775) == str(tmp_path / "a/b/c")
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o775
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        open_beneath(tmp_path, "dangling/x")
    with pytest.raises(FileNotFoundError):
        open_beneath(tmp_path, "new", None)


def test_a_sub_path_is_fixed_when_it_is_mounted(tmp_path: Path, may_mount: None) -> None:
    volume, place = tmp_path / "volume", tmp_path / "place" / "0"
    (volume / "mine").mkdir(parents=True)
    (volume / "mine" / "file").write_text("mine")
    (tmp_path / "secret").mkdir()
    assert subpath.prepare(str(volume), "mine", place, True, "v", "c") == str(place)
    (volume / "mine").rename(volume / "moved")
    (volume / "mine").symlink_to(tmp_path / "secret")
    assert (place / "file").read_text() == "mine"
    # The container's next run finds what the link is now.
    with pytest.raises(VolumeFailed, match='failed to prepare subPath for volumeMount "v" of container "c"'):
        subpath.prepare(str(volume), "mine", place, True, "v", "c")
    subpath.prepare(str(volume), "moved/file", place, True, "v", "c")
    assert place.read_text() == "mine"
    assert len(mounts.below(place)) == 1


def test_a_sub_path_without_the_right_to_mount(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a").mkdir()
    found = subpath.prepare(str(tmp_path), "link", tmp_path / "unused", False, "v", "c")
    assert found == str(tmp_path / "a")
    with pytest.raises(VolumeFailed):
        subpath.prepare(str(tmp_path), "a/../..", tmp_path / "unused", False, "v", "c")


# -- removal


def test_nothing_is_deleted_through_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "link").symlink_to(kept)
    (tree / "sub" / "file").symlink_to(kept / "file")
    (tree / "sub" / "dangling").symlink_to("nowhere")
    removal.clear(tree)
    assert not tree.exists()
    assert (kept / "file").read_text() == "x"
    removal.clear(tree)  # gone is gone


def test_mounts_are_taken_off_first(tmp_path: Path, may_mount: None) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "memory").mkdir(parents=True)
    mounts.tmpfs(tree / "memory")
    (tree / "memory" / "in").mkdir()
    with safepath.opened(str(kept), ".", None) as handle:
        mounts.bind(handle, tree / "memory" / "in")
    with safepath.opened(str(kept), "file", None) as handle:
        (tree / "one").touch()
        mounts.bind(handle, tree / "one")
    removal.clear(tree)
    assert not tree.exists()
    assert (kept / "file").read_text() == "x"
    assert mounts.below(tmp_path) == []


def test_a_mount_that_comes_meanwhile_is_not_entered(
    tmp_path: Path, may_mount: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, tree = tmp_path / "kept", tmp_path / "tree"
    kept.mkdir()
    (kept / "file").write_text("x")
    (tree / "in").mkdir(parents=True)
    with safepath.opened(str(kept), ".", None) as handle:
        mounts.bind(handle, tree / "in")  # of the same file system: nothing but the mount tells them apart
    monkeypatch.setattr(mounts, "detach_below", lambda directory: None)
    with pytest.raises(OSError, match="something is mounted there") as failure:
        removal.clear(tree)
    assert failure.value.errno == errno.EBUSY
    assert (kept / "file").read_text() == "x"


def test_a_tree_of_any_depth(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):  # far more than a path or a stack can hold
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    removal.clear(tree)
    assert not tree.exists()


# -- payloads


def files(**contents: str) -> dict[str, File]:
    return {name.replace("__", "/"): File(text.encode(), 0o644) for name, text in contents.items()}


def shown(volume: Path) -> dict[str, str]:
    names = [name for name in os.listdir(volume) if not name.startswith("..")]
    found = {}
    for name in names:
        place = volume / name
        inside = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
        found |= {str(one.relative_to(volume)): one.read_text() for one in inside}
    return found


def test_a_payload_replaces_another(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    assert atomicwriter.write(volume, files(a="1", d__b="2"))
    assert shown(volume) == {"a": "1", "d/b": "2"}
    assert not atomicwriter.write(volume, files(a="1", d__b="2"))
    assert atomicwriter.write(volume, files(d__b="3", d__c="4"))
    assert shown(volume) == {"d/b": "3", "d/c": "4"}
    assert len(list(volume.iterdir())) == 3  # the files, ..data, d
    assert atomicwriter.write(volume, {})
    assert shown(volume) == {}


class Killed(BaseException):
    pass


@contextmanager
def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every change of the file system counts; the one after `steps` does not happen, nor any later one."""
    left = steps

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("mkdir", "write_bytes", "chmod", "symlink_to", "rename", "unlink"):
            patched.setattr(Path, name, counted(getattr(Path, name)))
        patched.setattr(os, "unlink", counted(os.unlink))
        yield


def test_a_writer_may_be_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = files(a="1", b="1", d__x="1"), files(b="2", c="2", d__x="2")
    complete = False
    steps = 0
    while not complete:
        volume = tmp_path / str(steps)
        atomicwriter.write(volume, old)
        try:
            with killed_after(steps, monkeypatch):
                atomicwriter.write(volume, new)
            complete = True
        except Killed:
            # Never a mixture: whatever a name shows is of one payload.
            assert set(shown(volume).values()) in ({"1"}, {"2"}), steps
        atomicwriter.write(volume, new)
        assert shown(volume) == {"b": "2", "c": "2", "d/x": "2"}, steps
        assert len(list(volume.iterdir())) == 5, steps  # three names, ..data, the files: nothing is left over
        steps += 1
    assert steps > 10


# -- ownership, emptyDir, hostPath


def test_a_volume_is_given_to_a_group(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("needs root, to give files away")
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    volume = tmp_path / "v"
    (volume / "d").mkdir(parents=True)
    (volume / "d" / "f").write_text("x")
    (volume / "d" / "f").chmod(0o600)
    (volume / "link").symlink_to(outside)
    (volume / "directory").symlink_to("d")
    assert ownership.needs_change(volume, 4567)
    ownership.give(volume, 4567, read_only=False)
    assert not ownership.needs_change(volume, 4567)
    for path, mode in ((volume, 0o2775), (volume / "d", 0o2775), (volume / "d" / "f", 0o660)):
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (4567, mode), path
    assert (volume / "link").lstat().st_gid == (volume / "directory").lstat().st_gid == 4567
    assert (outside.stat().st_gid, stat.S_IMODE(outside.stat().st_mode)) == (0, 0o600)


def test_an_empty_dir_in_memory(tmp_path: Path, may_mount: None) -> None:
    directory = tmp_path / "v"
    assert emptydir.prepare(directory, in_memory=True, bytes_max=1 << 20)
    assert not emptydir.prepare(directory, in_memory=True, bytes_max=1 << 20)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o777
    with pytest.raises(OSError, match="No space left"):
        (directory / "file").write_bytes(b"x" * (2 << 20))
    assert len(mounts.below(directory)) == 1


def test_host_paths_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    hostpath.prepare(str(tmp_path / "nothing"), "")
    assert not (tmp_path / "nothing").exists()
    for path, kind, what in (
        (file, "Directory", "directory"),
        (file, "DirectoryOrCreate", "directory"),
        (tmp_path, "File", "file"),
        (tmp_path / "nothing", "File", "file"),
        (file, "Socket", "socket file"),
        (file, "CharDevice", "character device"),
        (Path("/dev/null"), "BlockDevice", "block device"),
    ):
        with pytest.raises(VolumeFailed, match=f"^hostPath type check failed: {path} is not a {what}$"):
            hostpath.prepare(str(path), kind)
    hostpath.prepare("/dev/null", "CharDevice")
    hostpath.prepare(str(tmp_path / "a" / "b"), "DirectoryOrCreate")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755
    hostpath.prepare(str(tmp_path / "a" / "f"), "FileOrCreate")
    assert stat.S_IMODE((tmp_path / "a" / "f").stat().st_mode) == 0o644


def test_local_volumes_are_checked(tmp_path: Path) -> None:
    hostpath.check_local(str(tmp_path), block=False)
    with pytest.raises(VolumeFailed, match="is not a block device"):
        hostpath.check_local(str(tmp_path), block=True)
    with pytest.raises(VolumeFailed, match=f'^path "{tmp_path}/x" does not exist$'):
        hostpath.check_local(str(tmp_path / "x"), block=False)


def test_what_kubelets_left_is_told_from_what_an_administrator_mounted(tmp_path: Path, may_mount: None) -> None:
    volumes = tmp_path / "m1" / "kubelet" / "pods" / "uid"
    left = [volumes / "volumes" / "kubernetes.io~secret" / "s", volumes / "volume-subpaths" / "v" / "c" / "0"]
    kept = [
        tmp_path / "disk",
        tmp_path / "m1" / "kubelet",
        volumes / "volumes" / "kubernetes.io~empty-dir" / "e" / "in",
    ]
    for place in [kept[1], *left, *(kept[0], kept[2])]:
        place.mkdir(parents=True, exist_ok=True)
        mounts.tmpfs(place)
    mounts.detach_pods(tmp_path)
    assert set(mounts.below(tmp_path)) == {str(place) for place in kept}
