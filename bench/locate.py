"""Localisation: later recall of the shipped model, the fitted model, BM25 and chance, side by side.

    python bench/locate.py --queries FILE REPO...          the published queries and their split
    python bench/locate.py --heldout REPO...               tasks from any history

Every ranker is asked the same held-out tasks, each at its own moment: candidates are all `.py`
files at the task's parent, features see only commits before it. Recall@k is the mean share of a
task's targets among the first k; all@5 the share of tasks with every target among the first 5.

`fitted` is what `twin improve` would make of each repository alone: the shipped model with further
trees, grown on the train part of that repository. `together` is one such model for all of them. The
shipped model must never have seen a repository that it is judged on: the bench refuses to go on if
its card names one (with --heldout it says so). FILE is JSON lines (gzip or plain) with repository,
commit, parent, time, split, query, targets, num_source_files. The last line is JSON.
"""

import argparse
import gzip
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.languages import language_of
from twin.coding.replay import Replayed, replay
from twin.coding.timeline import Timeline
from twin.config import Config, FitConfig
from twin.curate.tasks import localisation_tasks, split_by_time
from twin.cycle.improvement import scorer
from twin.gate.chronological import Scorer, bm25, rank
from twin.gate.metrics import Breakdown, breakdown
from twin.gate.verdict import difference, pair
from twin.observe.mine import mine
from twin.records import RankedTask, Task
from twin.specialists.relevance import Card, RelevanceModel, default_model
from twin.store.database import open_store
from twin.train.recipes import MIN_TASKS, fit_best, weights_of
from twin.train.relevance import Rows, fit_linear, fit_trees, sampled

TOGETHER_ROUNDS, TOGETHER_RATE = 160, 0.04
SHOWN = ("recall@1", "recall@5", "recall@10", "mrr", "all@5")


@dataclass
class Repository:
    """One repository's tasks, replayed."""

    name: str
    train: list[Replayed]
    holdout: list[Replayed]


def published_tasks(path: Path) -> dict[str, list[tuple[Task, str, int]]]:
    """Per repository: (task, split, number of source files)."""
    found: dict[str, list[tuple[Task, str, int]]] = {}
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            task = Task(
                repository=row["repository"],
                commit_id=row["commit"],
                parent_id=row["parent"],
                time=row["time"],
                query=row["query"],
                targets=tuple(row["targets"]),
                touches_tests=row["touches_tests"],
            )
            entry = task, row["split"], row["num_source_files"]
            found.setdefault(task.repository, []).append(entry)
    return found


def opened(path: Path, name: str = "") -> GitRepository:
    bare = (path / "objects").is_dir()
    return GitRepository.bare(path, name) if bare else GitRepository.open(path)


def named_after(path: Path, names: Sequence[str]) -> str:
    """Which published repository lies at `path`: by its origin, else by its folder's name."""
    with opened(path) as repository:
        known = {name.lower(): name for name in names}
        if repository.name.lower() in known:
            return known[repository.name.lower()]
    parts = {part.lower() for part in (path.name, path.parent.name, path.stem)}
    for name in names:
        owner, _, short = name.lower().partition("/")
        if parts & {f"{owner}+{short}", f"{owner}__{short}", f"{owner}-{short}", short}:
            return name
    raise SystemExit(f"{path} is none of the published repositories: {', '.join(names)}.")


def replayed(
    path: Path, name: str, cache: Path, tasks: list[tuple[Task, str, int]], quick: bool
) -> Repository:
    """Replays the tasks of one repository; `train` tasks keep only the rows that learning needs."""
    started = time.perf_counter()
    with opened(path, name) as repository, open_store(cache) as store:
        timeline = Timeline(list(read_history(repository)))
        if quick:
            tasks = thinned(tasks)
        split = {task.commit_id: (part, sources) for task, part, sources in tasks}
        found = Repository(name, [], [])
        for row in replay(
            repository,
            repository.tree,
            store.blobs,
            timeline,
            [task for task, _, _ in tasks],
            candidate=lambda path: path.endswith(".py"),
        ):
            part, sources = split[row.task.commit_id]
            if part == "train":
                found.train.append(sampled(row, 0))
            else:
                found.holdout.append(replace(row, num_source_files=sources))
    seconds = time.perf_counter() - started
    print(
        f"  {name:28} {len(found.train):5} train {len(found.holdout):5} held out {seconds:6.1f} s",
        flush=True,
    )
    if len(found.train) + len(found.holdout) != len(tasks):
        raise SystemExit(f"{name}: {len(tasks)} tasks asked, but not all of them are in {path}.")
    return found


