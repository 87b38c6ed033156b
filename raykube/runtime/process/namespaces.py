"""Mount, host name and user namespaces by system call, and the layout of a container's mounts.

A container sees the machine's own file tree. Its volumes are bind mounts in a mount namespace of its own, which ends
with its last process: a killed runtime leaves no mount behind. An ordinary user gets the right to mount from a user
namespace that maps one user: itself, seen as the user that the container asks for.

A mount path that the machine does not have must not be made on the machine's disk. The nearest existing directory
above it is replaced, in the namespace only, by a *skeleton*: a tmpfs with a bind mount of every entry the directory
had (links are copied). Below the skeleton the missing directories can be made.

    /data/cache wanted, the machine has no /data:

    /            tmpfs, the process's new root
    ├── bin  ->  usr/bin        copied link
    ├── etc      bind mount
    ├── usr      bind mount
    └── data     made in the tmpfs
        └── cache               bind mount of the volume
"""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000

MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 1
OPEN_TREE_CLONE = 1
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# How mounts travel between the machine and a volume; the numbers are CRI's.
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Entry = dict[str, Any]  # of a spec: source, target, read_only, recursive, propagation

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def become_subreaper() -> None:
    """Orphaned descendants become this process's children, so that none escapes it."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def forbid_new_privileges() -> None:
    """No program started from here gains rights from set-user-id bits."""
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def isolate(uid: int, gid: int, shared: "list[str]") -> "dict[str, int]":
    """Moves this process into mount and host name namespaces of its own; raises OSError where that is forbidden.

    Without root it needs a user namespace too, in which this process's user looks like `uid` and its group like `gid`.
    Of the paths `shared` it returns handles on mounts that stay the machine's: what is mounted on them shows outside.
    """
    own_uid, own_gid = os.getuid(), os.getgid()
    if own_uid == 0:
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS), "unshare")
    else:
        _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS), "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {own_uid} 1"), ("gid_map", f"{gid} {own_gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    handles = {path: clone_tree(path) for path in shared}
    # What the machine mounts later still appears in here; what is mounted in here never shows outside.
    mount("none", "/", "", MS_REC | MS_SLAVE)
    return handles


def check_shared(path: str) -> None:
    """Raises OSError unless what is mounted on `path` can show on the machine."""
    if os.getuid() != 0:
        raise OSError(f"mounts on {path} cannot show on the machine: that needs root")
    real = os.path.realpath(path)
    point, is_shared = "", False
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, _ = line.partition(" - ")
            fields = before.split(" ")
            covers = real == fields[4] or real.startswith(fields[4].rstrip("/") + "/")
            if covers and len(fields[4]) >= len(point):
                point, is_shared = fields[4], any(tag.startswith("shared:") for tag in fields[6:])
    if not is_shared:
        raise OSError(f'path "{path}" is mounted on "{point}" but it is not a shared mount')


def enter(pid: int) -> None:
    """Joins the user, mount and host name namespaces of process `pid` where they differ from ours."""
    flags = {"user": CLONE_NEWUSER, "uts": CLONE_NEWUTS, "mnt": CLONE_NEWNS}
    handles = []
    for name, flag in flags.items():
        if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
            handles.append((name, flag, os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)))
    for name, flag, handle in handles:
        _check(_libc.setns(handle, flag), f"setns({name})")
        os.close(handle)


def set_hostname(name: str) -> None:
    data = os.fsencode(name)
    _check(_libc.sethostname(data, len(data)), "sethostname")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {source} on {target}")


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def set_read_only(target: str, read_only: bool, recursive: bool) -> None:
    """Changes only the read-only flag of a mount: others may be locked by the kernel in a user namespace."""
    attributes = _MountAttributes(MOUNT_ATTR_RDONLY if read_only else 0, 0 if read_only else MOUNT_ATTR_RDONLY, 0, 0)
    result = _libc.syscall(
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        os.fsencode(target),
        ctypes.c_uint(AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, f"make {target} read-only")


def clone_tree(source: str) -> int:
    """A handle on a copy of the mounts at `source`, which nothing done to the file tree later can change."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    handle: int = _libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(source), flags)
    if handle < 0:
        _check(handle, f"volume {source}")
    return handle


