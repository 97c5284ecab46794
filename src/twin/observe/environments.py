"""Python environments for a project's tests: resolved as of a day, locked, cached, made offline.

Three steps that need ever less: `resolve` asks a package index, `download` fetches wheels, `make`
needs the wheels alone and takes half a second (uv links files instead of copying them). Only wheels
are taken: building a dependency would run its code outside the sandbox. Does not run tests.
"""

import datetime
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from twin.errors import EnvironmentFailed, MissingRequirement
from twin.observe.requirements import Needs

SETTLED: Final = {
    (3, 8): datetime.date(2020, 4, 1),
    (3, 9): datetime.date(2021, 4, 1),
    (3, 10): datetime.date(2022, 4, 1),
    (3, 11): datetime.date(2023, 4, 1),
    (3, 12): datetime.date(2024, 4, 1),
    (3, 13): datetime.date(2025, 4, 1),
    (3, 14): datetime.date(2026, 4, 1),
}
"""Half a year after each Python came out: packages had wheels for it by then. What a commit of
before needed did not run on it, so its packages are taken as of this day."""

NO_UV: Final = "uv makes the environments. Install with: pip install 'cognitive-twin[harness]'"
WAIT_S: Final = 300
DOWNLOAD_S: Final = 3600
"""Wheels for GPUs are gigabytes."""
SAID: Final = 2_000
NO_SPACE: Final = os.strerror(errno.ENOSPC)
FRAME: Final = " \u00d7\u2570\u2500\u25b6\u2502\u256d"
"""What uv draws around its sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Exact versions with the hashes of their files, as pip and uv read them."""

    text: str
    until: str
    """The day as of which it was resolved, ISO; empty for the day it was made."""
    left_out: tuple[str, ...] = ()
    """Needs that could not be met together with the others."""
    python: str = ""
    """Major and minor version of the interpreter that it is for; empty for this program's own."""

    @property
    def key(self) -> str:
        """The same lock and interpreter, the same environment."""
        return hashlib.sha256(f"{self.python}\n{self.text}".encode()).hexdigest()[:16]

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version."""
        return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", self.text, re.MULTILINE))


def uv_program() -> str:
    """Where uv is. Raises MissingRequirement."""
    if importlib.util.find_spec("uv") is not None:
        import uv

        return str(uv.find_uv_bin())
    found = shutil.which("uv")
    if found is None:
        raise MissingRequirement(NO_UV)
    return found


def resolve(needs: Needs, moment: float, python: Path) -> Lock:
    """The newest versions of that moment that fit together, with a `python` of today.

    What keeps the rest from being resolved is left out, the project's own needs last. Asks the
    configured package index. Raises EnvironmentFailed.
    """
    day = datetime.datetime.fromtimestamp(moment, datetime.UTC).date()
    version = version_of(python)
    until = max(day, SETTLED.get(version, day))
    for moment_text in (until.isoformat(), ""):
        lines = list(dict.fromkeys([*needs.runtime, *needs.tests, *needs.build]))
        left_out: list[str] = []
        while lines:
            text, fault = _compile(lines, moment_text, python)
            if text:
                return Lock(
                    text=text,
                    until=moment_text,
                    left_out=tuple(left_out),
                    python="{}.{}".format(*version),
                )
            culprit = _culprit(fault, [line for line in lines if line not in needs.runtime])
            if culprit is None:
                break
            lines.remove(culprit)
            left_out.append(culprit)
    raise EnvironmentFailed(fault)


def _culprit(fault: str, optional: Iterable[str]) -> str | None:
    """The need that uv complains of, of those that can be done without: the tests then say what
    that is worth. Pytest cannot."""
    said = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*", fault)}
    for line in optional:
        name = canonicalize_name(Requirement(line).name)
        if name in said and name != "pytest":
            return line
    return None


def _compile(lines: Iterable[str], until: str, python: Path) -> tuple[str, str]:
    command = [
        uv_program(), "pip", "compile", "-", "--quiet", "--python", str(python),
        "--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate",
    ]  # fmt: skip
    if until:
        command += ["--exclude-newer", until]
    done = _run(command, given="\n".join(lines))
    return (done.stdout, "") if done.returncode == 0 else ("", _reason(done.stderr))


def download(lock: Lock, folder: Path) -> None:
    """Fetches the lock's wheels into `folder`; those that are there are not fetched again.

    uv has no such command, so pip does it. Raises EnvironmentFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "lock.txt")
        file.write_text(lock.text)
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder),
            "--requirement", str(file),
            *(["--python-version", lock.python] if lock.python else []),
        ]  # fmt: skip
        done = _run(command, wait_s=DOWNLOAD_S, what="downloading its packages")
    if done.returncode != 0:
        raise EnvironmentFailed(_reason(done.stderr))


def make(lock: Lock, packages: Path, place: Path, python: Path) -> Path:
    """The environment of a lock below `place`, from wheels alone; its Python.

    One that is there is taken as it is: it is whole, since it only gets its name at the end. Raises
    EnvironmentFailed where a wheel is missing, damaged or for another platform.
    """
    home = place / lock.key
    inside = home / "bin" / "python"
    if inside.exists():
        return inside
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".making-") as made:
        draft = Path(made, "environment")
        install(lock, packages, draft, python)
        try:
            os.rename(draft, home)
        except OSError:
            if not inside.exists():  # else another process was faster
                raise
    return inside


def install(
    lock: Lock, packages: Path, folder: Path, python: Path, *, is_shared: bool = True
) -> None:
    """A lock's wheels in a new virtual environment, which may be moved.

    Files that are shared are links to uv's own copies: nobody may change them. Raises
    EnvironmentFailed.
    """
    uv = uv_program()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "lock.txt")
        file.write_text(lock.text)
        for command in (
            [uv, "venv", "--quiet", "--offline", "--no-config", "--relocatable",
             "--python", str(python), str(folder)],
            [uv, "pip", "install", "--quiet", "--offline", "--no-config", "--no-index", "--no-deps",
             "--find-links", str(packages), "--require-hashes", "--compile-bytecode",
             *([] if is_shared else ["--link-mode", "copy"]),
             "--python", str(folder / "bin" / "python"), "--requirement", str(file)],
        ):  # fmt: skip
            done = _run(command)
            if done.returncode != 0:
                raise EnvironmentFailed(_reason(done.stderr))


def own_python() -> Path:
    """The Python that this program runs on, not that of a virtual environment around it."""
    return Path(sys.executable).resolve()


def version_of(python: Path) -> tuple[int, int]:
    """Major and minor version of a Python."""
    if python.resolve() == own_python():
        return sys.version_info[:2]
    asking = [str(python), "-I", "-c", "import sys; print(*sys.version_info[:2])"]
    done = _run(asking, what=str(python))
    major, minor = done.stdout.split()
    return int(major), int(minor)


def _run(
    command: list[str], given: str = "", *, wait_s: float = WAIT_S, what: str = "uv"
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=wait_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFailed(f"{what} took over {wait_s:g} s") from error
    if done.returncode != 0 and NO_SPACE in done.stderr:
        # Of this machine, not of the project: nothing may be kept that says otherwise.
        raise OSError(errno.ENOSPC, NO_SPACE)
    return done


def _reason(said: str) -> str:
    """What uv or pip say, on one line."""
    lines = [line.strip(FRAME) for line in said.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("WARNING", "hint"))]
    return " ".join(telling)[:SAID] or "it ended without a word"