def thinned(tasks: list[tuple[Task, str, int]]) -> list[tuple[Task, str, int]]:
    """For --quick: the newest 60 train tasks and 30 held-out ones."""
    return [t for t in tasks if t[1] == "train"][-60:] + [t for t in tasks if t[1] != "train"][:30]


def own_tasks(path: Path, config: Config) -> tuple[str, list[tuple[Task, str, int]]]:
    """The tasks of any repository, mined and split as `twin improve` does, Python targets only."""
    with opened(path) as repository:
        mined = list(mine(read_history(repository), config.mine))
        tasks = [
            task
            for task in localisation_tasks(mined, repository.name, repository.tree)
            if all(target.endswith(".py") for target in task.targets)
        ][-config.fit.max_tasks :]
        train, holdout = split_by_time(tasks, config.fit.holdout)
        trees = {task.commit_id: repository.tree(task.parent_id) for task in holdout}
    parts = [(task, "train", 0) for task in train]
    parts += [(t, "holdout", _num_sources(trees[t.commit_id])) for t in holdout]
    return repository.name, parts


def _num_sources(tree: dict[str, str]) -> int:
    from twin.coding.paths import role_of

    return sum(language_of(p) == "python" and role_of(p) == "source" for p in tree)


def random_scores(task: Replayed) -> NDArray[np.float64]:
    """Chance among the sources: ties, which the ranking breaks at random."""
    return np.asarray(task.values[:, task.names.index("is_source")], np.float64)


def fitted_together(
    repositories: Sequence[Repository], default: RelevanceModel
) -> tuple[RelevanceModel, RelevanceModel]:
    """(LambdaMART grown on the shipped model, the linear floor), from all train parts."""
    tasks = [task for repository in repositories for task in repository.train]
    weights = [weight for repository in repositories for weight in weights_of(repository.train)]
    rows = Rows.of(tasks, 0, weights)
    card = Card(trained_on=tuple(r.name for r in repositories), num_tasks=len(tasks))
    trees = fit_trees(
        rows, card, rounds=TOGETHER_ROUNDS, learning_rate=TOGETHER_RATE, start=default
    )
    return trees, fit_linear(rows, card)


def fitted_alone(repository: Repository, default: RelevanceModel) -> RelevanceModel:
    """What `twin improve` would send to the gate; the shipped model where tasks are too few."""
    if len(repository.train) < MIN_TASKS:
        return default
    return fit_best(repository.train, default).model


def table(title: str, ranked: dict[str, list[RankedTask]]) -> dict[str, Breakdown]:
    figures = {name: breakdown(tasks) for name, tasks in ranked.items()}
    any_one = next(iter(figures.values()))
    print(f"\n{title}: {any_one.num_tasks} tasks, {any_one.num_large_tasks} in large repositories")
    print(f"  {'':14}{'   R@1   R@5  R@10   MRR all@5':32}| large{'':3}R@1   R@5  R@10   MRR all@5")
    for name, one in figures.items():
        print(f"  {name:14}{_row(one.pooled)}  |  {_row(one.large)}")
    return figures


def _row(figures: dict[str, float]) -> str:
    if not figures:
        return ""
    values = [f"{figures[name] * 100:6.1f}" if name != "mrr" else f"{figures[name]:6.3f}"
              for name in SHOWN]  # fmt: skip
    return "".join(values)


def published_bars(figures: dict[str, Breakdown]) -> Iterator[dict[str, object]]:
    fitted, default = figures["fitted"], figures["default"]
    for metric, must in (("recall@1", 55), ("recall@5", 83), ("recall@10", 91), ("mrr", 78)):
        yield bar(f"fitted {metric}", must, fitted.pooled[metric] * 100)
    if fitted.large:
        yield bar("fitted, large repositories, recall@5", 75, fitted.large["recall@5"] * 100)
        yield bar("fitted, large repositories, all@5", 64, fitted.large["all@5"] * 100)
    for metric in ("recall@1", "recall@5", "recall@10"):
        behind = (fitted.pooled[metric] - default.pooled[metric]) * 100
        yield bar(f"default on repositories it never saw, points behind fitted, {metric}", 1.5,
                  behind, most=True)  # fmt: skip


