"""A campaign over a thousand commits, killed twice: is all of it done, nothing twice, in how much
memory?

Used by `harness.py --scale`. The repository is made on the spot: small modules, each with tests of
its own, every commit a change of one module with a test that fails before it. The campaign
(validate, then solve by the commit's own plan, two workers) is killed with `kill -9` in the middle
of validating, started again, killed in the middle of solving, and started again. Every worker notes
what it begins, so that what was done twice shows. Asks a package index once, for pytest.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

NUM_MODULES = 20
NUM_WORKERS = 2
START = 1_700_000_000
LIMIT_S = 7200

PYPROJECT = '[project]\nname = "thousand"\nversion = "1"\n'
SOURCE = "def value():\n    return {number}\n"
TESTS = """from thousand.part_{module} import value


def test_value():
    assert value() == {number}


def test_kind():
    assert isinstance(value(), int)
"""

PROGRAM = """
import json, os, resource, sys
from pathlib import Path
from twin.config import Config
from twin.cycle import campaign, harness
from twin.store.database import open_store

root = Path(sys.argv[1])

def noted(owner, name):
    work = getattr(owner, name)
    def noting(self, one, *rest):
        key = getattr(one, "proof", one).commit_id
        with open(root / "begun", "a") as file:
            file.write(f"{name} {key}\\n")
        return work(self, one, *rest)
    setattr(owner, name, noting)

# Each worker imports this file anew.
noted(harness._Validating, "_validated")
noted(campaign._Solving, "_validate")

if __name__ == "__main__":
    with open_store(root / "home") as store:
        found = campaign.run_campaign(
            root / "thousand.pack", store, Config(),
            planner="gold", executor="gold", workers=int(sys.argv[2]),
        )
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "valid": found.num_valid, "solved": found.num_solved, "trials": len(found.trials),
        "why": found.why, "peak_mb": peak_kb / 1024,
    }))
"""


def scale(work: Path, num_commits: int) -> dict[str, Any]:
    """The figures of one campaign."""
    started = time.monotonic()
    packed = _packed(work, num_commits)
    pack_s = time.monotonic() - started
    (work / "program.py").write_text(PROGRAM)
    kills = [
        _killed(work, "SELECT count(*) FROM raw_validation", num_commits // 2),
        _killed(
            work, "SELECT count(*) FROM raw_trial_step WHERE step = 'validate'", num_commits // 2
        ),
    ]
    last = subprocess.run(_line(work), check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(last.stdout)
    begun = Counter((work / "begun").read_text().splitlines())
    return {
        "commits": packed,
        "pack_s": round(pack_s, 1),
        "campaign_s": round(time.monotonic() - started - pack_s, 1),
        "valid": found["valid"],
        "solved": found["solved"],
        "why": found["why"],
        "lost": 2 * packed - len(begun),
        # A worker that is killed has begun one thing that it cannot have finished.
        "killed_under_way": len(kills) * NUM_WORKERS,
        "begun_twice": sum(begun.values()) - len(begun),
        "changed_after_kill": sum(_changed(work, kill["answers"]) for kill in kills),
        "known_at_kills": [len(kill["answers"]) for kill in kills],
        "coordinator_mb": round(max([found["peak_mb"], *(kill["peak_mb"] for kill in kills)])),
    }


def _packed(work: Path, num_commits: int) -> int:
    """How many commits the pack of a repository made for this has."""
    from twin.coding.git import GitRepository
    from twin.config import Config
    from twin.cycle.harness import pack_now
    from twin.store.database import open_store

    root = work / "thousand"
    root.mkdir()
    (work / "home").mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    history = "".join(_history(num_commits)).encode()
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, input=history, check=True)
    subprocess.run(["git", "checkout", "-q", "main"], cwd=root, check=True)
    with GitRepository.open(root) as repository, open_store(work / "home") as store:
        return len(pack_now(repository, store, Config(), work / "thousand.pack").commits)


def _history(num_commits: int) -> Any:
    """What `git fast-import` reads: everything at once, then one module after the other."""
    everything = {"pyproject.toml": PYPROJECT, "thousand/__init__.py": ""}
    for module in range(NUM_MODULES):
        everything |= _files(module, -1)
    yield _commit(0, "Begin", everything)
    for number in range(1, num_commits + 1):
        module = number % NUM_MODULES
        message = f"Make part {module} return another number, the {number}th"
        yield _commit(number, message, _files(module, number))


def _files(module: int, number: int) -> dict[str, str]:
    return {
        f"thousand/part_{module}.py": SOURCE.format(number=number),
        f"tests/test_part_{module}.py": TESTS.format(module=module, number=number),
    }


def _commit(number: int, message: str, files: dict[str, str]) -> str:
    who = f"Ada <ada@example.org> {START + 3600 * number} +0000"
    changes = "".join(
        f"M 100644 inline {path}\ndata {len(text)}\n{text}\n" for path, text in files.items()
    )
    said = f"data {len(message)}\n{message}\n"
    return f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n{said}{changes}\n"


def _line(work: Path) -> list[str]:
    return [sys.executable, str(work / "program.py"), str(work), str(NUM_WORKERS)]


def _killed(work: Path, counts: str, enough: int) -> dict[str, Any]:
    """Begins the campaign and kills it when a count in its store is high enough."""
    limit = time.monotonic() + LIMIT_S
    with subprocess.Popen(_line(work), stdout=subprocess.DEVNULL) as process:
        peak_mb = 0.0
        while _asked(work, counts)[0][0] < enough:
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError("the campaign ended before it could be killed")
            peak_mb = _peak_mb(process.pid) or peak_mb
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    return {"peak_mb": peak_mb, "answers": _answers(work)}


def _answers(work: Path) -> set[Any]:
    validations = _asked(work, "SELECT lookup, at FROM raw_validation")
    return {*validations, *_asked(work, "SELECT lookup, at FROM raw_trial_step")}


def _changed(work: Path, before: set[Any]) -> int:
    """Answers of before that are not there any more, as they were."""
    return len(before - _answers(work))


def _asked(work: Path, query: str) -> list[Any]:
    store = sqlite3.connect(work / "home" / ".twin" / "twin.db", timeout=30)
    try:
        return store.execute(query).fetchall()
    finally:
        store.close()


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0
