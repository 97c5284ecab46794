"""Builds a C++ file on first use, keeps the library, and loads it.

Owns the choice of compiler, instruction set and cache; knows nothing of what is inside. A library
is kept under the hash of its source, the compiler's version and the flags, and comes into place by
a rename, so that two processes may build at once and none sees half a file. Beside it lies its
SHA-256: a library that a crash cut short would end the process without a word, so what does not
agree is built again. What others can write is never loaded.

    TWIN_CACHE_DIR  where libraries are kept (else XDG_CACHE_HOME, else ~/.cache/cognitive-twin)
    TWIN_LM_ISA     avx512, avx2 or plain, in place of the best that this machine has
    CXX             the compiler, in place of the first of g++, clang++, c++
"""

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from twin.lm import durable, processor
from twin.lm.errors import KernelUnavailable

log = logging.getLogger(__name__)

# -O2 and not -O3: the loops are written for vectors by hand, it compiles in half the time, and is
# no slower. None of the -fno loses a NaN or reorders a sum, as -ffast-math would.
FLAGS: Final = [
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
]
X86_64_V3: Final = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt"]
"""Spelt out: compilers before GCC 11 do not know -march=x86-64-v3."""
LEVELS: Final = {
    "avx512": [
        *X86_64_V3,
        *("-mavx512f", "-mavx512cd", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        "-mprefer-vector-width=512",
    ],
    "avx2": X86_64_V3,
    "plain": list[str](),
}
"""From the best to what every machine runs."""
NEEDS: Final = {
    "avx512": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "fma", "bmi2", "f16c"},
    "avx2": {"avx2", "fma", "bmi2", "f16c"},
    "plain": set[str](),
}
# What is not there is to be missed when it is linked, as elsewhere, not when it is loaded: clang's
# threads need another runtime than the one that torch has loaded on Linux, and two in one process
# wait for each other (a training step on two cores takes 1.1 to 1.5 times what it takes with the
# kernels on one). Nor is anything loaded that is not used.
LINKED: Final = ["-lm", *(["-Wl,-z,defs,--as-needed"] if sys.platform == "linux" else [])]
COMPILE_TIMEOUT_S: Final = 300
CURE: Final = "Install g++ or clang++ (or name one in CXX), or choose the kernels `chunked`."


@cache
def machine_level() -> str:
    """The best of LEVELS that this processor and its operating system run. Where that is not
    known (no Linux, no x86) it is `plain`: NEON on 64-bit ARM, SSE2 on x86-64."""
    return next(level for level, needed in NEEDS.items() if needed <= processor.flags())


def levels() -> list[str]:
    """All of LEVELS that this machine runs, the best first."""
    return list(LEVELS)[list(LEVELS).index(machine_level()) :]


def level() -> str:
    """What is built here. Raises KernelUnavailable for a TWIN_LM_ISA that this machine lacks."""
    asked = os.environ.get("TWIN_LM_ISA", "")
    if not asked:
        return machine_level()
    if asked not in LEVELS:
        raise KernelUnavailable(f"TWIN_LM_ISA is `{asked}`. Use one of {', '.join(LEVELS)}.")
    if asked not in levels():
        raise KernelUnavailable(
            f"TWIN_LM_ISA asks for {asked}, and this processor has {machine_level()} at most."
        )
    return asked


def compiler() -> list[str]:
    """The command. Raises KernelUnavailable where there is none."""
    named = os.environ.get("CXX", "")
    for candidate in [named] if named else ["g++", "clang++", "c++"]:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    missing = f"CXX names `{named}`, which is not there" if named else "there is no C++ compiler"
    raise KernelUnavailable(f"The native kernels cannot be built: {missing}. {CURE}")


def cache_folder() -> Path:
    """Where libraries are kept; made on first use."""
    named = os.environ.get("TWIN_CACHE_DIR")
    if named:
        return Path(named) / "native"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cognitive-twin" / "native"