def relative_bars(figures: dict[str, Breakdown]) -> Iterator[dict[str, object]]:
    gain = (figures["fitted"].pooled["recall@5"] - figures["bm25"].pooled["recall@5"]) * 100
    yield bar("fitted recall@5, points above BM25", 9, gain)


def bar(name: str, must: float, got: float, *, most: bool = False) -> dict[str, object]:
    holds = got <= must if most else got >= must
    sign = "<=" if most else ">="
    return {"name": name, "must": f"{sign} {must}", "got": round(got, 2), "holds": bool(holds)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repos", nargs="+", type=Path, metavar="REPO")
    parser.add_argument("--queries", type=Path, metavar="FILE", help="the published queries")
    parser.add_argument("--heldout", action="store_true", help="mine the tasks of any repositories")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep parsed files between runs")
    parser.add_argument("--quick", action="store_true", help="under a minute, fewer tasks")
    given = parser.parse_args(arguments)
    if given.heldout == (given.queries is not None):
        parser.error("give either --queries FILE or --heldout")
    default = default_model()
    with TemporaryDirectory() as temporary:
        cache = given.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        repositories = list(_repositories(given, cache))
    seen = {repository.name for repository in repositories} & set(default.card.trained_on)
    if seen and not given.heldout:
        raise SystemExit(f"The shipped model was trained on {', '.join(sorted(seen))}.")
    return compare(repositories, default, seen, given)


def _repositories(given: argparse.Namespace, cache: Path) -> Iterator[Repository]:
    if given.heldout:
        for path in given.repos:
            name, tasks = own_tasks(path, Config())
            yield replayed(path, name, cache, tasks, given.quick)
        return
    published = published_tasks(given.queries)
    for path in given.repos:
        name = named_after(path, list(published))
        yield replayed(path, name, cache, published[name], given.quick)


def compare(
    repositories: list[Repository],
    default: RelevanceModel,
    seen: set[str],
    given: argparse.Namespace,
) -> int:
    started = time.perf_counter()
    together, floor = fitted_together(repositories, default)
    print(f"  fitted together in {time.perf_counter() - started:.1f} s", flush=True)
    shared: dict[str, Scorer] = {
        "random": random_scores,
        "bm25": bm25,
        "linear": scorer(floor),
        "default": scorer(default),
        "together": scorer(together),
    }
    ranked: dict[str, list[RankedTask]] = {name: [] for name in (*shared, "fitted")}
    for repository in repositories:
        alone = scorer(fitted_alone(repository, default))
        for task in repository.holdout:
            for name, ask in {**shared, "fitted": alone}.items():
                ranked[name].append(rank(task, ask(task)))
    figures = table("Pooled", ranked)
    for repository in repositories:
        own = {
            name: [task for task in tasks if task.repository == repository.name]
            for name, tasks in ranked.items()
        }
        if repository.holdout:
            table(repository.name, own)
    fit = FitConfig()
    print("\nFitted against the others, points of recall@5 [95 % interval]")
    for name in ("bm25", "linear", "default", "together"):
        gain = difference(pair(ranked["fitted"], ranked[name]), "recall@5", fit=fit)
        print(
            f"  {name:10}{gain.value * 100:+6.1f} [{gain.low * 100:+.1f}, {gain.high * 100:+.1f}]"
        )
    bars = list(relative_bars(figures) if given.heldout else published_bars(figures))
    print(
        json.dumps(
            {
                "bench": "locate",
                "versions": {
                    **{name: version(name) for name in ("cognitive-twin", "lightgbm", "numpy")},
                    "python": sys.version.split()[0],
                    "default": hashlib.sha256(default.to_bytes()).hexdigest()[:12],
                },
                "figures": {
                    "mode": "heldout" if given.heldout else "published queries",
                    "quick": given.quick,
                    "default_trained_on_some": sorted(seen),
                    **{
                        name: {
                            "pooled": {m: round(one.pooled[m], 4) for m in SHOWN},
                            "large": {m: round(one.large[m], 4) for m in SHOWN if one.large},
                        }
                        for name, one in figures.items()
                    },
                    "num_tasks": figures["fitted"].num_tasks,
                },
                "bars": bars,
            }
        )
    )
    return 0 if all(one["holds"] for one in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
