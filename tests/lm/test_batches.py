"""Batches follow one another exactly, also after an interruption."""

import numpy as np
import pytest

from twin.lm.batches import Batches
from twin.lm.errors import BadCheckpoint, BadCorpus

TOKENS = np.arange(1000, dtype=np.uint16)


def test_each_stream_goes_on_where_the_batch_before_stopped() -> None:
    batches = Batches(TOKENS, seed=1)
    before, fresh = batches.next(4, 16)
    assert fresh.all()
    for _ in range(5):
        after, fresh = batches.next(4, 16)
        assert not fresh.any()
        assert (after[:, 0] == before[:, -1]).all()
        assert ((after[:, 1:] - after[:, :-1]) % 1000 == 1).all()
        before = after


@pytest.mark.parametrize("order", ["handoff", "windows"])
def test_an_epoch_sees_every_token_once_and_the_next_lies_otherwise(order: str) -> None:
    batches = Batches(TOKENS, order=order, seed=3)  # type: ignore[arg-type]
    epochs: list[list[int]] = [[], []]
    while (batches.epochs or 0) < 2:
        rows, _ = batches.next(5, 8)
        if batches.position()["epoch"] < 2:
            epochs[batches.position()["epoch"]].extend(rows[:, :-1].ravel().tolist())
        else:
            break
    for seen in epochs:
        assert len(seen) == len(set(seen))
        assert len(seen) >= 950
    assert epochs[0] != epochs[1]


def test_a_stream_may_run_over_the_end_of_the_text() -> None:
    batches = Batches(TOKENS, seed=5)
    rows = np.concatenate([batches.next(2, 100)[0] for _ in range(5)])
    assert rows.max() == 999
    assert rows.min() == 0


@pytest.mark.parametrize("order", ["handoff", "windows"])
def test_a_restored_position_gives_the_same_batches(order: str) -> None:
    first = Batches(TOKENS, order=order, seed=2, reset=0.3)  # type: ignore[arg-type]
    for _ in range(37):
        first.next(4, 16)
    second = Batches(TOKENS, order=order, seed=2, reset=0.3)  # type: ignore[arg-type]
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


def test_some_rows_start_without_a_past() -> None:
    batches = Batches(np.zeros(100_000, np.uint16), reset=0.25)
    shares = [batches.next(8, 16)[1].mean() for _ in range(300)]
    assert 0.2 < np.mean(shares[1:]) < 0.3


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
    whole = Batches(TOKENS, seed=4, reset=0.3)
    parts = [Batches(TOKENS, seed=4, reset=0.3, rank=rank, world=2) for rank in range(2)]
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
