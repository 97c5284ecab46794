"""What a run sees of this machine: the system's programs and libraries, and what it was given.

Turns a job into the command line of bubblewrap, or into the lists that Landlock confines by. Starts
nothing.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from twin.coding.sandbox.limits import Limits

BOX: Final = "/tmp"
"""Inside bubblewrap: the one folder that can be written, with `tree`, `home` and `tmp` in it. It is
this one because programs write here by habit, whatever they are told."""

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Programs and libraries. Nobody's own data belongs here."""
SETTINGS: Final = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/localtime", "/etc/mime.types", "/etc/ssl/certs",
)  # fmt: skip
"""What programs need of `/etc`; the names of this machine's users are not among it."""
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
INVENTED: Final = {
    "/etc/passwd": "root:x:0:0::/:/bin/false\ntwin:x:{uid}:{uid}::/tmp/home:/bin/sh\n",
    "/etc/group": "root:x:0:\ntwin:x:{uid}:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/hostname": "sandbox\n",
}
SHARED_MEMORY_BYTES: Final = 64 << 20

ORDINARY: Final = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "GIT_CONFIG_NOSYSTEM": "1",
    # One thread for each numeric library: runs stand side by side, one a core.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def environment(box: str, programs: Iterable[Path], added: Iterable[tuple[str, str]]) -> list[str]:
    """`NAME=value` for every variable of a run; `programs` are folders to look for programs in."""
    path = ":".join([*map(str, programs), "/usr/local/bin", "/usr/bin", "/bin"])
    own = {
        "HOME": f"{box}/home",
        "TMPDIR": f"{box}/tmp",
        "PATH": path,
        "USER": "twin",
        "LOGNAME": "twin",
    }
    return [f"{name}={value}" for name, value in {**ORDINARY, **own, **dict(added)}.items()]


def bubblewrap(
    program: str,
    visible: Iterable[Path],
    invented: dict[str, int],
    limits: Limits,
    *,
    as_root: bool,
) -> list[str]:
    """bubblewrap's command line up to the command. `invented`: path -> descriptor with its text.

    As root, the uid changes inside (`confine`), since the kernel exempts root from the limit on
    processes even in a user namespace; everybody else gets a user namespace.
    """
    line = [program, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    line += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    line += ["--unshare-cgroup-try"]
    if as_root:
        line += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        line += ["--unshare-user", "--disable-userns"]
    for path in SYSTEM:
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            line += ["--ro-bind", path, path]
    for path in SETTINGS:
        line += ["--ro-bind-try", path, path]
    for path, descriptor in invented.items():
        line += ["--perms", "0644", "--ro-bind-data", str(descriptor), path]
    line += ["--proc", "/proc", "--dev", "/dev"]
    line += ["--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    line += ["--remount-ro", "/dev"]
    line += ["--perms", "0777", "--size", str(limits.disk_bytes), "--tmpfs", BOX]
    bound = needed(visible)
    if not any(path.is_relative_to("/var/tmp") for path in bound):
        line += ["--symlink", f"{BOX}/tmp", "/var/tmp"]
    # By itself bubblewrap makes the folders above with no rights for others.
    above = sorted({parent for path in bound for parent in path.parents if parent != Path("/")})
    for parent in above:
        if not any(parent.is_relative_to(folder) for folder in SYSTEM):
            line += ["--perms", "0755", "--dir", str(parent)]
    for given in bound:
        line += ["--ro-bind", str(given), str(given)]
    return [*line, "--remount-ro", "/", "--chdir", BOX, "--"]


def readable(visible: Iterable[Path]) -> list[str]:
    """For Landlock: what may be read."""
    return [*SYSTEM, *SETTINGS, *map(str, needed(visible))]


def needed(visible: Iterable[Path]) -> list[Path]:
    """What lies outside the system's own folders, outer folders first, none inside another."""
    kept: list[Path] = []
    for path in sorted({Path(os.path.abspath(path)) for path in visible}):
        inside = [*SYSTEM, *map(str, kept)]
        if not any(path.is_relative_to(folder) for folder in inside):
            kept.append(path)
    return kept


def interpreter(python: Path) -> list[Path]:
    """What a Python needs besides its environment: where its own files lie, links followed.

    A virtual environment's `python` is a link, perhaps to a link, to the one it was made from; each
    step must exist inside.
    """
    found: list[Path] = []
    at = python
    for _ in range(40):  # as the kernel: a longer chain is a loop
        found.append(at.parent.parent)
        if not at.is_symlink():
            break
        at = at.parent / os.readlink(at)
    return [path for path in found if path != Path("/")]
