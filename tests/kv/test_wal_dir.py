"""A log on a disk of its own: found again whatever the flags say, and never taken for one that is lost."""

import contextlib
import shutil
from pathlib import Path

import pytest

from raykube.kv import backup_files, log_place
from raykube.kv.config import Config
from raykube.kv.service import Service
from raykube.kv.wal import segments
from raykube.pb.batch_pb2 import Write
from raykube.rpc.folder_lock import FolderLock
from tests.kv.group import running_group
from tests.kv.test_snapshots import Restored, content, fill, restore, snapshot

pytestmark = pytest.mark.integration


def changed(config: Config, **flags: object) -> Config:
    given = {name: getattr(config, name) for name in config.model_fields_set}
    return Config(**{**given, **flags})


async def test_the_log_is_there_and_is_found_again(tmp_path: Path) -> None:
    place = tmp_path / "disk" / "log"
    async with running_group(tmp_path, 1, wal_dir=place) as group:
        folder = tmp_path / "m1"
        await group.client.write([Write(key=b"a", value=b"1", expected_revision=-1)])
        assert segments(place)
        assert (folder / "wal").is_symlink()
        with pytest.raises(OSError, match=r"another member uses .*--wal-dir"):
            await Service(changed(group.configs["m1"], data_dir=tmp_path / "other")).start()
        for flags in ({"wal_dir": None}, {"wal_dir": tmp_path / "disk" / ".." / "disk" / "log"}):
            await group.stop("m1")
            group.configs["m1"] = changed(group.configs["m1"], **flags)
            await group.start("m1")
            found = await group.client.range(b"a")
            assert found.kvs[0].value == b"1"


async def test_what_contradicts_the_files_is_refused(tmp_path: Path) -> None:
    place, folder = tmp_path / "log", tmp_path / "m1"
    async with running_group(tmp_path, 1, wal_dir=place) as group:
        await group.client.write([Write(key=b"a", value=b"1", expected_revision=-1)])
        await group.stop("m1")
        config = group.configs["m1"]
        with pytest.raises(ValueError, match=r"is in .*, and --wal-dir is .*to move it"):
            await Service(changed(config, wal_dir=tmp_path / "elsewhere")).start()
        place.rename(tmp_path / "unmounted")
        for is_there in (False, True):
            if is_there:
                place.mkdir()  # where the disk would be mounted
            for flag in (None, place):
                with pytest.raises(ValueError, match="which holds none: is its disk mounted"):
                    await Service(changed(config, wal_dir=flag)).start()
        assert not any(place.iterdir())
        place.rmdir()
        (tmp_path / "unmounted").rename(place)
        # Moved as the message says, and then into the data directory.
        shutil.copytree(place, tmp_path / "elsewhere")
        (folder / "wal").unlink()
        group.configs["m1"] = changed(config, wal_dir=tmp_path / "elsewhere")
        await group.start("m1")
        assert (await group.client.range(b"a")).kvs[0].value == b"1"
        await group.stop("m1")
        (folder / "wal").unlink()
        (tmp_path / "elsewhere").rename(folder / "wal")
        with pytest.raises(ValueError, match="move its files to --wal-dir"):
            await Service(changed(config, wal_dir=tmp_path / "new")).start()


async def test_a_restore_writes_it_there(tmp_path: Path) -> None:
    file, place = tmp_path / "backup.db", tmp_path / "disk" / "log"
    async with running_group(tmp_path, 1) as group:
        wanted = await fill(group)
        await snapshot("save", str(file), f"--endpoints={group.endpoints[0]}")
    folder = tmp_path / "new"
    # One that was interrupted when the log was there.
    (folder / "n1.restoring").mkdir(parents=True)
    log_place.settle(folder / "n1.restoring", place)
    (place / f"{1:016x}-{1:016x}.wal").write_bytes(b"half")
    assert segments(place)
    configs = await restore(file, folder, 1, f"--wal-dir={place}")
    assert (folder / "n1" / "wal").is_symlink()
    async with Restored(configs) as restored:
        assert await content(restored.client) == wanted
    await snapshot("restore", str(file), f"--data-dir={folder / 'n2'}", f"--wal-dir={place}", status=1)
    assert not (folder / "n2").exists()


