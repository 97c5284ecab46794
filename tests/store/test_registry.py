"""The registry's books: legal moves, promotion, rollback, and what survives."""

from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from twin.errors import IllegalMove, UnknownVersion
from twin.records import Lineage, ModelVersion, VersionStatus
from twin.store.database import Store
from twin.store.registry import LEGAL_MOVES

STATUSES: tuple[VersionStatus, ...] = get_args(VersionStatus)
LINEAGE = Lineage(
    code_version="1a2b",
    dataset_hash="d" * 64,
    config={"rounds": 300, "nested": {"rate": 0.05}},
    seed=2**40,
    parent_version="relevance-0",
)


def add(store: Store, model: str = "relevance") -> ModelVersion:
    return store.registry.add(model=model, artifact="a" * 64, lineage=LINEAGE, metrics={"mrr": 0.7})


def served(store: Store, model: str = "relevance") -> str:
    """A new version, in service."""
    version = add(store, model)
    store.registry.move(version.version_id, "passed", "good")
    return store.registry.promote(version.version_id, "better").version_id


def brought_to(store: Store, status: VersionStatus) -> str:
    """A new version of another model, led to that status by legal moves."""
    ways: dict[VersionStatus, list[VersionStatus]] = {
        "candidate": [],
        "failed": ["failed"],
        "passed": ["passed"],
        "shadow": ["passed", "shadow"],
        "canary": ["passed", "shadow", "canary"],
        "live": ["passed", "live"],
        "retired": ["passed", "live", "retired"],
    }
    version = add(store, f"model-{status}")
    for step in ways[status]:
        store.registry.move(version.version_id, step, "on the way")
    return version.version_id


def test_a_new_version_is_a_candidate_and_comes_back_whole(store: Store) -> None:
    version = add(store)
    assert (version.version_id, version.status) == ("relevance-1", "candidate")
    assert store.registry.get("relevance-1") == version
    assert version.lineage == LINEAGE
    assert version.metrics == {"mrr": 0.7}


def test_versions_are_counted_per_model(store: Store) -> None:
    assert [add(store, m).version_id for m in ("a", "b", "a", "a-1")] == [
        "a-1",
        "b-1",
        "a-2",
        "a-1-1",
    ]
    assert [version.version_id for version in store.registry.versions("a")] == ["a-1", "a-2"]
    assert len(store.registry.versions()) == 4


def test_an_unknown_version_is_named(store: Store) -> None:
    for use in (
        lambda: store.registry.get("relevance-9"),
        lambda: store.registry.move("relevance-9", "passed", ""),
        lambda: store.registry.promote("relevance-9", ""),
    ):
        with pytest.raises(UnknownVersion, match=r"relevance-9.*twin models"):
            use()


def test_no_other_move_is_allowed_than_those_listed(store: Store) -> None:
    for status in STATUSES:
        refused = brought_to(store, status)
        for to in STATUSES:
            if to in LEGAL_MOVES[status]:
                moved = brought_to(store, status)
                assert store.registry.move(moved, to, "legal").status == to
            else:
                with pytest.raises(
                    IllegalMove, match=f"{refused} is {store.registry.get(refused).status}"
                ):
                    store.registry.move(refused, to, "illegal")


def test_promotion_retires_the_version_before(store: Store) -> None:
    first, second = served(store), served(store)
    live = store.registry.live("relevance")
    assert live is not None
    assert live.version_id == second
    assert store.registry.get(first).status == "retired"


def test_a_candidate_that_did_not_pass_cannot_be_promoted(store: Store) -> None:
    version = add(store)
    with pytest.raises(IllegalMove, match="candidate and cannot become live"):
        store.registry.promote(version.version_id, "please")


def test_rollback_goes_one_further_back_each_time(store: Store) -> None:
    first, second, third = served(store), served(store), served(store)
    assert store.registry.rollback("relevance", "slow").version_id == second
    assert store.registry.rollback("relevance", "slow").version_id == first
    with pytest.raises(IllegalMove, match="No version of relevance was in service before"):
        store.registry.rollback("relevance", "slow")
    assert store.registry.live("relevance") == store.registry.get(first)
    assert store.registry.get(third).status == "retired"


def test_rollback_never_returns_to_what_was_rolled_back(store: Store) -> None:
    first, _second = served(store), served(store)
    store.registry.rollback("relevance", "slow")
    third = served(store)
    assert store.registry.rollback("relevance", "slow").version_id == first
    assert store.registry.get(third).status == "retired"


