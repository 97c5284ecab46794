"""Does alignment foretell the outcome? Damaged plans, carried out perfectly, against the tests.

    python bench/alignment.py PACK [PACK ...] [--newest N] [--quick]

For every valid commit of a pack: the commit's own plan, and plans that lost some of its targets
(one, half, all but one, all; files or symbols; drawn by a seed), each carried out with the commit's
own text (`coding.gold`) and graded by the commit's proof. The figure is the area under the ROC
curve of the alignment score against "the tests pass". Plans whose result is the same text as
another's of that commit are graded once. `files only` is the same with the share of files alone,
`shuffled` with the scores dealt out anew, which must say nothing. The last line is JSON.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import verdict

SEED = 0
QUICK_COMMITS = 6


def damaged(plan: Any, chance: random.Random) -> Iterator[tuple[str, Any]]:
    """What was done to the plan, and the plan."""
    from twin.coding.plan import Plan, without

    yield "whole", plan
    yield "empty", Plan()
    paths = [step.path for step in plan.steps]
    symbols = [(step.path, name) for step in plan.steps for name in step.symbols]
    for kind, targets in (("file", paths), ("symbol", symbols)):
        for name, lost in {
            f"one {kind} lost": 1,
            f"half of the {kind}s lost": len(targets) // 2,
            f"one {kind} left": len(targets) - 1,
        }.items():
            if 0 < lost < len(targets):
                gone: list[Any] = chance.sample(targets, lost)
                if kind == "file":
                    yield name, without(plan, paths=gone)
                else:
                    yield name, without(plan, symbols=gone)


def trials(pack: Path, work: Path, newest: int | None) -> Iterator[dict[str, Any]]:
    """One row for each plan: what was done to it, its alignment, whether the tests pass."""
    from twin.coding.alignment import alignment
    from twin.coding.changed import plan_of
    from twin.coding.gold import carried_out
    from twin.coding.sandbox.cell import open_sandbox
    from twin.coding.testing.trees import Tree
    from twin.cycle.harness import read_commit, sides_of, validate_pack
    from twin.observe.packs import open_pack
    from twin.observe.validate import Validator
    from twin.store.database import open_store

    with open_store(work) as store:
        found = validate_pack(pack, store, work / "environments", workers=2, newest=newest)
        proofs = [one for one in found.validations if one.is_valid]
    packed = open_pack(pack, work / "environments", check=False)
    chance = random.Random(SEED)
    with packed.repository() as repository:
        for proof in proofs:
            commit = read_commit(repository, proof.commit_id)
            validator = Validator(repository, open_sandbox(), packed.environment(proof.environment))
            sides = sides_of(repository, commit)
            truth = plan_of(sides)
            parent = Tree(repository.archive(proof.parent_id))
            outcomes: dict[tuple[tuple[str, bytes | None], ...], bool] = {}
            for what, plan in damaged(truth, chance):
                made = carried_out(plan, sides)
                key = tuple(sorted(made.items()))
                if key not in outcomes:
                    outcomes[key] = not validator.grade(commit, proof, parent.with_edits(made))
                fit = alignment(plan, truth)
                yield {
                    "commit": proof.commit_id,
                    "what": what,
                    "score": fit.score,
                    "files": fit.files,
                    "passes": outcomes[key],
                }


def auc(rows: list[dict[str, Any]], score: str) -> float | None:
    """The chance that a passing plan scores above a failing one; ties count half."""
    good = [row[score] for row in rows if row["passes"]]
    bad = [row[score] for row in rows if not row["passes"]]
    if not good or not bad:
        return None
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packs", nargs="+", type=Path, metavar="PACK")
    parser.add_argument("--newest", type=int)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_COMMITS} commits a pack")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for pack in given.packs:
            newest = QUICK_COMMITS if given.quick else given.newest
            rows += trials(pack, Path(folder), newest)
    kinds: dict[str, list[int]] = {}
    for row in rows:
        kinds.setdefault(row["what"], []).append(row["passes"])
    for what, passes in kinds.items():
        print(f"  {what:28} {len(passes):4} plans, {sum(passes):4} pass")
    scores = [row["score"] for row in rows]
    random.Random(SEED).shuffle(scores)
    shuffled = auc([row | {"score": s} for row, s in zip(rows, scores, strict=True)], "score")
    figures = {
        **verdict.machine(),
        "plans": len(rows),
        "commits": len({row["commit"] for row in rows}),
        "passing": sum(row["passes"] for row in rows),
        "by_damage": {w: {"plans": len(p), "pass": sum(p)} for w, p in kinds.items()},
        "auc_files_only": verdict.rounded(auc(rows, "files")),
        "auc_shuffled": verdict.rounded(shuffled),
    }
    bars = [verdict.at_least("AUC of alignment against outcome", 0.95, auc(rows, "score"))]
    return verdict.tell("alignment", verdict.versions("pytest"), figures, bars)


if __name__ == "__main__":
    sys.exit(main())
