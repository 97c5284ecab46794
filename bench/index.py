"""Indexing speed: cold and with nothing changed, side by side with universal-ctags.

    python bench/index.py REPO [--quick]

REPO is a work tree or a bare repository. Every measurement is a process of its own that counts its
children's CPU too, after its imports; the contestants take turns within one run, so that load on
the machine meets them alike. `cold` reads git, parses every file and writes an empty store;
`unchanged` does the same on the store that `cold` left; `tree_sitter` only parses, no queries, as
the floor; `ctags` reads the same files from disk and finds definitions only. The last line is JSON.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

COLD_MUST = 500.0
UNCHANGED_MUST = 0.5
UNCHANGED_FILES = 1_000
ROUNDS, QUICK_ROUNDS = 5, 2


def index(repo: Path, store: Path, _sources: Path) -> dict[str, float]:
    """What `twin index` does: cold on an empty store, else with nothing changed."""
    from twin.coding.index import build_snapshot
    from twin.store.database import open_store

    with opened(repo) as repository, open_store(store) as kept:
        head = repository.head()
        clock = Clock()
        snapshot = build_snapshot(repository, kept.blobs, head)
        repository.close()  # git's time counts once it has ended
        return clock.read() | {
            "files": len(snapshot.parsed),
            "skipped": snapshot.num_skipped,
            "edges": sum(map(len, snapshot.imports.values())),
        }


def tree_sitter(_repo: Path, _store: Path, sources: Path) -> dict[str, float]:
    from tree_sitter import Parser

    from twin.coding.grammars import GRAMMARS
    from twin.coding.languages import language_of

    files = [(path, path.read_bytes()) for path in sources.rglob("*") if path.is_file()]
    languages = {language_of(path.name) for path, _ in files}
    parsers = {name: Parser(GRAMMARS[name]().language) for name in languages if name}
    clock = Clock()
    for path, data in files:
        parsers[language_of(path.name) or ""].parse(data)
    return clock.read() | {"files": len(files), "bytes": sum(len(data) for _, data in files)}


def ctags(_repo: Path, _store: Path, sources: Path) -> dict[str, float]:
    files = [str(path) for path in sources.rglob("*") if path.is_file()]
    command = ["ctags", "--links=no", "-f", os.devnull, "-L", "-"]
    clock = Clock()
    subprocess.run(
        command, input="\n".join(files), text=True, check=True, stderr=subprocess.DEVNULL
    )
    return clock.read() | {"files": len(files)}


CONTESTANTS = {"cold": index, "unchanged": index, "tree_sitter": tree_sitter, "ctags": ctags}


class Clock:
    """CPU and wall seconds since it was made; children count once they have ended."""

    def __init__(self) -> None:
        self.cpu, self.wall = cpu_seconds(), perf_counter()

    def read(self) -> dict[str, float]:
        return {"cpu_s": cpu_seconds() - self.cpu, "wall_s": perf_counter() - self.wall}


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def opened(repo: Path):  # type: ignore[no-untyped-def]
    from twin.coding.git import GitRepository

    bare = subprocess.run(
        ["git", "-C", repo, "rev-parse", "--is-bare-repository"], capture_output=True, text=True
    )
    return GitRepository.bare(repo) if bare.stdout.strip() == "true" else GitRepository.open(repo)


def extract(repo: Path, sources: Path) -> tuple[int, int]:
    """Writes the files that the index reads into a folder, for those that cannot read git; returns
    their number and bytes."""
    from twin.coding.index import unreadable
    from twin.coding.languages import language_of
    from twin.coding.paths import role_of

    with opened(repo) as repository:
        tree = repository.tree(repository.head())
        wanted = {
            path: blob
            for path, blob in tree.items()
            if language_of(path) and role_of(path) != "vendored"
        }
        contents = dict(repository.blobs(sorted(set(wanted.values()))))
    num_files = num_bytes = 0
    for path, blob in wanted.items():
        data = contents[blob]
        if data is None or unreadable(data):
            continue
        target = sources / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        num_files, num_bytes = num_files + 1, num_bytes + len(data)
    return num_files, num_bytes


def measure(contestant: str, repo: Path, store: Path, sources: Path) -> dict[str, float]:
    """One measurement in a process of its own."""
    if contestant == "cold":
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
    done = subprocess.run(
        [
            sys.executable, __file__, repo, "--measure", contestant,
            "--store", store, "--sources", sources,
        ],
        stdout=subprocess.PIPE,
        check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo", type=Path)
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five")
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sources", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        found = CONTESTANTS[options.measure](options.repo, options.store, options.sources)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found | {"peak_mb": peak_mb}))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-index-") as folder:
        sources = Path(folder) / "sources"
        sources.mkdir()
        num_files, num_bytes = extract(options.repo, sources)
        if num_files == 0:
            parser.error(f"{options.repo} holds no files that the index reads. Give another.")
        print(f"{options.repo}: {num_files:,} files, {num_bytes / num_files / 1000:.1f} kB each")
        rounds = QUICK_ROUNDS if options.quick else ROUNDS
        return compare(options.repo, Path(folder) / "store", sources, rounds, num_bytes)


def compare(repo: Path, store: Path, sources: Path, rounds: int, num_bytes: int) -> int:
    """Measures, prints the figures for people and then the line for programs."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        for contestant in CONTESTANTS:
            if contestant == "ctags" and shutil.which("ctags") is None:
                continue
            result = measure(contestant, repo, store, sources)
            found[contestant].append(result)
            print(
                f"  round {number + 1}  {contestant:11} {result['files']:6,.0f} files"
                f"  {result['cpu_s']:7.3f} CPU s  {result['wall_s']:7.3f} s"
                f"  {result['files'] / result['cpu_s']:9,.0f} files/CPU s"
                f"  {result['peak_mb']:5.0f} MB",
                flush=True,
            )
    if not found["ctags"]:
        print("  ctags is not installed: apt-get install universal-ctags")
    report = summary(found, num_bytes)
    for line in report["bars"]:
        print(f"{line['name']}: {line['got']} (must be {line['must']})")
    print(json.dumps(report))
    return 0 if all(line["holds"] for line in report["bars"]) else 1