def test_rollback_never_returns_to_what_was_taken_out_by_hand(store: Store) -> None:
    first, second = served(store), served(store)
    store.registry.move(second, "retired", "leaks paths")
    assert store.registry.live("relevance") is None
    served(store)
    assert store.registry.rollback("relevance", "slow").version_id == first


def test_rollback_with_nothing_in_service_puts_the_last_good_one_back(store: Store) -> None:
    first, second = served(store), served(store)
    store.registry.move(second, "retired", "leaks paths")
    assert store.registry.rollback("relevance", "needed").version_id == first


def test_rollback_of_a_model_that_never_served_is_refused(store: Store) -> None:
    with pytest.raises(IllegalMove, match="twin models"):
        store.registry.rollback("relevance", "why not")


def test_history_tells_every_move_with_its_reason(store: Store) -> None:
    first, second = served(store), served(store)
    store.registry.rollback("relevance", "slow")
    served(store, "other")
    told = [
        (m.version_id, m.before, m.after, m.reason) for m in store.registry.history("relevance")
    ]
    assert told == [
        (first, "candidate", "passed", "good"),
        (first, "passed", "live", "better"),
        (second, "candidate", "passed", "good"),
        (first, "live", "retired", f"{second}: better"),
        (second, "passed", "live", "better"),
        (second, "live", "retired", f"{first}: slow"),
        (first, "retired", "live", "slow"),
    ]
    moments = [move.at for move in store.registry.history("relevance")]
    assert moments == sorted(moments)


def test_the_database_itself_refuses_a_second_live_version(store: Store) -> None:
    served(store)
    other = add(store).version_id
    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        connection.execute(
            text("UPDATE curated_model_status SET status = 'live' WHERE version_id = :other"),
            {"other": other},
        )


def test_a_rebuild_brings_every_status_back(store: Store) -> None:
    for status in STATUSES:
        brought_to(store, status)
    served(store), served(store)
    store.registry.rollback("relevance", "slow")
    before = store.registry.versions()
    store.rebuild_curated()
    assert store.registry.versions() == before


class RegistryMachine(RuleBasedStateMachine):
    """The registry against a model of it that a reader can check by eye."""

    store: Store
    run = 0

    def __init__(self) -> None:
        super().__init__()
        RegistryMachine.run += 1
        self.model = f"model{RegistryMachine.run}"
        self.statuses: dict[str, VersionStatus] = {}
        self.served: list[str] = []

    @property
    def live(self) -> str | None:
        return next((v for v, status in self.statuses.items() if status == "live"), None)

    def put_live(self, version_id: str) -> None:
        if self.live:
            self.statuses[self.live] = "retired"
        self.statuses[version_id] = "live"

    @rule()
    def add(self) -> None:
        self.statuses[add(self.store, self.model).version_id] = "candidate"

    @rule(data=st.data(), to=st.sampled_from(STATUSES))
    def move(self, data: st.DataObject, to: VersionStatus) -> None:
        if not self.statuses:
            return
        version_id = data.draw(st.sampled_from(sorted(self.statuses)))
        before = self.statuses[version_id]
        if to not in LEGAL_MOVES[before]:
            with pytest.raises(IllegalMove):
                self.store.registry.move(version_id, to, "drawn")
            return
        self.store.registry.move(version_id, to, "drawn")
        if to == "live":
            self.put_live(version_id)
            self.served.append(version_id)
        else:
            self.statuses[version_id] = to
        if before == "live":
            self.served.remove(version_id)

    @rule()
    def rollback(self) -> None:
        rest = self.served[:-1] if self.live else list(self.served)
        if not rest:
            with pytest.raises(IllegalMove):
                self.store.registry.rollback(self.model, "drawn")
            return
        assert self.store.registry.rollback(self.model, "drawn").version_id == rest[-1]
        self.put_live(rest[-1])
        self.served = rest

    @rule()
    def serve_a_new_one(self) -> None:
        version_id = served(self.store, self.model)
        self.put_live(version_id)
        self.served.append(version_id)

    @rule()
    def rebuild(self) -> None:
        self.store.rebuild_curated()

    @invariant()
    def the_books_agree(self) -> None:
        found = {v.version_id: v.status for v in self.store.registry.versions(self.model)}
        assert found == self.statuses
        assert list(found.values()).count("live") <= 1
        live = self.store.registry.live(self.model)
        assert (live.version_id if live else None) == self.live


def test_any_series_of_moves_keeps_the_books_in_order(store: Store) -> None:
    class Machine(RegistryMachine):
        pass

    Machine.store = store
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine, settings=settings(max_examples=10, stateful_step_count=15, deadline=None)
    )
