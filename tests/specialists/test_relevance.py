"""A relevance model is its bytes, scores rows by name, and says what each column gave."""

import subprocess
import sys
import zlib
from contextlib import suppress
from dataclasses import dataclass

import lightgbm
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.corpus import Corpus, Scene
from twin.coding.digest import digest_of
from twin.coding.features import FEATURES_VERSION, Moment, Question, features
from twin.coding.timeline import Timeline
from twin.errors import StoreCorrupt, StoreTooNew
from twin.specialists.relevance import (
    FORMAT,
    Card,
    Linear,
    Matrix,
    RelevanceModel,
    default_model,
)

CARD = Card(trained_on=("owner/name",), num_tasks=3, notes="for a test")
NAMES = ("text", "path", "is_source")
LINEAR = RelevanceModel(
    kind="linear",
    features=NAMES,
    features_version=FEATURES_VERSION,
    card=CARD,
    linear=Linear(weights={"text": 2.0, "path": 0.5, "is_source": -1.0}),
)
MAGIC = b"twin-relevance\0"


def values(num_rows: int = 50, num_columns: int = 3) -> Matrix:
    rng = np.random.default_rng(0)
    return rng.random((num_rows, num_columns)).astype(np.float32)


def trees() -> RelevanceModel:
    rows = values(400)
    data = lightgbm.Dataset(rows, rows[:, 0] > 0.7, params={"verbose": -1})
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 5)
    return RelevanceModel(
        kind="trees",
        features=NAMES,
        features_version=FEATURES_VERSION,
        card=CARD,
        trees=booster.model_to_string(),
    )


def packed(**changes: object) -> bytes:
    """The bytes of a model some of whose fields say something else."""
    fields = msgspec.msgpack.decode(zlib.decompress(LINEAR.to_bytes()[len(MAGIC) :]))
    return MAGIC + zlib.compress(msgspec.msgpack.encode({**fields, **changes}))


@dataclass(frozen=True)
class Rows:
    names: tuple[str, ...]
    values: Matrix


def real_rows() -> Rows:
    """The rows of a real task on three files."""
    files = {"a.py": "def lock(): ...\n", "b.py": "x = 1\n", "test_a.py": "import a\n"}
    corpus = Corpus({text: digest_of(text.encode(), "python") for text in files.values()})
    moment = Moment(position=0, time=0)
    return Rows(*features(Question("Take the lock"), Scene(corpus, files), Timeline([]), moment))


@pytest.mark.parametrize(
    "model", [LINEAR, trees(), default_model()], ids=["linear", "trees", "default"]
)
def test_a_model_that_went_through_its_bytes_is_the_same_model(model: RelevanceModel) -> None:
    again = RelevanceModel.from_bytes(model.to_bytes())
    assert again == model
    assert again.to_bytes() == model.to_bytes()
    rows = real_rows()
    np.testing.assert_array_equal(
        again.scores(rows.names, rows.values), model.scores(rows.names, rows.values)
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"twin",
        MAGIC,
        MAGIC + b"not compressed",
        MAGIC + zlib.compress(b""),
        MAGIC + zlib.compress(b"\xc1"),
        MAGIC + zlib.compress(msgspec.msgpack.encode([1, 2])),
        MAGIC + zlib.compress(msgspec.msgpack.encode({"kind": "linear"})),
        packed(kind="oracle"),
        packed(features="text"),
        packed(format="new"),
        b"\x93NUMPY" + LINEAR.to_bytes(),
    ],
)
def test_bytes_that_are_no_model_are_told_from_one(data: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="twin improve"):
        RelevanceModel.from_bytes(data)


@given(st.data())
def test_a_model_with_any_byte_changed_or_cut_off_is_refused(data: st.DataObject) -> None:
    whole = LINEAR.to_bytes()
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), whole[:at]):
        with suppress(StoreCorrupt):
            assert RelevanceModel.from_bytes(damaged) == LINEAR  # a bit that says nothing


@pytest.mark.parametrize("changes", [{}, {"kind": "network", "layers": [1, 2]}, {"card": None}])
def test_a_model_of_a_later_format_asks_for_a_newer_program(changes: dict[str, object]) -> None:
    with pytest.raises(StoreTooNew, match=f"format {FORMAT + 1}.*newer version"):
        RelevanceModel.from_bytes(packed(format=FORMAT + 1, **changes))