def load(source: Path, openmp: Path | None = None, *, extra: Sequence[str] = ()) -> ctypes.CDLL:
    """The library of this C++ file and the headers it includes, built where it is new.

    `openmp` is the runtime to link with: give the one that torch has loaded, so that both share
    one pool of threads. Where it does not fit the compiler a single thread is used; without one
    the compiler's own, if it has any.
    `extra` are flags for this file alone.
    Raises KernelUnavailable where it cannot be built or loaded; the message says why.
    """
    command, flags = compiler(), [*FLAGS, *LEVELS[level()], *extra]
    parts = [source.name.encode(), *(p.read_bytes() for p in [source, *_headers(source)])]
    parts += [_version(tuple(command)), " ".join([*flags, *LINKED]).encode()]
    parts += [str(openmp).encode(), platform.machine().encode()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    name = f"{source.stem}-{level()}-{digest}.so"
    path = _writable(cache_folder()) / name
    for attempt in range(3):
        if attempt or not _is_whole(path):
            _build(source, path, command, flags, openmp, threads=attempt < 2)
        try:
            return ctypes.CDLL(str(path))
        # Cut short, from a machine with another C library, or with threads of a runtime that was
        # there for the compiler alone.
        except OSError as error:
            problem = error
    raise KernelUnavailable(f"The native kernels were built but do not load: {problem}. {CURE}")


def _headers(source: Path) -> list[Path]:
    """Those that it includes by a name in quotes, and what they include."""
    found: list[Path] = []
    ahead = [source]
    while ahead:
        named = re.findall(rb'^#include "([^"]+)"', ahead.pop().read_bytes(), re.MULTILINE)
        new = {source.parent / os.fsdecode(name) for name in named} - set(found)
        found += sorted(new)
        ahead += sorted(new)
    return found


@cache
def _version(command: tuple[str, ...]) -> bytes:
    try:
        asked = [*command, "--version"]
        return subprocess.run(asked, capture_output=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelUnavailable(f"`{command[0]}` does not run: {error}. {CURE}") from error


@cache
def _own_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cognitive-twin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_own(path: Path) -> bool:
    """Whether it is this user's, and no other can write there. Raises OSError."""
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _seal_of(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _seal(library: Path) -> str:
    """What the file beside a library says of it: its size and hash."""
    data = library.read_bytes()
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"


def _is_whole(library: Path) -> bool:
    """Whether it is there as it was built, and nobody else's."""
    try:
        return _is_own(library) and _seal_of(library).read_text("ascii") == _seal(library)
    except (OSError, ValueError):
        return False


def _writable(folder: Path) -> Path:
    """The folder, or one of this process alone where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_own(folder):
            raise PermissionError(f"{folder} is another user's, or others can write there")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        try:
            own = _own_folder()
        except OSError:
            raise KernelUnavailable(
                f"The native kernels have no place: {error}. Set TWIN_CACHE_DIR to a folder "
                "that can be written, or choose the kernels `chunked`."
            ) from error
        log.warning("Native kernels are not kept: %s. Set TWIN_CACHE_DIR.", error)
        return own


def assembles(instruction: str) -> bool:
    """Whether the compiler's assembler knows it: a new compiler often stands beside an old one.
    Raises KernelUnavailable where there is no compiler."""
    with tempfile.TemporaryDirectory() as work:
        made = str(Path(work) / "made.o")
        return not _run([*compiler(), "-x", "c++", "-c", "-", "-o", made], f'asm("{instruction}");')


def _build(
    source: Path, path: Path, command: list[str], flags: list[str], openmp: Path | None,
    *, threads: bool,
) -> None:  # fmt: skip
    """Tries with threads first, if asked for, then without."""
    log.info("Building the native kernels (%s) with %s, once.", path.name, command[0])
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        half, made = Path(work) / "half.o", Path(work) / "library.so"
        for compiled in (["-fopenmp"], []) if threads else ([],):
            # With the very runtime that is given, else with the compiler's own.
            linked = [str(openmp)] if compiled and openmp is not None else compiled
            problem = _run([*command, *flags, *compiled, "-c", str(source), "-o", str(half)])
            problem = problem or _run(
                [*command, "-shared", str(half), *linked, *LINKED, "-o", str(made)]
            )
            if not problem:
                made.chmod(0o700)
                seal = Path(work) / "seal"
                seal.write_text(_seal(made), "ascii")
                for each, place in ((made, path), (seal, _seal_of(path))):
                    durable.flush(each)
                    each.replace(place)
                return
    raise KernelUnavailable(f"The native kernels cannot be built: {problem}. {CURE}")


def _run(command: list[str], code: str = "") -> str:
    """Nothing, or what went wrong in a line. `code` is what the command reads."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False, text=True,
            errors="replace", input=code,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    return (said or [f"`{command[0]}` ended with {done.returncode}"])[0].strip()[:300]
