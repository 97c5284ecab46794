"""Past tasks are asked again as they were, in their order, however the history is cut up."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.replay import Replayed, replay
from twin.coding.timeline import Timeline
from twin.config import MineConfig
from twin.curate.tasks import localisation_tasks
from twin.observe.mine import mine
from twin.records import Commit, Task

World = Any  # the class stands in conftest, which tests cannot import
Cache = Any

LOCK = "class Lock:\n    def take(self): ...\n"
RETRY = "DELAY = {n}\n\ndef wait(): ...\n"


class Asked:
    """A repository with some commits, and the tasks that they make."""

    def __init__(self, world: World) -> None:
        self.repository = GitRepository.open(world.root)
        self.commits = list(read_history(self.repository))
        mined = list(mine(self.commits, MineConfig(min_words=1)))
        self.tasks = localisation_tasks(mined, "owner/name", self.repository.tree)
        assert self.tasks

    def again(self, cache: Cache, **options: Any) -> Iterator[Replayed]:
        given = {"tasks": self.tasks, "commits": self.commits} | options
        tasks: list[Task] = given.pop("tasks")
        commits: list[Commit] = given.pop("commits")
        return replay(
            self.repository, self.repository.tree, cache, Timeline(commits), tasks, **given
        )


@pytest.fixture
def asked(world: World) -> Iterator[Asked]:
    """Twelve commits on locks and retries, a README among them."""
    first = {"pkg/lock.py": LOCK, "pkg/retry.py": RETRY.format(n=0), "README.md": "words\n"}
    steps = []
    for n in range(1, 12):
        if n % 3:
            steps.append((f"Set the retry delay to {n}", {"pkg/retry.py": RETRY.format(n=n)}))
        else:
            text = LOCK + f"\ndef take_{n}(): ...\n"
            steps.append((f"Let the lock be taken {n} times", {"pkg/lock.py": text}))
    world.grow(("Start with locks", first), *steps)
    made = Asked(world)
    yield made
    made.repository.close()


def same(one: Replayed, other: Replayed) -> bool:
    assert_array_equal(one.values, other.values)
    assert_array_equal(one.is_target, other.is_target)
    return (one.task, one.paths, one.names) == (other.task, other.paths, other.names)


def test_every_task_comes_back_in_order_with_a_row_for_each_candidate(
    asked: Asked, cache: Cache
) -> None:
    replayed = list(asked.again(cache))
    assert [row.task for row in replayed] == asked.tasks
    assert len(replayed) == 11
    for row in replayed:
        assert row.paths == ("pkg/lock.py", "pkg/retry.py")  # code alone, sorted
        assert row.values.shape == (2, len(row.names))
        targets = [path for path, hit in zip(row.paths, row.is_target, strict=True) if hit]
        assert tuple(targets) == row.task.targets
        assert row.num_source_files == 2


def test_tasks_given_in_another_order_come_back_in_that_order(asked: Asked, cache: Cache) -> None:
    usual = {row.task.commit_id: row for row in asked.again(cache)}
    turned = list(asked.again(cache, tasks=asked.tasks[::-1]))
    assert [row.task for row in turned] == asked.tasks[::-1]
    assert all(same(row, usual[row.task.commit_id]) for row in turned)


@pytest.mark.parametrize("max_blobs", [1, 2, 3, 5])
def test_a_history_replayed_in_parts_gives_the_rows_of_one_part(
    asked: Asked, cache: Cache, max_blobs: int
) -> None:
    parts = []

    def tell(what: str, done: int, total: int) -> None:
        if what == "reading files" and done == 1:
            parts.append(total)

    cut = list(asked.again(cache, max_blobs=max_blobs, progress=tell))
    whole = list(asked.again(cache))
    assert len(parts) > 2
    assert max(parts) <= max(max_blobs, 2)  # one task's two files are never divided
    assert len(cut) == len(whole) == 11
    assert all(map(same, cut, whole))


def test_the_rows_of_a_task_do_not_depend_on_the_tasks_beside_it(
    asked: Asked, cache: Cache
) -> None:
    together = list(asked.again(cache))
    for place, row in enumerate(together):
        (alone,) = asked.again(cache, tasks=[asked.tasks[place]])
        assert same(row, alone)


def test_a_history_that_goes_on_changes_no_row_of_a_task_behind(
    asked: Asked, cache: Cache, world: World
) -> None:
    before = list(asked.again(cache))
    world.grow(
        ("Rewrite the lock", {"pkg/retry.py -> pkg/again.py": RETRY, "pkg/lock.py": "x = 1\n"}),
        ("Set the retry delay to 3", {"pkg/again.py": "y\n"}),
    )
    after = list(Asked(world).again(cache, tasks=asked.tasks))
    assert len(before) == len(after) == 11
    assert all(map(same, before, after))


def test_the_rows_of_a_task_never_hold_what_its_own_commit_wrote(
    new_world: Callable[[str], World], cache: Cache
) -> None:
    def last_row(name: str, message: str, text: str) -> Replayed:
        world = new_world(name)
        start = {"pkg/lock.py": LOCK, "pkg/retry.py": RETRY.format(n=0)}
        world.grow(("Start", start), ("Wait longer", {"pkg/retry.py": RETRY.format(n=1)}))
        (own,) = world.grow((message, {"pkg/lock.py": text}))
        asked = Asked(world)
        task = next(task for task in asked.tasks if task.commit_id == own)
        assert task.targets == ("pkg/lock.py",)
        query = "Take the lock twice before waiting"
        told = Task(
            repository="owner/name",
            commit_id=own,
            parent_id=task.parent_id,
            time=task.time,
            query=query,
            targets=task.targets,
        )
        (row,) = asked.again(cache, tasks=[told])
        return row

    one = last_row("one", "Take the lock twice before waiting", LOCK + "# twice\n" * 9)
    other = last_row("other", "Something quite different here", "y = 1\n")
    assert_array_equal(one.values, other.values)


def test_a_task_whose_target_is_no_candidate_is_left_out(asked: Asked, cache: Cache) -> None:
    row = next(asked.again(cache))
    for targets in (("README.md",), ("gone.py",), (*row.task.targets, "gone.py")):
        odd = Task(
            repository="owner/name",
            commit_id=row.task.commit_id,
            parent_id=row.task.parent_id,
            time=row.task.time,
            query="Take locks",
            targets=targets,
        )
        found = list(asked.again(cache, tasks=[asked.tasks[0], odd, asked.tasks[1]]))
        assert [one.task for one in found] == asked.tasks[:2]


def test_a_task_of_a_commit_that_the_past_does_not_hold_is_left_out(
    asked: Asked, cache: Cache
) -> None:
    found = list(asked.again(cache, commits=asked.commits[:5]))
    assert [row.task for row in found] == asked.tasks[:4]


def test_candidates_can_be_chosen_by_the_caller(asked: Asked, cache: Cache) -> None:
    found = list(asked.again(cache, candidate=lambda path: path == "pkg/lock.py"))
    assert [row.paths for row in found] == [("pkg/lock.py",)] * 3
    assert all(row.is_target.all() for row in found)


def test_progress_is_told_of_every_task_even_of_one_left_out(asked: Asked, cache: Cache) -> None:
    told = []
    options = {"progress": lambda *step: told.append(step), "commits": asked.commits[:5]}
    list(asked.again(cache, **options))
    assert [step for step in told if step[0] == "replaying tasks"] == [
        ("replaying tasks", n, 11) for n in range(1, 12)
    ]


def test_no_tasks_are_no_rows(asked: Asked, cache: Cache) -> None:
    assert list(asked.again(cache, tasks=[])) == []
    assert cache.num_writes == 0
