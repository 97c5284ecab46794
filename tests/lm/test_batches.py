"""Batches follow one another exactly, also after an interruption."""

from typing import Any

import numpy as np
import pytest

from twin.lm.batches import Batches
from twin.lm.errors import BadCheckpoint, BadCorpus

TOKENS = np.arange(1000, dtype=np.uint16)
LONG = np.arange(60_000, dtype=np.uint16)


@pytest.mark.parametrize("span", [0, 2, 5])
def test_each_stream_goes_on_where_the_batch_before_stopped_until_it_jumps(span: int) -> None:
    batches = Batches(LONG, seed=1, span=span)
    before, fresh = batches.next(4, 16)
    assert fresh.all()
    jumps = 0
    for _ in range(100):
        after, fresh = batches.next(4, 16)
        assert (after[~fresh, 0] == before[~fresh, -1]).all()
        assert (np.diff(after) % len(LONG) == 1).all()
        jumps += fresh.sum()
        before = after
    assert jumps == pytest.approx(400 / span if span else 0, abs=4)


def test_streams_jump_at_different_times() -> None:
    batches = Batches(LONG, span=4)
    batches.next(4, 16)
    assert [batches.next(4, 16)[1].sum() for _ in range(30)] == [1] * 30


@pytest.mark.parametrize("span", [0, 1, 2, 8])
def test_an_epoch_sees_every_token_once_and_the_next_lies_otherwise(span: int) -> None:
    batches = Batches(TOKENS, seed=3, span=span)
    epochs: dict[int, list[int]] = {0: [], 1: [], 2: []}
    while len(epochs[2]) == 0:
        rows, _ = batches.next(5, 8)
        epochs[batches.position()["epoch"]].extend(rows[:, :-1].ravel().tolist())
    for seen in (epochs[0], epochs[1]):
        assert len(seen) == len(set(seen))
        assert len(seen) >= 850
    assert epochs[0] != epochs[1]
    assert batches.epochs == pytest.approx(2, abs=0.2)


def test_a_stream_that_never_jumps_may_run_over_the_end_of_the_text() -> None:
    batches = Batches(TOKENS, seed=5, span=0)
    rows = np.concatenate([batches.next(2, 100)[0] for _ in range(5)])
    assert rows.max() == 999
    assert rows.min() == 0


@pytest.mark.parametrize("options", [{"order": "windows"}, {"span": 0}, {"span": 3}])
def test_a_restored_position_gives_the_same_batches(options: dict[str, Any]) -> None:
    for steps in (0, 1, 37):
        first, second = (Batches(TOKENS, seed=2, **options) for _ in range(2))
        for _ in range(steps):
            first.next(4, 16)
        second.restore(first.position())
        for _ in range(80):
            ours, theirs = first.next(4, 16), second.next(4, 16)
            assert (ours[0] == theirs[0]).all()
            assert (ours[1] == theirs[1]).all()


def test_a_position_of_another_text_or_seed_is_refused() -> None:
    position = Batches(TOKENS, seed=2).position()
    for other in (Batches(TOKENS[:-1], seed=2), Batches(TOKENS, seed=3)):
        with pytest.raises(BadCheckpoint, match="was started with"):
            other.restore(position)


def test_every_window_is_without_a_past_where_windows_are_drawn() -> None:
    batches = Batches(TOKENS, order="windows")
    assert all(batches.next(4, 16)[1].all() for _ in range(10))


def test_another_shape_starts_a_new_epoch() -> None:
    batches = Batches(TOKENS)
    batches.next(8, 8)
    rows, fresh = batches.next(4, 16)
    assert rows.shape == (4, 17)
    assert fresh.all()
    assert batches.position()["epoch"] == 1


def test_ranks_share_a_batch_between_them() -> None:
    whole = Batches(TOKENS, seed=4)
    parts = [Batches(TOKENS, seed=4, rank=rank, world=2) for rank in range(2)]
    for _ in range(20):
        rows, fresh = whole.next(4, 16)
        found = [part.next(4, 16) for part in parts]
        for rank in range(2):
            assert (found[rank][0] == rows[rank::2]).all()
            assert (found[rank][1] == fresh[rank::2]).all()


@pytest.mark.parametrize(("batch", "window"), [(16, 256), (1, 1000), (64, 64), (1000, 1)])
def test_a_text_shorter_than_a_batch_is_refused_with_a_shape_that_fits(
    batch: int, window: int
) -> None:
    batches = Batches(TOKENS)
    with pytest.raises(BadCorpus, match="1,000 tokens") as refused:
        batches.next(batch, window)
    words = str(refused.value).replace("`", " ").split()
    cure = [int(words[words.index(o) + 1].rstrip(".")) for o in ("--batch", "--window")]
    assert Batches(TOKENS).next(*cure)[0].shape == (cure[0], cure[1] + 1)


def test_another_window_begins_no_epoch() -> None:
    batches = Batches(LONG)
    for window in (16, 32, 64):
        for _ in range(5):
            batches.next(4, window)
    assert batches.epochs == pytest.approx(5 * 4 * (16 + 32 + 64) / len(LONG))
    again = Batches(LONG)
    again.restore(batches.position())
    assert again.epochs == batches.epochs
