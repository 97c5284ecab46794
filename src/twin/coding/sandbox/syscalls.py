"""The system call filter: a seccomp program in the kernel's classic BPF, for x86-64 and ARM64.

It takes away what no test suite needs and what has led out of sandboxes before: new namespaces,
mounts, tracing, kernel keys, BPF, io_uring (whose operations no filter sees). Where nothing else
keeps the network away (`landlock`) it also refuses sockets and, on kernels whose Landlock does not
confine signals, signals to anybody but the caller's own process group. Refused calls fail with
EPERM; `clone3`, whose flags no filter can read, with ENOSYS, upon which the C library uses `clone`.
"""

import errno
import platform
import struct
from typing import Final

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_NUMBERS: Final[dict[str, tuple[int, int]]] = {
    # name: (x86_64, aarch64); from the kernel's tables (asm/unistd_64.h, asm-generic/unistd.h)
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "socket": (41, 198),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}

_ALWAYS: Final = (
    "add_key", "bpf", "fsconfig", "fsmount", "fsopen", "fspick", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "kcmp", "keyctl", "mount", "mount_setattr", "move_mount",
    "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root",
    "process_vm_readv", "process_vm_writev", "ptrace", "request_key", "setns", "umount2",
    "unshare", "userfaultfd",
)  # fmt: skip
_SHARED: Final = ("mq_open", "msgget", "semget", "shmget", "socket")
"""Ways to reach processes outside, where there are no namespaces. Connecting to a socket in the
file system (a container engine's, say) is not among what Landlock confines."""
_SIGNALS: Final = ("pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tkill")

_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_X32: Final = 0x40000000

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16


def is_supported(machine: str = "") -> bool:
    """Whether there is a filter for this kind of processor."""
    return (machine or platform.machine()) in _AUDIT_ARCH


def program(*, is_alone: bool, confines_signals: bool, machine: str = "") -> bytes:
    """The filter as an array of `struct sock_filter`.

    `is_alone`: no namespaces around it, so sockets and shared memory are refused too;
    `confines_signals`: something else keeps signals inside. Raises KeyError for a processor that
    `is_supported` does not know.
    """
    machine = machine or platform.machine()
    column = 0 if machine == "x86_64" else 1
    refused = [*_ALWAYS]
    if is_alone:
        refused += _SHARED
        if not confines_signals:
            refused += _SIGNALS
    code = [
        (_LOAD, 0, 0, _ARCH),
        # A call by another table (32-bit on x86) would have other numbers.
        (_JEQ, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _refuse("clone3", column, errno.ENOSYS)
    for name in refused:
        code += _refuse(name, column)
    code += _when("clone", column, [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_JSET, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ])  # fmt: skip
    if is_alone:
        # Another process's limits; 0 is the caller.
        code += _when("prlimit64", column, _unless_zero())
        if not confines_signals:
            code += _when("kill", column, _unless_zero())
            code += _refuse("tgkill", column)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


_Instruction = tuple[int, int, int, int]


def _refuse(name: str, column: int, error: int = errno.EPERM) -> list[_Instruction]:
    return [(_JEQ, 0, 1, _NUMBERS[name][column]), (_RETURN, 0, 0, _ERRNO | error)]


def _when(name: str, column: int, body: list[_Instruction]) -> list[_Instruction]:
    """`body` for this call, which ends in `allow`; the number is still loaded where it is none."""
    whole = [*body, (_RETURN, 0, 0, _ALLOW)]
    return [(_JEQ, 0, len(whole), _NUMBERS[name][column]), *whole]


def _unless_zero() -> list[_Instruction]:
    return [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_JEQ, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
