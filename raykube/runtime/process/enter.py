"""Runs one command inside a running container: its namespaces, user and working directory.

    python -I -S enter.py PID UID GID GROUPS DIRECTORY MODE CONTROL_GROUPS COMMAND [ARGUMENT…]

UID, GID and GROUPS (with commas between) are the program's, as the shim set them, `-` where it set none. MODE is made
of letters: t, standard input is a terminal to control the session by; n, no new privileges. CONTROL_GROUPS are the
files by which to join them, with colons between. The environment is the caller's. A command that cannot start ends with
126 or 127, as a shell's would.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from raykube.runtime.process import namespaces
else:
    # What `signal` wraps in enums, which a start need not pay for.
    import _signal as signal

    import namespaces

# Of a runtime that was started in the background of a shell, and of Python itself: children would ignore them, too.
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE)


def become(command: list[str]) -> None:
    """Replaces this process by the command; os.execvp would import a module that the container's user may not read."""
    problem: OSError = FileNotFoundError(2, "executable file not found in $PATH")
    places = [""] if "/" in command[0] else [f"{place}/" for place in os.environ["PATH"].split(":") if place]
    for place in places:
        try:
            os.execv(place + command[0], command)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = error
    raise problem


def main(
    pid: int, uid: str, gid: str, groups: str, directory: str, mode: str, cgroups: str, command: list[str]
) -> None:
    try:
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        for path in filter(None, cgroups.split(":")):
            with open(path, "w") as file:
                file.write("0")
        if "t" in mode:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        is_root = os.getuid() == 0  # asked here: in the user namespace of an ordinary user root cannot become another
        namespaces.enter(pid)
        if is_root and (uid, gid, groups) != ("-", "-", "-"):
            os.setgroups([] if groups == "-" else [int(group) for group in groups.split(",")])
            os.setgid(0 if gid == "-" else int(gid))
            os.setuid(0 if uid == "-" else int(uid))
        if "n" in mode:
            namespaces.forbid_new_privileges()
        os.chdir(directory)
        become(command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror or error}\n")
        sys.stderr.flush()
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    number, user, group, more, place, letters, files, *words = sys.argv[1:]
    main(int(number), user, group, more, place, letters, files, words)
