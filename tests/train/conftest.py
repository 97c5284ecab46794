"""Replayed tasks without a repository: rows of the real columns, filled with chance."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from twin.coding.corpus import Corpus, Scene
from twin.coding.digest import Digest
from twin.coding.features import Moment, Question, features
from twin.coding.replay import Replayed
from twin.coding.timeline import Timeline
from twin.records import Task

Replay = Callable[..., list[Replayed]]


def _columns() -> tuple[str, ...]:
    scene = Scene(Corpus({"0": Digest(language="python")}), {"a.py": "0"})
    names, _ = features(Question("a"), scene, Timeline([]), Moment(position=0, time=0))
    return names


@pytest.fixture(scope="session")
def replayed() -> Replay:
    """Makes tasks whose rows are noise; `informative` columns are high for the one target."""
    names = _columns()

    def make(
        num_tasks: int,
        *,
        num_files: int = 30,
        informative: Sequence[str] = (),
        seed: int = 0,
        start: int = 0,
        num_targets: int = 1,
        num_tests: int = 0,
    ) -> list[Replayed]:
        rng = np.random.default_rng([seed, start])
        made = []
        for number in range(start, start + num_tasks):
            values = rng.random((num_files + num_tests, len(names))).astype(np.float32)
            values[:, names.index("is_source")] = np.arange(num_files + num_tests) < num_files
            targets = rng.choice(num_files, num_targets, replace=False)
            for name in informative:
                values[targets, names.index(name)] += 1.0
            paths = tuple(f"f{n:04}.py" for n in range(num_files + num_tests))
            task = Task(
                repository="owner/name",
                commit_id=f"{number:040x}",
                parent_id="",
                time=1_700_000_000 + 60 * number,
                query="q",
                targets=tuple(sorted(paths[at] for at in targets)),
            )
            made.append(
                Replayed(
                    task=task,
                    names=names,
                    paths=paths,
                    values=values,
                    is_target=np.isin(np.arange(len(paths)), targets),
                    num_source_files=num_files,
                )
            )
        return made

    return make


@pytest.fixture(scope="session")
def with_other_targets() -> Callable[[list[Replayed], int], list[Replayed]]:
    """The same rows with their targets drawn anew: nothing is left to be learnt."""

    def shuffle(tasks: list[Replayed], seed: int) -> list[Replayed]:
        rng = np.random.default_rng(seed)
        return [replace(task, is_target=rng.permutation(task.is_target)) for task in tasks]

    return shuffle
