"""Training pairs by their commits: written whole, read back as they were, in the order of time."""

from tests.curate.pairs.conftest import pair

from twin.records import Pair
from twin.store.database import Store

AWKWARD = "a\0b\x1a \u2028 ä"


def put(store: Store, *pairs: Pair, commit: str = "1", time: int = 1) -> None:
    store.pairs.replace(
        repository="a/b",
        commit_id=commit,
        parent_id="d" * 40,
        commit_time=time,
        made_from="x",
        pairs=[(one, b"sign") for one in pairs],
        left_out={"edit: no_text": 1},
    )


def one(text: str, time: int = 1, commit: str = "1", **how: object) -> Pair:
    return pair(text, commit_time=time, commit_id=commit, **how)


def read(store: Store, kind: str = "edit", **how: object) -> list[Pair]:
    listed = store.pairs.listed(kind, **how)  # type: ignore[arg-type]
    return list(store.pairs.read(found.pair_id for found in listed))


def test_pairs_come_back_as_they_were(store: Store) -> None:
    given = one(AWKWARD, completion=AWKWARD)
    put(store, given)
    assert read(store) == [given]
    assert store.pairs.made_from("a/b") == {"1": "x"}
    assert store.pairs.made_from("c/d") == {}
    assert list(store.pairs.left_out()) == [("a/b", {"edit: no_text": 1})]


def test_they_come_in_the_order_of_time_whenever_they_were_written(store: Store) -> None:
    put(store, one("late", 9, "9"), commit="9", time=9)
    put(store, one("early", 1), one("early too", 1), commit="1", time=1)
    assert [found.task for found in read(store)] == ["early", "early too", "late"]
    assert [found.task for found in read(store, before=9)] == ["early", "early too"]
    assert [found.task for found in read(store, after=9)] == ["late"]


def test_a_commit_s_pairs_are_replaced_together(store: Store) -> None:
    put(store, one("old"), one("old too"))
    put(store, one("other", commit="2"), commit="2")
    put(store, one("new"))
    assert [found.task for found in read(store)] == ["new", "other"]
    put(store)
    assert [found.task for found in read(store)] == ["other"]


def test_what_is_marked_is_counted_and_no_longer_listed(store: Store) -> None:
    put(store, one("a"), one("b"), one("c", validity="unvalidated"))
    ids = [found.pair_id for found in store.pairs.fingerprints()]
    store.pairs.mark({ids[0]: "duplicate"})
    assert [found.task for found in read(store)] == ["b", "c"]
    assert [found.task for found in read(store, only_valid=True)] == ["b"]
    counted = {(n.validity, n.dropped_by): n.num_pairs for n in store.pairs.counts()}
    assert counted == {("valid", None): 1, ("valid", "duplicate"): 1, ("unvalidated", None): 1}
    store.pairs.mark({ids[0]: None})
    store.pairs.mark({})
    assert len(read(store)) == 3


def test_preferences_are_listed_by_stage_and_pairs_by_length(store: Store) -> None:
    put(
        store,
        one("p", kind="preference", stage="plan", rejected="x", num_tokens=5),
        one("e", kind="preference", stage="edit", rejected="x", num_tokens=50),
    )
    assert [found.task for found in read(store, "preference", stage="plan")] == ["p"]
    assert [found.task for found in read(store, "preference", max_tokens=49)] == ["p"]
    assert len(read(store, "preference")) == 2


def test_dropped_curated_tables_forget_them(store: Store) -> None:
    put(store, one("a"))
    store.rebuild_curated()
    assert read(store) == []
    assert store.pairs.made_from("a/b") == {}


def test_trials_of_a_commit_come_in_the_order_in_which_they_began(store: Store) -> None:
    for campaign, number, step in (("b", 0, "plan"), ("a", 1, "plan"), ("b", 0, "execute")):
        store.trials.add(
            campaign=campaign, pack="a/b", commit_id="c", number=number, step=step,
            result={"at": step}, seconds=0.0,
        )  # fmt: skip
    found = store.trials.of_commit("a/b", "c")
    assert [(trial.campaign, trial.number, [*trial.results]) for trial in found] == [
        ("b", 0, ["plan", "execute"]),
        ("a", 1, ["plan"]),
    ]
    assert store.trials.of_commit("c/d", "c") == []
