"""The log of answers."""

from twin.records import RankedFile, RetrievalDecision
from twin.store.database import Store


def decision(query: str, *paths: str) -> RetrievalDecision:
    return RetrievalDecision(
        repository="a/b",
        commit_id="c" * 40,
        query=query,
        version="relevance-1",
        ranked=tuple(RankedFile(path=path, score=1.5, reason="named") for path in paths),
        seconds=0.02,
        task_id="task-1",
        at=12.5,
    )


def test_decisions_come_back_newest_first_with_their_files_in_rank_order(store: Store) -> None:
    first = decision("make the delay configurable", "z.py", "a.py", "m.py")
    second, third = decision("nothing found"), decision("one", "only.py")
    for one in (first, second, third):
        store.decisions.add(one)
    assert store.decisions.recent(10) == [third, second, first]
    assert store.decisions.recent(1) == [third]


def test_a_decision_without_a_time_gets_one(store: Store) -> None:
    untimed = RetrievalDecision(
        repository="a/b", commit_id="c", query="q", version="v", ranked=(), seconds=0.1
    )
    store.decisions.add(untimed)
    assert store.decisions.recent()[0].at > 1_600_000_000


def test_no_decision_yet_is_an_empty_list(store: Store) -> None:
    assert store.decisions.recent() == []
