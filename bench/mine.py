"""Mining speed: commits per CPU second, side by side with PyDriller and plain `git log --numstat`.

    python bench/mine.py REPO [--quick]

REPO is a work tree or a bare repository; it is cloned without copying its objects, so that all
read the same. Every measurement is a process of its own that counts its children's CPU too, after
its imports; the contestants take turns within one run, so that load on the machine meets them
alike. PyDriller would take minutes for a whole history, so it reads a sample of commits at even
distances, and its opening of the repository is not counted. It counts the lines of every file, as
does git; mining counts those of source files, which is where its lead over git comes from. The last
line is JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

PYDRILLER_MUST = 20.0
GIT_LOG_MUST = 2.0

SAMPLE, QUICK_SAMPLE = 400, 80
"""Commits that PyDriller reads."""

QUICK_COMMITS = 3000


def mined(path: Path, since: str | None, sample: int) -> int:
    """What `twin mine` does, but for the store: history, facts, score, labels, rules."""
    from twin.coding.git import GitRepository
    from twin.coding.history import read_history
    from twin.config import MineConfig
    from twin.observe.mine import mine

    start_clock()
    with GitRepository.open(path) as repository:
        return sum(1 for _ in mine(read_history(repository, since=since), MineConfig()))


def pydriller(path: Path, since: str | None, sample: int) -> int:
    """The same facts from PyDriller: per commit its files, with added and deleted lines."""
    from pydriller.git import Git

    ids = subprocess.check_output(
        ["git", "-C", path, "rev-list", "HEAD", *([f"^{since}"] if since else [])], text=True
    ).split()
    ids = ids[:: max(1, len(ids) // sample)][:sample]
    git = Git(str(path))
    git.get_commit(ids[0])
    start_clock()
    for commit_id in ids:
        commit = git.get_commit(commit_id)
        if not commit.merge:
            for file in commit.modified_files:
                _ = (file.old_path, file.new_path, file.added_lines, file.deleted_lines)
    git.clear()
    return len(ids)


def git_log(path: Path, since: str | None, sample: int) -> int:
    """`git log --numstat` into a pipe that throws it away, counting commits."""
    start_clock()
    command = [
        "git",
        "-C",
        str(path),
        "log",
        "--numstat",
        "HEAD",
        *([f"^{since}"] if since else []),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    commits = 0
    while data := process.stdout.read(1 << 18):
        commits += data.count(b"\nAuthor: ")
    if process.wait() != 0:
        raise SystemExit("git log failed: the repository lacks blobs")
    return commits


CONTESTANTS = {"mine": mined, "pydriller": pydriller, "git_log": git_log}

_clock = 0.0


def start_clock() -> None:
    global _clock
    _clock = cpu_seconds()


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(contestant: str, path: Path, since: str | None, sample: int) -> dict[str, float] | None:
    """One measurement in a process of its own; None where the contestant cannot read it."""
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            str(path),
            "--measure",
            contestant,
            "--since",
            since or "",
            "--sample",
            str(sample),
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def rates(path: Path, since: str | None, sample: int, rounds: int) -> dict[str, float]:
    """Median commits per CPU second, A/B/A/B; a contestant that fails is left out."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        for contestant in CONTESTANTS:
            result = measure(contestant, path, since, sample)
            if result is None:
                print(f"  {contestant:10} cannot read this repository", flush=True)
                continue
            found.setdefault(contestant, []).append(result["commits"] / result["cpu_seconds"])
            print(
                f"  round {number + 1}  {contestant:10} {result['commits']:7,.0f} commits"
                f"  {result['cpu_seconds']:8.3f} CPU s  {found[contestant][-1]:9,.0f} commits/CPU s"
                f"  {result['peak_mb']:5.0f} MB",
                flush=True,
            )
    return {contestant: statistics.median(values) for contestant, values in found.items()}


def newest(path: Path, count: int) -> str | None:
    """The commit before the newest `count`, None where there are fewer."""
    found = subprocess.check_output(
        ["git", "-C", path, "rev-list", "--topo-order", f"--skip={count}", "-n1", "HEAD"], text=True
    )
    return found.strip() or None


def bar(name: str, must: str, got: float | None, holds: bool | None) -> dict[str, object]:
    return {"name": name, "must": must, "got": got and round(got, 2), "holds": holds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo", type=Path)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--since", default="", help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=int, default=SAMPLE, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        commits = CONTESTANTS[options.measure](
            options.repo, options.since or None, options.sample
        )  # fmt: skip
        used, peak = cpu_seconds() - _clock, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"commits": commits, "cpu_seconds": used, "peak_mb": peak / 1024}))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-mine-") as folder:
        clone = ["git", "clone", "-q", "--shared", "--no-checkout", options.repo, folder]
        if subprocess.run(clone, check=False).returncode != 0:
            parser.error(f"{options.repo} cannot be cloned. Give a git repository.")
        return compare(options.repo, Path(folder), options.quick)


def compare(named: Path, path: Path, quick: bool) -> int:
    """Measures, prints the figures for people and then the line for programs."""
    since = newest(path, QUICK_COMMITS) if quick else None
    print(f"{named}: {'all' if since is None else f'the newest {QUICK_COMMITS:,}'} commits")
    found = rates(path, since, QUICK_SAMPLE if quick else SAMPLE, 2 if quick else 4)
    against_pydriller = found["mine"] / found["pydriller"] if "pydriller" in found else None
    against_git = found["git_log"] / found["mine"] if "git_log" in found else None
    bars = [
        bar("commits per CPU second against PyDriller", f">= {PYDRILLER_MUST:.0f}x",
            against_pydriller, against_pydriller and against_pydriller >= PYDRILLER_MUST),
        bar("CPU seconds against git log --numstat", f"<= {GIT_LOG_MUST:.0f}x",
            against_git, against_git and against_git <= GIT_LOG_MUST),
    ]  # fmt: skip
    for line in bars:
        print(f"{line['name']}: {line['got']} (must be {line['must']})")
    git = subprocess.check_output(["git", "version"], text=True).split()[2]
    report = {
        "bench": "mine",
        "versions": {
            "python": platform.python_version(), "git": git,
            "pydriller": version("pydriller"), "cognitive-twin": version("cognitive-twin"),
        },
        "figures": {
            "cpus": os.cpu_count(),
            "commits_per_cpu_second": {name: round(rate, 1) for name, rate in found.items()},
        },
        "bars": bars,
    }  # fmt: skip
    print(json.dumps(report))
    return 0 if all(line["holds"] is not False for line in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())
