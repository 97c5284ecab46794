"""The Pythons of this machine that a project's tests can run on: found by version or by path.

Asks uv, which knows the search path and its own interpreters, then looks where pyenv keeps those
that are not on the path. Never downloads one. Only CPython: wheels are for one implementation.
"""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from twin.errors import MissingRequirement, UsageError
from twin.observe.environments import own_python, uv_program, version_of

VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)?")
OLDEST: Final = (3, 8)
"""What is run inside the sandbox besides the tests is written for this one."""
ASK: Final = """
import json, os, platform, sys
print(json.dumps([sys.implementation.name, platform.python_version(),
                  os.path.realpath(sys.executable)]))
"""
ASK_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python of this machine."""

    path: Path
    release: str
    """As `3.12.1`."""

    @property
    def version(self) -> str:
        """Major and minor version, as `3.12`: what wheels are for."""
        return ".".join(self.release.split(".")[:2])

    def suits(self, requires: str) -> bool:
        """Whether a project's `requires-python` allows it; one that cannot be read allows all."""
        try:
            return SpecifierSet(requires).contains(self.release, prereleases=True)
        except InvalidSpecifier:
            return True


def own_interpreter() -> Interpreter:
    """The one that this program runs on."""
    return _asked(own_python())


def find_interpreter(wanted: str) -> Interpreter:
    """The interpreter at a path, or the one of a version.

    Raises UsageError for what is neither, MissingRequirement where there is no such interpreter.
    """
    if os.sep in wanted or Path(wanted).is_file():
        return _asked(Path(wanted))
    if not VERSION.fullmatch(wanted):
        raise UsageError(
            f"{wanted!r} is neither the path of a Python nor a version such as 3.12. Give one."
        )
    if wanted == "{}.{}".format(*version_of(own_python())):
        return own_interpreter()
    for path in (*_of_uv(wanted), *_of_pyenv(wanted)):
        return _asked(path)
    raise MissingRequirement(
        f"There is no Python {wanted} on this machine. Install it (`uv python install {wanted}`), "
        "or put it on the PATH."
    )


def suiting(interpreters: Sequence[Interpreter], requires: str) -> list[Interpreter]:
    """Those that a project's `requires-python` allows, in their order."""
    return [one for one in interpreters if one.suits(requires)]


def _of_uv(wanted: str) -> list[Path]:
    done = subprocess.run(
        [uv_program(), "python", "find", "--quiet", "--offline", "--no-python-downloads",
         "--no-config", "--no-project", "--system", f"cpython@{wanted}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [Path(done.stdout.strip())] if done.returncode == 0 and done.stdout.strip() else []


def _of_pyenv(wanted: str) -> list[Path]:
    """The newest release of that version which pyenv holds; its shims hide all but the chosen."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    found = [path for path in root.glob(f"{wanted}*/bin/python") if _is_of(path, wanted)]
    return sorted(found, key=_release, reverse=True)


def _is_of(path: Path, wanted: str) -> bool:
    release = path.parent.parent.name
    return bool(VERSION.fullmatch(release)) and f"{release}.".startswith(f"{wanted}.")


def _release(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.parent.parent.name.split("."))


def _asked(path: Path) -> Interpreter:
    """What an interpreter says of itself."""
    try:
        done = subprocess.run(
            [str(path), "-I", "-S", "-c", ASK],
            capture_output=True, text=True, timeout=ASK_S, check=True,
        )  # fmt: skip
        name, release, real = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UsageError(f"{path} is no Python that can be run. Give another one.") from error
    if name != "cpython" or tuple(map(int, release.split(".")[:2])) < OLDEST:
        raise UsageError(
            f"{path} is {name} {release}; tests run on CPython {'.'.join(map(str, OLDEST))} or "
            "newer. Give another one."
        )
    return Interpreter(path=Path(real), release=release)
