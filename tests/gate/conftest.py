"""Small worlds for the gate: tasks with given ranks, one per day."""

from collections.abc import Callable, Sequence

import pytest

from twin.records import RankedTask

DAY = 86_400
Ranked = Callable[..., list[RankedTask]]


@pytest.fixture
def ranked() -> Ranked:
    """Makes one task per entry; an entry is one rank or all ranks of the task's targets."""

    def make(
        ranks: Sequence[int | tuple[int, ...]],
        *,
        repository: str = "owner/name",
        num_candidates: int = 60,
        tasks_per_day: int = 1,
    ) -> list[RankedTask]:
        return [
            RankedTask(
                repository=repository,
                commit_id=f"{repository}-{number}",
                time=1_700_000_000 + (number // tasks_per_day) * DAY,
                num_candidates=num_candidates,
                num_source_files=num_candidates,
                target_ranks=(entry,) if isinstance(entry, int) else tuple(sorted(entry)),
            )
            for number, entry in enumerate(ranks)
        ]

    return make
