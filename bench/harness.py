"""Commits proved by their own tests: how many, how surely, how fast, on how many processes.

    python bench/harness.py PACK [PACK ...] [--newest N] [--must NAME] [--quick]
    python bench/harness.py --scale [N] [--quick]

PACK is what `twin pack` wrote. Every qualifying commit of a pack (or the N newest) is validated by
one worker, by two, by two and by one, each with a store of its own, environments made before. Then
each valid commit is replayed three times: its own tree, the proof's tests. (--quick: by one and by
two, replayed once.) The planted set is five commits made on the spot whose innocent tests must
prove nothing: a crash on the parent, an import error on the parent, tests that depend on order,
names that are new each time, a flaky test. `--must` names the repository that has a bar of its
own (default: structlog). Figures of a pack: its commits, how many are valid, why the others are
not. `--scale` is a bench of its own: a campaign over a thousand commits, see `harness_scale.py`.
The last line is JSON.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness_scale
import verdict

QUICK_COMMITS = 2
SCALE_COMMITS = 1000
QUICK_SCALE_COMMITS = 24
ORDER = (1, 2, 2, 1)
"""Of workers: what a machine does with the time falls on both alike."""
REPLAYS = 3
QUICK_REPLAYS = 1
PLANTED_ROUNDS = 3
QUICK_PLANTED_ROUNDS = 1

BEFORE = "def add(a, b):\n    return a - b\n"
AFTER = "def add(a, b):\n    return a + b\n"
SUM = "from calc import add\ndef test_sum(): assert add(1, 2) == 3\n"
NAMED_ANEW = """import time, pytest
class A: pass
@pytest.mark.parametrize("x", [A()], ids=repr)
def test_address(x): pass
@pytest.mark.parametrize("x", [time.time()])
def test_time(x): pass
"""
PLANTED: dict[str, tuple[dict[str, str], dict[str, str], set[str]]] = {
    "a crash on the parent": (
        {"calc.py": "import ctypes\ndef add(a, b):\n    return ctypes.string_at(0)\n"},
        {"calc.py": AFTER, "test_calc.py": "def test_a(): pass\n" + SUM + "def test_b(): pass\n"},
        {"test_a", "test_b"},
    ),
    "an import error on the parent": (
        {"calc.py": AFTER, "test_calc.py": SUM},
        {
            "calc.py": AFTER + "def twice(a):\n    return 2 * a\n",
            "test_calc.py": "from calc import twice\n" + SUM + "def test_twice(): twice(1)\n",
        },
        {"test_sum"},
    ),
    "tests that depend on their order": (
        {"calc.py": BEFORE},
        {
            "calc.py": AFTER,
            "test_calc.py": "seen = []\n"
            + SUM.replace("== 3", "== 3; seen.append(1)")
            + "def test_follower(): assert seen\n",
        },
        {"test_follower"},
    ),
    "names that are new each time": (
        {"calc.py": BEFORE, "test_calc.py": NAMED_ANEW},
        {"calc.py": AFTER, "test_calc.py": NAMED_ANEW + SUM},
        {"test_address[", "test_time["},
    ),
    "a flaky test": (
        {"calc.py": BEFORE},
        {
            "calc.py": AFTER,
            "test_calc.py": SUM
            + "import time\ndef test_flaky(): assert time.perf_counter_ns() // 1000 % 2\n",
        },
        {"test_flaky"},
    ),
}
"""Name -> files before, files after, how the tests begin that prove nothing."""


def validated(pack: Path, work: Path, newest: int | None, workers: int) -> Any:
    """One campaign with a store of its own; environments are shared and made before."""
    from twin.cycle.harness import validate_pack
    from twin.store.database import open_store

    with tempfile.TemporaryDirectory(dir=work) as root, open_store(Path(root)) as store:
        found = validate_pack(pack, store, work / "environments", workers=workers, newest=newest)
        return replace(found, validations=tuple(found.validations))  # the store goes


def make_environments(pack: Path, work: Path, newest: int | None) -> None:
    """Those that are not made before cost whoever comes first."""
    from twin.observe.packs import open_pack

    packed = open_pack(pack, work / "environments", check=False)
    assert packed.manifest is not None
    commits = packed.manifest.commits[-newest:] if newest else packed.manifest.commits
    needed = {one.environment for one in commits}
    for one in packed.manifest.environments:
        if one.key in needed and not one.fault:
            packed.environment(one.key)


def replayed(pack: Path, work: Path, found: Any, rounds: int) -> dict[str, Any]:
    """Each valid commit's own tree against its proof, several times."""
    from twin.coding.sandbox.cell import open_sandbox
    from twin.cycle.harness import read_commit
    from twin.observe.packs import open_pack
    from twin.observe.validate import Validator

    packed = open_pack(pack, work / "environments", check=False)
    stable, valid = 0, [one for one in found.validations if one.is_valid]
    failed: dict[str, list[str]] = {}
    with packed.repository() as repository:
        for one in valid:
            validator = Validator(repository, open_sandbox(), packed.environment(one.environment))
            commit = read_commit(repository, one.commit_id)
            missed = [test for _ in range(rounds) for test in validator.grade(commit, one)]
            stable += not missed
            if missed:
                failed[one.commit_id[:10]] = sorted(set(missed))[:5]
    return {"valid": len(valid), "stable": stable, "failed": failed}