async def test_places_that_are_none_and_a_link_of_somebody_s_own(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1, wal_dir=tmp_path / "m1" / "wal") as group:
        await group.stop("m1")
        assert not (tmp_path / "m1" / "wal").is_symlink()
        shutil.rmtree(tmp_path / "m1")
        config = group.configs["m1"]
        with pytest.raises(ValueError, match="is inside of"):
            await Service(changed(config, wal_dir=tmp_path / "m1" / "log")).start()
        shutil.rmtree(tmp_path / "m1")
        (tmp_path / "m1").mkdir()
        (tmp_path / "own").mkdir()
        (tmp_path / "m1" / "wal").symlink_to(Path("..") / "own")
        group.configs["m1"] = changed(config, wal_dir=None)
        await group.start("m1")
        assert segments(tmp_path / "own")


async def test_two_restores_at_once_do_not_take_each_other_s_log(tmp_path: Path) -> None:
    file, place = tmp_path / "backup.db", tmp_path / "log"
    async with running_group(tmp_path, 1) as group:
        await fill(group)
        await snapshot("save", str(file), f"--endpoints={group.endpoints[0]}")
    cluster = backup_files.NewCluster("m1", ["m1=http://127.0.0.1:1"], "t", ["http://127.0.0.1:1"])
    found = backup_files.open_backup(file)
    with contextlib.closing(FolderLock(place, 0o700, "member", "--wal-dir")):
        (place / f"{1:016x}-{1:016x}.wal").write_bytes(b"another's")
        log_place.settle(_made(tmp_path / "n.restoring"), place)
        with pytest.raises(OSError, match="another member uses"):
            backup_files.restore(found, cluster, tmp_path / "n", place)
        assert segments(place)
    with pytest.raises(ValueError, match="holds a log"):
        backup_files.restore(found, cluster, tmp_path / "n", place)
    assert segments(place)
    assert not (tmp_path / "n.restoring").exists()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def test_a_restore_that_fails_leaves_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, place = tmp_path / "backup.db", tmp_path / "log"
    async with running_group(tmp_path, 1) as group:
        await fill(group)
        await snapshot("save", str(file), f"--endpoints={group.endpoints[0]}")

    def refuse(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "rename", refuse)
    cluster = backup_files.NewCluster("m1", ["m1=http://127.0.0.1:1"], "t", ["http://127.0.0.1:1"])
    log_place.settle(_made(tmp_path / "n.restoring"), None)
    with pytest.raises(OSError, match="the disk is gone"):
        backup_files.restore(backup_files.open_backup(file), cluster, tmp_path / "n", place)
    assert not segments(place)


async def test_a_restore_takes_the_places_that_a_start_takes(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    async with running_group(tmp_path, 1) as group:
        wanted = await fill(group)
        await snapshot("save", str(file), f"--endpoints={group.endpoints[0]}")
    cluster = backup_files.NewCluster("m1", ["m1=http://127.0.0.1:1"], "t", ["http://127.0.0.1:1"])
    found = backup_files.open_backup(file)
    for place in (tmp_path / "n", tmp_path / "n" / "log"):
        with pytest.raises(ValueError, match="is inside of"):
            backup_files.restore(found, cluster, tmp_path / "n", place)
    assert not (tmp_path / "n").exists()
    configs = await restore(file, tmp_path / "new", 1, f"--wal-dir={tmp_path / 'new' / 'n1' / 'wal'}")
    assert not (tmp_path / "new" / "n1" / "wal").is_symlink()
    async with Restored(configs) as restored:
        assert await content(restored.client) == wanted


def test_folders_above_that_may_not_be_read_are_no_obstacle(tmp_path: Path) -> None:
    above = tmp_path / "disk"
    above.mkdir(mode=0o711)
    data_dir = _made(tmp_path / "data")
    _made(above / "log")
    log_place.settle(data_dir, above / "log")
    refused: list[Path] = []

    def sync_folder(folder: Path) -> None:
        if folder == above:
            refused.append(folder)
            raise PermissionError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_place, "sync_folder", sync_folder)
        log_place.settle(data_dir, None)
    assert refused
