"""The trained router: its bytes, its calibration, and that nothing asked of it can break it."""

import struct
import zlib
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.errors import StoreCorrupt, StoreTooNew
from twin.records import Question, RoutingExample
from twin.specialists import router_model
from twin.specialists.router import Router
from twin.specialists.router_features import COLUMNS, HEAD_CHARS, TAIL_CHARS, bounded, see
from twin.specialists.router_model import Learnt

World = Callable[..., list[RoutingExample]]


def test_the_trained_router_knows_where_the_small_model_fails(
    learnt: Learnt, make_world: World
) -> None:
    router = Router.load(learnt.to_bytes(), "router-7")
    told: dict[str, list[float]] = {}
    for example in make_world(200, seed=9):
        found = router.classify(example.question)
        assert found.version == "router-7"
        told.setdefault(example.group, []).append(found.confidence)
    means = {name: float(np.mean(values)) for name, values in told.items()}
    assert max(means["sum"], means["chemistry"]) < 0.5
    assert min(means["history"], means["letters"]) > 0.8


def test_a_larger_gain_is_expected_where_the_small_model_fails(
    learnt: Learnt, make_world: World
) -> None:
    router = Router.load(learnt.to_bytes())
    gains = {e.group: router.classify(e.question).gain for e in make_world(60, seed=4)}
    assert min(gains["sum"], gains["chemistry"]) > max(gains["history"], gains["letters"])


def test_what_is_loaded_says_the_same_as_what_was_dumped(learnt: Learnt, make_world: World) -> None:
    first = Router.load(learnt.to_bytes(), "router-1")
    second = Router.load(first.dump(), "router-1")
    assert first.dump() == second.dump()
    for example in make_world(20, seed=5):
        assert first.classify(example.question) == second.classify(example.question)


def test_the_rules_have_no_bytes() -> None:
    with pytest.raises(ValueError, match="no bytes"):
        Router.rules().dump()


def test_type_skill_and_project_still_come_from_the_rules(learnt: Learnt) -> None:
    asked = Question(text="Review this Python pull request in the billing repository")
    found, by_rules = Router.load(learnt.to_bytes()).classify(asked), Router.rules().classify(asked)
    assert (found.type, found.skill, found.project) == ("review", "python", "billing")
    assert found.complexity == by_rules.complexity


@given(st.data())
def test_a_damaged_file_is_refused_with_a_sentence(learnt: Learnt, data: st.DataObject) -> None:
    whole = learnt.to_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << bit
    with pytest.raises(StoreCorrupt, match="twin train router"):
        Router.load(bytes(damaged))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_torn_file_is_refused(learnt: Learnt, share: float) -> None:
    whole = learnt.to_bytes()
    with pytest.raises(StoreCorrupt):
        Router.load(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "foreign", [b"", b"PK\x03\x04", b"\x80\x04\x95pickle", b"twin-relevance\0"]
)
def test_a_foreign_file_is_refused(foreign: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="no router"):
        Router.load(foreign)


def test_a_later_format_asks_for_a_newer_program(learnt: Learnt) -> None:
    newer = msgspec.structs.replace(learnt, format=router_model.FORMAT + 1)
    with pytest.raises(StoreTooNew, match="newer version"):
        Router.load(newer.to_bytes())


def test_arrays_that_do_not_fit_are_found_when_loading(learnt: Learnt) -> None:
    trees = msgspec.structs.replace(
        learnt.trees[0], left=tuple(10**6 for _ in learnt.trees[0].left)
    )
    wrong = msgspec.structs.replace(learnt, trees=(trees, learnt.trees[1]))
    with pytest.raises(StoreCorrupt, match="forest"):
        Router.load(wrong.to_bytes())


def test_a_tree_that_reads_a_column_that_is_not_there_is_refused(learnt: Learnt) -> None:
    columns = tuple(len(COLUMNS) for _ in learnt.trees[0].feature)
    trees = msgspec.structs.replace(learnt.trees[0], feature=columns)
    wrong = msgspec.structs.replace(learnt, trees=(trees, learnt.trees[1]))
    with pytest.raises(StoreCorrupt, match="column"):
        Router.load(wrong.to_bytes())


def test_a_file_that_unpacks_without_end_is_refused() -> None:
    bomb = zlib.compress(b"\0" * 80_000_000)
    with pytest.raises(StoreCorrupt):
        Router.load(b"twin-router\0" + struct.pack("32x") + bomb)


@pytest.mark.slow
@given(st.text(max_size=200))
def test_any_text_gets_a_probability(learnt: Learnt, text: str) -> None:
    found = Router.load(learnt.to_bytes()).classify(Question(text=text))
    assert 0 < found.confidence < 1
    assert -1 <= found.gain <= 1


@pytest.mark.parametrize(
    "text",
    ["", "x" * 1_000_000, "\ud800" * 5_000, "\u202e\U0001d54f\u0000" * 300_000, "a\n" * 500_000],
)
def test_huge_and_hostile_texts_get_one_too(learnt: Learnt, text: str) -> None:
    found = Router.load(learnt.to_bytes()).classify(Question(text=text, max_tokens=-5))
    assert 0 < found.confidence < 1


def test_of_a_long_text_the_two_ends_are_read() -> None:
    text = "b" * 500_000 + "m" * 500_000 + "e" * 500_000
    read = bounded(text)
    assert len(read) == HEAD_CHARS + TAIL_CHARS + 1
    assert set(read) == {"b", "e", "\n"}


def test_what_was_cut_away_still_counts_as_length() -> None:
    short, long = Question(text="word " * 1_000), Question(text="word " * 100_000)
    assert see(long).row[COLUMNS.index("chars")] > see(short).row[COLUMNS.index("chars")]


def test_features_are_the_same_on_every_machine() -> None:
    seen = see(Question(text="Which of these is NOT a prime?\nA. 7\nB. 9\nC. 11\nD. 13\nAnswer:"))
    found = dict(zip(COLUMNS, seen.row, strict=True))
    assert found["options"] == 4
    assert found["option_all_numeric"] == 1
    assert found["negations_share"] == pytest.approx(1 / 12)
    assert found["starts_with_wh"] == 1
    assert seen.words[:3].tolist() == FIRST_WORDS
    assert seen.chars[:3].tolist() == FIRST_CHARS


FIRST_WORDS, FIRST_CHARS = [18289, 11412, 28744], [21536, 18611, 11901]
