"""Makes the relevance model that ships in the package, from clones of public repositories.

    python recipes/shipped_default.py --work DIR --out FILE CLONE...

Each clone is mined, replayed and kept under DIR as one file of rows, so that a second run goes on
where the first stopped. The newest `--tasks` tasks of each repository are used, whole repositories
at a time: none of them may be one that the published figures are measured on.
"""

import argparse
import hashlib
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.replay import Replayed, replay
from twin.coding.timeline import Timeline
from twin.config import MineConfig
from twin.curate.tasks import localisation_tasks
from twin.observe.mine import mine
from twin.specialists.relevance import Card, RelevanceModel
from twin.store.database import open_store
from twin.train.recipes import weights_of
from twin.train.relevance import Rows, fit_trees


def replayed(clone: Path, work: Path, num_tasks: int) -> list[Replayed]:
    """The replayed tasks of one clone, from DIR where they were made before."""
    bare = (clone / "objects").is_dir()
    with GitRepository.bare(clone) if bare else GitRepository.open(clone) as repository:
        name = repository.name
        kept = work / f"{name.replace('/', '+')}.pickle"
        if kept.exists():
            return pickle.loads(kept.read_bytes())  # written by this program alone
        started = time.perf_counter()
        commits = list(read_history(repository))
        mined = list(mine(commits, MineConfig()))
        tasks = localisation_tasks(mined, name, repository.tree)[-num_tasks:]
        (work / "store").mkdir(exist_ok=True)
        with open_store(work / "store") as store:
            rows = list(replay(repository, repository.tree, store.blobs, Timeline(commits), tasks))
        kept.write_bytes(pickle.dumps(rows, protocol=5))
        print(f"{name}: {len(rows)} tasks in {time.perf_counter() - started:.0f} s", flush=True)
        return rows


def card_text(model: RelevanceModel, num_rows: int) -> str:
    """The model card that lies beside the model."""
    data = model.to_bytes()
    repositories = "\n".join(f"- {name}" for name in model.card.trained_on)
    return f"""# The relevance model in the package

Ranks the files of a repository for a task. Written by `recipes/shipped_default.py`.

| | |
| --- | --- |
| kind | {model.card.notes} |
| trained on | the newest tasks of each repository below: {model.card.num_tasks}, {num_rows} rows |
| task | a commit message, cleaned of numbers, links, paths and file names |
| answer | the source files that the commit changed and that existed before it |
| features | version {model.features_version}, {len(model.features)} columns |
| bytes | {len(data)}, sha256 {hashlib.sha256(data).hexdigest()} |

It holds thresholds on feature values and nothing else of these repositories: no code, no names, no
messages. Figures on repositories that it never saw are in `bench/RESULTS.md`. Commit messages are
written after the change; tasks put by people beforehand are harder.

{repositories}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clones", nargs="+", type=Path, metavar="CLONE")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tasks", type=int, default=500, help="newest tasks of each repository")
    parser.add_argument("--rounds", type=int, default=320, help="trees to grow")
    parser.add_argument("--learning-rate", type=float, default=0.06)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    tasks: list[Replayed] = []
    weights: list[float] = []
    for clone in given.clones:
        own = replayed(clone, given.work, given.tasks)
        tasks += own
        weights += weights_of(own)
    rows = Rows.of(tasks, given.seed, weights)
    card = Card(
        trained_on=tuple(sorted({task.task.repository for task in tasks})),
        num_tasks=len(tasks),
        notes=f"LambdaMART, {given.rounds} trees, seed {given.seed}.",
    )
    model = fit_trees(
        rows, card, rounds=given.rounds, learning_rate=given.learning_rate, seed=given.seed
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(model.to_bytes())
    given.out.with_suffix(".md").write_text(card_text(model, len(rows.is_target)))
    print(f"{given.out}: {len(tasks)} tasks, {len(rows.is_target)} rows")


if __name__ == "__main__":
    main()