def planted(work: Path, rounds: int) -> dict[str, Any]:
    """How many innocent tests counted as failing before and passing after."""
    from twin.coding.git import GitRepository
    from twin.coding.history import read_history
    from twin.coding.sandbox.cell import open_sandbox
    from twin.coding.testing.results import TestEnvironment
    from twin.observe.validate import Validator

    false, proved = 0, 0
    for number, (before, after, innocent) in enumerate(PLANTED.values()):
        root = work / f"planted-{number}"
        root.mkdir()
        git(root, "init", "-q")
        for files in (before, after):
            for name, text in files.items():
                (root / name).write_text(text)
            git(root, "add", ".")
            git(root, "commit", "-qm", "a commit")
        with GitRepository.open(root) as repository:
            *_, commit = read_history(repository)
            environment = TestEnvironment(python=Path(sys.executable))
            for _ in range(rounds):
                found = Validator(repository, open_sandbox(), environment).validate(commit)
                names = {test.partition("::")[2] for test in found.tests("fail_to_pass")}
                wrong = {name for name in names if name.startswith(tuple(innocent))}
                false += len(wrong)
                proved += bool(names - wrong)
    return {"cases": len(PLANTED), "rounds": rounds, "false": false, "proved": proved}


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True)


def set_up(pack: Path, work: Path) -> dict[str, float]:
    """Seconds to make an environment for the first time, from wheels uv knows, and to use one."""
    from twin.observe.packs import open_pack

    taken = []
    for place in ("first", "second", "second"):
        packed = open_pack(pack, work / f"set-up-{place}", check=False)
        assert packed.manifest is not None
        key = next(one.key for one in packed.manifest.environments if not one.fault)
        started = time.perf_counter()
        packed.environment(key)
        taken.append(time.perf_counter() - started)
    return dict(zip(("first_s", "again_s", "third_s"), taken, strict=True))


def at_scale(num_commits: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        figures = harness_scale.scale(Path(folder), num_commits)
    bars = [
        verdict.at_least("commits of the campaign", num_commits, figures["commits"]),
        verdict.at_least("solved by their own plan", figures["commits"], figures["solved"]),
        verdict.at_most("lost", 0, figures["lost"]),
        verdict.at_most("begun twice", figures["killed_under_way"], figures["begun_twice"]),
        verdict.at_most("answers changed after a kill", 0, figures["changed_after_kill"]),
        verdict.below("memory of who began it, MB", 500, figures["coordinator_mb"]),
    ]
    figures |= verdict.machine()
    return int(verdict.tell("harness_scale", verdict.versions("pytest", "uv"), figures, bars))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packs", nargs="*", type=Path, metavar="PACK")
    parser.add_argument("--scale", nargs="?", type=int, const=SCALE_COMMITS, metavar="N")
    parser.add_argument("--newest", type=int)
    parser.add_argument("--must", default="structlog")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_COMMITS} commits a pack")
    given = parser.parse_args()
    if given.scale:
        return at_scale(QUICK_SCALE_COMMITS if given.quick else given.scale)
    if not given.packs:
        parser.error("give a PACK, or --scale")
    newest = QUICK_COMMITS if given.quick else given.newest
    rounds = QUICK_PLANTED_ROUNDS if given.quick else PLANTED_ROUNDS
    figures: dict[str, Any] = {}
    seconds: list[float] = []
    everything: list[float] = []
    ratios, stable, valid = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for pack in given.packs:
            make_environments(pack, work, newest)
            order = ORDER[:2] if given.quick else ORDER
            campaigns = [(n, validated(pack, work, newest, n)) for n in order]
            alone = [found.seconds for workers, found in campaigns if workers == 1]
            together = [found.seconds for workers, found in campaigns if workers == 2]
            one = campaigns[0][1]
            replay = replayed(pack, work, one, QUICK_REPLAYS if given.quick else REPLAYS)
            stable, valid = stable + replay["stable"], valid + replay["valid"]
            seconds += [v.seconds for v in one.validations if v.is_valid]
            everything += [v.seconds for v in one.validations if v.num_runs]
            ratios.append(sum(alone) / sum(together))
            figures[one.pack] = {
                "commits": one.num_commits,
                "valid": one.num_valid,
                "why": one.why,
                "tests": one.classes,
                "median_s": verdict.rounded(one.median_seconds, 2),
                "one_worker_s": [round(taken, 1) for taken in alone],
                "two_workers_s": [round(taken, 1) for taken in together],
                "replay": replay,
                "level": one.levels,
            }
            print(f"  {one.pack:24} {one.num_valid:4} of {one.num_commits:4} valid  {one.why}")
        traps = planted(work, rounds)
        figures |= {"planted": traps, "set_up": set_up(given.packs[0], work)}
    commits = sum(f["commits"] for f in figures.values() if "commits" in f)
    own = [f for name, f in figures.items() if given.must in name and "commits" in f]
    share = 100 * own[0]["valid"] / own[0]["commits"] if own and own[0]["commits"] else None
    own_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures |= {
        **verdict.machine(),
        "why": dict(sum((Counter(f["why"]) for f in figures.values() if "why" in f), Counter())),
        "coordinator_mb": round(own_rss),
    }
    trials = len(PLANTED) * rounds
    bars = [
        verdict.at_least(f"validated commits of {given.must}, %", 80, share),
        verdict.at_least("validated commits, all packs, %", 65, 100 * valid / commits),
        verdict.at_least("replays that are stable, %", 100, 100 * stable / max(valid, 1)),
        verdict.at_most("planted tests that count as proof", 0, traps["false"]),
        verdict.at_least("planted commits proved all the same", trials, traps["proved"]),
        verdict.below("seconds a valid commit, median", 3, verdict.median(seconds)),
        verdict.at_least("commits an hour and core", 900, 3600 / statistics.fmean(everything)),
        verdict.below("set-up of the third validation, s", 0.3, figures["set_up"]["third_s"]),
        verdict.at_least("two workers against one", 1.8, statistics.median(ratios)),
    ]  # fmt: skip
    return verdict.tell("harness", verdict.versions("pytest", "uv"), figures, bars)


if __name__ == "__main__":
    sys.exit(main())
