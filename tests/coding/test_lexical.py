"""Lexical search gives BM25 of the documents it may see, and of no others."""

import bm25s
import numpy as np
import pytest

from twin.coding.lexical import K1, B, Bag, Floats, Postings, View, scaled, weighted_counts


def bags_of(rng: np.random.Generator, size: int, vocabulary: int) -> list[dict[int, int]]:
    """Random bags: some terms everywhere, most of them seldom, some documents empty."""
    shares = 1.0 / np.arange(1, vocabulary + 1)
    documents = []
    for _ in range(size):
        words = rng.choice(vocabulary, rng.integers(0, 60), p=shares / shares.sum())
        terms, counts = np.unique(words, return_counts=True)
        documents.append(dict(zip((terms * 7919 + 5).tolist(), counts.tolist(), strict=True)))
    return documents


def scores(bags: list[dict[int, int]], question: list[int], view: View) -> Floats:
    hits = Postings([Bag.of(bag) for bag in bags]).match(np.array(question, np.int64), view)
    return hits.scores(np.ones(len(question)))


def scores_of_bm25s(bags: list[dict[int, int]], question: list[int]) -> Floats:
    retriever = bm25s.BM25(method="lucene", k1=K1, b=B)
    words = [[str(term) for term, count in bag.items() for _ in range(count)] for bag in bags]
    retriever.index(words, show_progress=False)
    return np.asarray(retriever.get_scores([str(term) for term in question]), np.float64)


@pytest.mark.parametrize("seed", range(8))
def test_scores_agree_with_bm25s_but_for_its_constant_factor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bags = [bag for bag in bags_of(rng, 200, 80) if bag]
    question = [int(term) * 7919 + 5 for term in rng.choice(90, 8, replace=False)]
    ours = scores(bags, question, View.first(len(bags), len(bags)))
    # bm25s leaves out the (k1 + 1) of the numerator, which changes no order.
    np.testing.assert_allclose(ours, scores_of_bm25s(bags, question) * (K1 + 1), rtol=1e-4)
    assert ours.max() > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_view_of_some_documents_scores_as_an_index_of_these_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bags = bags_of(rng, 120, 60)
    chosen = rng.permutation(120)[:40]
    question = [int(term) * 7919 + 5 for term in range(10)]
    some = [bags[at] for at in chosen]
    np.testing.assert_array_equal(
        scores(bags, question, View(chosen, len(bags))),
        scores(some, question, View.first(len(some), len(some))),
    )


def test_documents_that_come_later_change_nothing_in_an_earlier_view() -> None:
    rng = np.random.default_rng(1)
    bags = bags_of(rng, 100, 50)
    question = np.array([5, 7924, 15843, 10**9], np.int64)
    whole = Postings([Bag.of(bag) for bag in bags])
    for moment in (0, 1, 37, 99):
        early = Postings([Bag.of(bag) for bag in bags[:moment]])
        then = early.match(question, View.first(moment, moment))
        now = whole.match(question, View.first(moment, 100))
        for one, other in ((then.impact, now.impact), (then.idf, now.idf)):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(then.document, now.document)
        np.testing.assert_array_equal(then.coverage(), now.coverage())
        np.testing.assert_array_equal(
            early.frequency_before(question, moment), whole.frequency_before(question, moment)
        )


def test_positions_follow_the_order_in_which_a_view_names_its_documents() -> None:
    bags = [{1: 1}, {2: 1}, {3: 5}]
    assert scores(bags, [3], View(np.array([2, 0]), 3)).argmax() == 0
    assert scores(bags, [3], View(np.array([0, 2]), 3)).argmax() == 1


def test_a_view_takes_the_mean_length_of_each_index_that_it_is_used_with() -> None:
    view = View.first(2, 2)
    for length in range(1, 50):
        lengths = Postings([Bag.of({1: 1, 2: length}), Bag.of({3: 1})]).lengths
        assert view.mean_length(lengths) == (length + 2) / 2
        del lengths  # the next one may be put where this one was


def test_an_empty_question_and_unknown_terms_score_nothing() -> None:
    bags = [{1: 1}, {2: 3}]
    for question in ([], [9], [9, 2**32 - 1, 0]):
        assert scores(bags, question, View.first(2, 2)).tolist() == [0.0, 0.0]
    hits = Postings([Bag.of(bag) for bag in bags]).match(np.array([9, 1]), View.first(2, 2))
    assert hits.idf[0] == 0 < hits.idf[1]
    assert hits.coverage().tolist() == [1.0, 0.0]


def test_an_empty_view_and_an_empty_index_answer_with_nothing() -> None:
    assert scores([{1: 1}], [1], View.first(0, 1)).size == 0
    assert scores([], [1], View.first(0, 0)).size == 0
    assert scores([], [], View.first(0, 0)).size == 0
    assert scores([{}, {}], [1], View.first(2, 2)).tolist() == [0.0, 0.0]


def test_a_bag_is_sorted_and_its_counts_end_at_the_widest() -> None:
    bag = Bag.of({2**32 - 1: 1, 7: 10**9, 3: 2})
    assert bag.terms.tolist() == [3, 7, 2**32 - 1]
    assert bag.counts.tolist() == [2, 65_535, 1]
    assert Bag.of({}).terms.size == 0


def test_scaled_scores_end_at_one_and_zeros_stay_zeros() -> None:
    assert scaled(np.array([1.0, 4.0, 0.0])).tolist() == [0.25, 1.0, 0.0]
    assert scaled(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert scaled(np.empty(0)).size == 0


def test_weights_are_summed_per_place() -> None:
    summed = weighted_counts(np.array([2, 0, 2]), np.array([1.0, 5.0, 0.5]), 4)
    assert summed.tolist() == [5.0, 0.0, 1.5, 0.0]
    assert weighted_counts(np.empty(0, np.int64), np.empty(0), 2).tolist() == [0.0, 0.0]