def attach_tree(handle: int, target: str) -> None:
    """Puts the mounts of a handle at `target`."""
    flag_empty_source = 4  # MOVE_MOUNT_F_EMPTY_PATH: the handle itself
    _check(
        _libc.syscall(SYS_MOVE_MOUNT, handle, b"", AT_FDCWD, os.fsencode(target), flag_empty_source),
        f"mount on {target}",
    )


def _pivot(new_root: str) -> None:
    os.chdir(new_root)
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is not None and _libc.syscall(number, b".", b".") == 0:
        _check(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    else:  # the root is an initramfs, or a machine whose call number we do not know
        os.chroot(".")
    os.chdir("/")


class Layout:
    """Builds the mounts of one container in this process's mount namespace.

    `scratch` is an empty directory on the machine: the place where a skeleton is put together before it moves.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._made: set[str] = set()  # directories in which we may create entries: skeletons and what is below them
        self._writable: list[str] = []

    def bind_all(self, mounts: "list[Entry]", shared: "dict[str, int]") -> None:
        """Shows each entry's `source`, a file or directory of the machine, at its `target`.

        `shared` has the handles of sources that stay the machine's (see `isolate`).
        """
        # Sources are taken before anything changes: a volume on /tmp may hide where another volume comes from.
        wanted = []
        for entry in mounts:
            bidirectional = entry["propagation"] == BIDIRECTIONAL
            tree = shared[entry["source"]] if bidirectional else clone_tree(entry["source"])
            wanted.append((os.path.realpath(entry["target"]), tree, entry))
        wanted.sort(key=lambda one: one[0].count("/"))  # a mount point inside another volume comes after it
        targets = [target for target, _, _ in wanted]
        for target, tree, _ in wanted:
            if not any(target.startswith(other + "/") for other in targets):
                self._prepare(target, os.path.isdir(f"/proc/self/fd/{tree}"))
        for target, tree, entry in wanted:
            self._prepare(target, os.path.isdir(f"/proc/self/fd/{tree}"))
            attach_tree(tree, target)
            os.close(tree)
            if entry["propagation"] == PRIVATE:
                mount("none", target, "", MS_REC | MS_PRIVATE)
            if entry["read_only"]:
                set_read_only(target, True, recursive=entry["recursive"])
            else:
                self._writable.append(target)

    def make_root_read_only(self) -> None:
        """Everything but the writable volumes becomes read-only."""
        set_read_only("/", True, recursive=True)
        for target in self._writable:
            set_read_only(target, False, recursive=False)

    def _prepare(self, target: str, is_directory: bool) -> None:
        """Makes sure that `target` exists and is what can be mounted on."""
        if os.path.lexists(target):
            if os.path.isdir(target) != is_directory:
                kinds = ("a directory", "a file") if is_directory else ("a file", "a directory")
                raise OSError(f"cannot mount {kinds[0]} on {target}, which is {kinds[1]} on this machine")
            return
        parent, missing = os.path.dirname(target), [os.path.basename(target)]
        while not os.path.lexists(parent):
            parent, name = os.path.split(parent)
            missing.insert(0, name)
        # Inside a writable volume Kubernetes makes mount points in the volume itself.
        inside_volume = any(parent == place or parent.startswith(place + "/") for place in self._writable)
        if parent not in self._made and not inside_volume:
            self._replace_by_skeleton(parent)
        for name in missing[:-1]:
            parent = os.path.join(parent, name)
            os.mkdir(parent, 0o755)
            self._made.add(parent)
        if is_directory:
            os.mkdir(target, 0o755)
            self._made.add(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))

    def _replace_by_skeleton(self, directory: str) -> None:
        mount("tmpfs", self._scratch, "tmpfs", 0, "mode=0755")
        for entry in os.scandir(directory):
            copy = os.path.join(self._scratch, entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), copy)
                continue
            if entry.is_dir():
                os.mkdir(copy)
            else:
                os.close(os.open(copy, os.O_CREAT | os.O_WRONLY, 0o644))
            try:
                mount(entry.path, copy, "", MS_BIND | MS_REC)
            except OSError:
                # An entry that this user may not even look at stays an empty place.
                continue
        mode = os.stat(directory).st_mode & 0o7777
        if directory == "/":
            _pivot(self._scratch)
        else:
            mount(self._scratch, directory, "", MS_MOVE)
        os.chmod(directory, mode)
        self._made.add(directory)
