"""Both levels of the sandbox, each with a Python that its runs may reach."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.following import Listener
from twin.coding.sandbox.limits import Ended, Job, Limits
from twin.coding.sandbox.syscalls import is_supported

Runs = Callable[..., Ended]


def reachable_python(level: str) -> str:
    """Ours, unless it lies where only root may look and the run is nobody without namespaces."""
    closed = any(not p.stat().st_mode & 1 for p in Path(sys.executable).resolve().parents)
    return "/usr/bin/python3" if level == "landlock" and os.geteuid() == 0 and closed else ""


def archive(files: Mapping[str, str | bytes]) -> bytes:
    """A tree as `git archive` would give it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return whole.getvalue()


@pytest.fixture(params=["bubblewrap", pytest.param("landlock", marks=pytest.mark.slow)])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if sys.platform != "linux" or not is_supported():
        pytest.skip("the sandbox needs Linux on x86-64 or ARM64")
    return Sandbox(request.param)


@pytest.fixture
def python(sandbox: Sandbox) -> str:
    return reachable_python(sandbox.level) or sys.executable


@pytest.fixture
def run(sandbox: Sandbox, python: str) -> Runs:
    """Runs a Python program in the sandbox; its files are the tree."""

    def run(
        program: str,
        *,
        files: Mapping[str, str | bytes] | None = None,
        visible: tuple[Path, ...] = (),
        environment: Mapping[str, str] | None = None,
        listener: Listener | None = None,
        **limits: float,
    ) -> Ended:
        job = Job(
            command=(python, "-c", program),
            tree=archive(files or {}),
            visible=visible,
            environment=environment or {},
            limits=Limits(**{"wall_s": 20, **limits}),  # type: ignore[arg-type]
        )
        return sandbox.run(job, listener)

    return run


def processes_with(mark: str) -> list[str]:
    """Command lines on this machine that hold `mark`."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return [line for line in listed.stdout.splitlines() if mark in line]
