"""Runs inside the sandbox, before the command: takes every right away, unpacks the tree, starts it.

A script, not a module of the program: the interpreter of the tested project runs it (with `-I -S`),
which may be an older Python than ours, so it uses nothing but the standard library of Python 3.8.
It is told what to do on a file descriptor and says on another one when it is through, or why not.

With namespaces around it (`bubblewrap`) it only has to leave the user it was started as. Without
(`landlock`) it first splits in two: the outer half stays unconfined and out of reach of the inner
one's signals, adopts every process that loses its parent, and ends them all when the command ends
or when the program that wanted it is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import tarfile
import time
from collections.abc import Set as AbstractSet
from typing import IO, Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 38, 22, 36
SECCOMP_MODE_FILTER = 2

# Landlock's system calls have one number everywhere; the rights by the version that knows them
# first (linux/landlock.h).
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
FILE_SYSTEM = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
NETWORK = {4: 3}
SCOPES = {6: 3}
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
"""The rights that make sense for something that is no folder."""


class Ruleset(ctypes.Structure):
    _fields_ = [
        ("file_system", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def check(returned: int, what: str) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return returned


def prctl(*arguments: int) -> None:
    five = (*arguments, 0, 0, 0)[:5]
    check(LIBC.prctl(*map(ctypes.c_ulong, five)), "prctl")


def restrict_files(readable: list[str], writable: list[str], usable: list[str]) -> None:
    """Landlock: `readable` may be read and executed, `writable` anything, `usable` (devices) read
    and written; nothing else of the file system can be reached."""
    version = check(LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1), "Landlock")
    handled = sum(rights for since, rights in FILE_SYSTEM.items() if since <= version)
    rules = Ruleset(
        handled,
        sum(rights for since, rights in NETWORK.items() if since <= version),
        sum(rights for since, rights in SCOPES.items() if since <= version),
    )
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    ruleset = check(LIBC.syscall(CREATE_RULESET, ctypes.byref(rules), size, 0), "Landlock")
    wanted = [(path, READ) for path in readable]
    wanted += [(path, handled) for path in writable]
    wanted += [(path, READ_FILE | WRITE_FILE) for path in usable]
    for path, rights in wanted:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            rights &= OF_FILES
        rule = Beneath(rights & handled, place)
        added = LIBC.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        check(added, "Landlock")
        os.close(place)
    check(LIBC.syscall(RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def filter_calls(code: bytes) -> None:
    kept = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def leave_user(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        highest = resource.getrlimit(kind)[1]
        if highest != resource.RLIM_INFINITY:
            value = min(value, highest)
        resource.setrlimit(kind, (value, value))


def unpack(stream: IO[bytes], folder: str) -> None:
    """A tar archive; nothing where the stream is empty."""
    if stream.seek(0, os.SEEK_END):
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            if hasattr(tarfile, "fully_trusted_filter"):
                # Whatever the archive says, the sandbox is around this process already.
                archive.extraction_filter = tarfile.fully_trusted_filter
            archive.extractall(folder)


def confine(told: dict[str, Any], tree: int) -> None:
    """Everything that cannot be taken back, in the order in which it still works."""
    if told["uid"]:
        leave_user(told["uid"])
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o022)
    if told["alone"]:
        os.setsid()
        restrict_files(**told["files"])
    limit(told["limits"])
    filter_calls(bytes.fromhex(told["filter"]))
    for name in ("tree", "home", "tmp"):
        os.mkdir(os.path.join(told["box"], name))
    at = os.path.join(told["box"], "tree")
    with os.fdopen(tree, "rb") as stream:
        unpack(stream, at)
    os.chdir(at)


def begin(told: dict[str, Any], tree: int, said: int) -> NoReturn:
    """Confines this process and becomes the command. Returns only by leaving."""
    try:
        confine(told, tree)
        os.set_inheritable(said, False)
        os.write(said, b"go\n")
        os.execve(told["command"][0], told["command"], told["environment"])
    except (OSError, tarfile.TarError, ValueError, MemoryError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        words = "{}\n{}".format("disk" if full else "setup", error)
        os.write(said, words.encode("utf-8", "replace"))
    finally:
        os._exit(125)


def children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as listed:
                found += [int(word) for word in listed.read().split()]
    except OSError:
        pass
    return found


def below(pid: int) -> set[int]:
    """Every process below this one, at any depth."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = set(children(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def adopt() -> None:
    """From now on whatever loses its parent below this process becomes its child."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_all(kept: AbstractSet[int] = frozenset()) -> None:
    """Ends every process below this one, but for some that have none below themselves.

    They are stopped first, again and again until no new one shows: what still runs may fork faster
    than it can be killed. Those that lose their parent stay below this process, which adopts them.
    """
    stopped: set[int] = set()
    while True:
        new = below(os.getpid()) - stopped - kept
        if not new:
            break
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while True:
        left = below(os.getpid()) - kept
        if not left:
            break
        for pid in left:
            # Those further down become children once their parents are gone.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)


def stand_over(told: dict[str, Any], tree: int, said: int, parent: int) -> NoReturn:
    """The outer half: waits for the command, then ends whatever it left behind."""
    adopt()

    def stop(*_: object) -> None:
        end_all()
        os._exit(124)

    signal.signal(signal.SIGTERM, stop)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(124)
    command = os.fork()
    if not command:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        begin(told, tree, said)
    os.close(said)
    os.close(tree)
    status = None
    while status is None:
        pid, ended = os.waitpid(-1, 0)
        if pid == command:
            status = ended
    end_all()
    if os.WIFSIGNALED(status):
        os._exit(128 + os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def main() -> NoReturn:
    told_on, tree, said, parent = (int(word) for word in sys.argv[1:])
    with os.fdopen(told_on, "rb") as stream:
        told = json.load(stream)
    if told["alone"]:
        stand_over(told, tree, said, parent)
    begin(told, tree, said)


if __name__ == "__main__":
    main()