def summary(found: dict[str, list[dict[str, float]]], num_bytes: int) -> dict:  # type: ignore[type-arg]
    rates = {
        name: round(statistics.median(one["files"] / one["cpu_s"] for one in results), 1)
        for name, results in found.items()
        if results
    }
    num_files = found["cold"][0]["files"]
    unchanged_s = statistics.median(one["wall_s"] for one in found["unchanged"])
    # A larger repository is not scaled down: the bar then asks for more than it promises.
    scaled_s = unchanged_s * max(1.0, UNCHANGED_FILES / num_files)
    ctags = (
        subprocess.run(["ctags", "--version"], capture_output=True, text=True, check=False).stdout
        if shutil.which("ctags")
        else "missing"
    )
    return {
        "bench": "index",
        "versions": {
            "python": platform.python_version(),
            "tree-sitter": version("tree-sitter"),
            "ctags": ctags.partition(",")[0].removeprefix("Universal Ctags ").strip(),
            "cognitive-twin": version("cognitive-twin"),
        },
        "figures": {
            "cpus": os.cpu_count(),
            "files": num_files,
            "skipped": found["cold"][0]["skipped"],
            "kb_per_file": round(num_bytes / num_files / 1000, 2),
            "import_edges": found["cold"][0]["edges"],
            "files_per_cpu_second": rates,
            "unchanged_s": round(unchanged_s, 4),
            "unchanged_cpu_s": round(
                statistics.median(one["cpu_s"] for one in found["unchanged"]), 4
            ),
            "peak_mb": round(max(one["peak_mb"] for one in found["cold"]), 1),
        },
        "bars": [
            {
                "name": "cold, files per CPU second",
                "must": f">= {COLD_MUST:.0f}",
                "got": rates["cold"],
                "holds": rates["cold"] >= COLD_MUST,
            },
            {
                "name": "nothing changed, seconds for 1,000 files",
                "must": f"< {UNCHANGED_MUST}",
                "got": round(scaled_s, 4),
                "holds": scaled_s < UNCHANGED_MUST,
            },
        ],
    }


if __name__ == "__main__":
    raise SystemExit(main())
