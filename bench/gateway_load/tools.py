"""The mock upstream and the load generator: compiled, or in Python where no compiler is."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_load.processes import Process, free_port, listens, pinned_to, until

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The two commands, and of which kind they are: `c` or `python`."""

    mock: tuple[str, ...]
    load: tuple[str, ...]
    kind: str


def build(folder: Path) -> Tools:
    """Compiles into `folder`; falls back to Python where that is not possible."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler:
        made = {name: folder / name for name in ("mock", "load")}
        results = [
            subprocess.run([compiler, "-O2", "-o", path, HERE / f"{name}.c"], check=False)
            for name, path in made.items()
        ]
        if not any(result.returncode for result in results):
            return Tools(mock=(str(made["mock"]),), load=(str(made["load"]),), kind="c")
    scripts = {name: (sys.executable, str(HERE / f"{name}.py")) for name in ("mock", "load")}
    return Tools(**scripts, kind="python")


def start_mock(tools: Tools, core: int) -> tuple[Process, int]:
    port = free_port()
    process = Process([*tools.mock, str(port)], cores=[core])
    if not until(lambda: listens(port), 10):
        raise SystemExit("The mock upstream did not start.")
    return process, port


def load(
    tools: Tools,
    *,
    port: int,
    path: str,
    body: Path,
    headers: Sequence[str],
    expect: Sequence[str],
    connections: int,
    seconds: float,
    warm: float,
    core: int,
) -> dict[str, Any]:
    """One run of the load generator; at least one wave of answers, four times `seconds` at most."""
    command = [*tools.load, str(port), path, str(body)]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--warm", str(warm)]
    command += ["--min", str(connections), "--max-seconds", str(seconds * 4)]
    for header in headers:
        command += ["--header", header]
    for text in expect:
        command += ["--expect", text]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds * 4 + warm + 90,
        preexec_fn=pinned_to([core]),
        check=False,
    )
    if done.stderr:
        print(done.stderr.rstrip()[:600], file=sys.stderr, flush=True)
    if done.returncode:
        raise RuntimeError(f"The load generator failed with {done.returncode}.")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