def test_fields_that_are_not_known_yet_are_no_matter_within_a_format() -> None:
    assert RelevanceModel.from_bytes(packed(colour="blue")) == LINEAR


def test_a_linear_score_is_the_weighted_sum() -> None:
    rows = np.array([[1, 2, 3], [0, 0, 0]], np.float32)
    assert LINEAR.scores(NAMES, rows).tolist() == [0.0, 0.0]
    assert LINEAR.contributions(NAMES, rows)[0] == {"text": 2.0, "path": 1.0, "is_source": -3.0}


@pytest.mark.parametrize("model", [LINEAR, trees()], ids=["linear", "trees"])
def test_columns_are_found_by_name_wherever_they_stand(model: RelevanceModel) -> None:
    rows = values()
    shuffled = np.stack([rows[:, 2], rows[:, 0] * 0 + 9, rows[:, 0], rows[:, 1]], axis=1)
    names = ("is_source", "another", "text", "path")
    np.testing.assert_array_equal(model.scores(names, shuffled), model.scores(NAMES, rows))
    assert model.contributions(names, shuffled) == model.contributions(NAMES, rows)


@pytest.mark.parametrize("model", [LINEAR, trees()], ids=["linear", "trees"])
def test_a_missing_column_is_named(model: RelevanceModel) -> None:
    with pytest.raises(ValueError, match="lack path, is_source"):
        model.scores(("text", "other"), values(num_columns=2))
    with pytest.raises(ValueError, match="lack text"):
        model.contributions(("path", "is_source"), values(num_columns=2))


def test_contributions_sum_to_the_score_but_for_the_base_value() -> None:
    for model in (LINEAR, trees()):
        rows = values()
        sums = np.array([sum(parts.values()) for parts in model.contributions(NAMES, rows)])
        scores = model.scores(NAMES, rows)
        base = scores - sums
        if model.kind == "trees":  # `binary` scores are probabilities; the parts are log odds
            base = np.log(scores / (1 - scores)) - sums
        np.testing.assert_allclose(base, base[0], atol=1e-6)
        assert model.kind == "trees" or abs(base[0]) < 1e-6


def test_a_small_task_and_a_linear_model_have_every_row_on_the_shortlist() -> None:
    rows = values(30)
    assert LINEAR.shortlist(NAMES, rows, 5).tolist() == list(range(30))
    assert trees().shortlist(NAMES, rows, 30).tolist() == list(range(30))
    assert trees().shortlist(NAMES, rows[:0], 5).tolist() == []


def test_a_shortlist_holds_so_many_rows_in_their_order_and_the_best_among_them() -> None:
    model, rows = trees(), values(900)
    listed = model.shortlist(NAMES, rows, 200)
    assert len(listed) == 200
    assert listed.tolist() == sorted(set(listed.tolist()))
    assert np.isin(np.argsort(-model.scores(NAMES, rows), kind="stable")[:10], listed).all()
    reversed_names = NAMES[::-1]
    assert model.shortlist(reversed_names, rows[:, ::-1], 200).tolist() == listed.tolist()


def test_a_model_fits_rows_of_its_version_that_have_its_columns() -> None:
    assert LINEAR.fits(FEATURES_VERSION, ("more", *NAMES))
    assert not LINEAR.fits(FEATURES_VERSION + 1, NAMES)
    assert not LINEAR.fits(FEATURES_VERSION, NAMES[:2])


def test_the_shipped_model_reads_the_very_columns_that_are_made() -> None:
    model, rows = default_model(), real_rows()
    assert model.kind == "trees"
    assert model.fits(FEATURES_VERSION, rows.names)
    assert set(model.features) == set(rows.names)
    scores = model.scores(rows.names, rows.values)
    assert np.isfinite(scores).all()
    assert scores.argmax() == 0  # a.py, which defines the lock
    parts = model.contributions(rows.names, rows.values)
    base = scores - np.array([sum(row.values()) for row in parts])
    np.testing.assert_allclose(base, base[0], atol=1e-6)


def test_the_shipped_model_says_what_it_was_made_of() -> None:
    card = default_model().card
    assert len(card.trained_on) == len(set(card.trained_on)) > 1
    assert card.num_tasks > 1000


def test_loading_the_module_and_a_linear_model_needs_no_trees() -> None:
    program = (
        "import sys\nfrom twin.specialists.relevance import default_model\n"
        "default_model().fits(1, ())\nassert 'lightgbm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
