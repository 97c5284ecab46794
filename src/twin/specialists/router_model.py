"""The learnt part of the router: from a request to P(small model right) and to the expected gain.

Owns prediction and the bytes of a model; training is `train.router`'s business. For each of two
targets (the small model is right, the big one is right) there are three learners: boosted trees
over the shape, and two ridge regressions over hashed words and over runs of characters. The gain is
the difference of the targets; a recipe says how much each learner counts, and how much plain length
does, the prior that holds on subjects nobody has seen. The confidence is calibrated on predictions
for examples that the learners had not seen.

A model is numpy arrays and numbers in MessagePack: no code can hide in it.
"""

import hashlib
import zlib
from functools import cached_property
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from twin.errors import StoreCorrupt, StoreTooNew
from twin.specialists.router_features import (
    BUCKETS,
    COLUMNS,
    FEATURES_VERSION,
    Floats,
    Ints,
)
from twin.specialists.router_trees import Trees

FORMAT: Final = 1
_MAGIC: Final = b"twin-router\0"
_MAX_BYTES: Final = 64_000_000
"""Unpacked; a file that says it is larger is no model of ours."""

LEARNERS: Final = ("trees", "words", "chars")
"""Of each target, in the order of every array with a `learners` axis."""


class Array(msgspec.Struct, frozen=True):
    """A numpy array as bytes, little-endian."""

    dtype: Literal["<f4", "<f8", "<i4", "<i8"]
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: NDArray[np.generic], dtype: Literal["<f4", "<f8", "<i4", "<i8"]) -> "Array":
        return cls(dtype, values.shape, np.ascontiguousarray(values, dtype).tobytes())

    def read(self) -> NDArray[np.generic]:
        """Raises ValueError where bytes and shape disagree."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


class Grams(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Ridge regressions of both targets over one kind of hashed n-grams, TF-IDF, unit length."""

    idf: Array
    """[BUCKETS]; 0 where training never saw the bucket twice."""
    weights: Array
    """[2, BUCKETS]: small model right, big model right."""
    means: tuple[float, float]

    def predict(self, buckets: Ints) -> tuple[float, float]:
        """For one text's buckets, with repeats."""
        distinct, counts = np.unique(buckets, return_counts=True)
        values = np.log1p(counts) * self._idf[distinct]
        length = float(np.sqrt(values @ values))
        if length == 0:
            return self.means
        found = (self._weights[:, distinct] @ values) / length
        return float(found[0]) + self.means[0], float(found[1]) + self.means[1]

    @cached_property
    def _idf(self) -> Floats:
        return np.asarray(self.idf.read(), np.float64)

    @cached_property
    def _weights(self) -> Floats:
        return np.asarray(self.weights.read(), np.float64)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """From the learners' opinions to a probability: logistic, then a monotone step where isotonic
    regression did better on examples kept back."""

    kind: Literal["platt", "isotonic"]
    weights: tuple[float, ...]
    """Of each learner."""
    bias: float
    knots: tuple[tuple[float, float], ...] = ()
    """For `isotonic`: (logistic probability, observed share), rising."""

    def probability(self, opinions: Floats) -> Floats:
        """[..., learners] -> [...] in (0, 1)."""
        logit = opinions @ np.asarray(self.weights) + self.bias
        found = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
        if self.kind == "isotonic":
            at, share = zip(*self.knots, strict=True)
            found = np.interp(found, at, share)
        return np.asarray(found, np.float64)


class Blend(msgspec.Struct, frozen=True, kw_only=True):
    """The expected gain: standardised opinions, weighted, brought back to the scale of gains."""

    centers: tuple[float, ...]
    """Of each learner's gain and, last, of the logarithm of the length."""
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    slope: float
    intercept: float

    def mixed(self, opinions: Floats) -> Floats:
        """[..., learners + 1] -> [...], in units of standard deviations."""
        scaled = (opinions - np.asarray(self.centers)) / np.asarray(self.scales)
        return np.asarray(scaled @ np.asarray(self.weights), np.float64)

    def gain(self, opinions: Floats) -> Floats:
        return np.clip(self.slope * self.mixed(opinions) + self.intercept, -1.0, 1.0)


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a router is made of, for people."""

    num_examples: int
    num_with_both: int
    """Examples where both tiers' answers were judged; only they teach the big one's part."""
    recipe: str
    inner: dict[str, float]
    """APGR of each recipe inside the training part."""
    folds: str
    """How the inner folds were cut: by `group`, `time` or `row`."""
    calibration: str = ""
    """`platt` or `isotonic`."""


class Learnt(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All that training found out. Immutable; equal bytes are equal models."""

    card: Card
    trees: tuple[Trees, Trees]
    """Small model right, big model right."""
    words: Grams
    chars: Grams
    blend: Blend
    calibration: Calibration
    has_strong: bool
    """Whether there was enough to learn the big model's part; else it counts as even."""
    features_version: int = FEATURES_VERSION
    format: int = FORMAT

    def opinions(self, row: Floats, words: Ints, chars: Ints) -> Floats:
        """[learners, 2] of one request: each learner's estimate of both targets."""
        by_words, by_chars = self.words.predict(words), self.chars.predict(chars)
        return np.array([self.predict_trees(row), by_words, by_chars])

    def predict_trees(self, row: Floats) -> tuple[float, float]:
        return self.trees[0].predict(row), self.trees[1].predict(row)

    def judge(self, opinions: Floats, log_length: float) -> tuple[float, float]:
        """(P(small model right), expected gain) of one request."""
        confidence = float(self.calibration.probability(opinions[:, 0]))
        gains = np.append(opinions[:, 1] - opinions[:, 0], log_length)
        return confidence, float(self.blend.gain(gains))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Learnt":
        """Raises StoreCorrupt for bytes that are no model, StoreTooNew for a later format."""
        packed = _unpacked(data)
        try:
            stamp = msgspec.msgpack.decode(packed, type=_Stamp)
            if stamp.format > FORMAT or stamp.features_version > FEATURES_VERSION:
                raise StoreTooNew(
                    f"The router has format {stamp.format}, this program reads {FORMAT}. Install a "
                    "newer version of cognitive-twin."
                )
            if stamp.features_version < FEATURES_VERSION:
                raise StoreCorrupt(
                    "The router reads features that this version no longer makes. Run `twin train "
                    "router` to make a new one."
                )
            learnt = msgspec.msgpack.decode(packed, type=cls)
            learnt.check()
        except (msgspec.DecodeError, ValueError) as error:
            raise _damaged(str(error)) from error
        return learnt

    def to_bytes(self) -> bytes:
        packed = msgspec.msgpack.encode(self)
        return _MAGIC + hashlib.sha256(packed).digest() + zlib.compress(packed, 6)

    def check(self) -> None:
        """Raises ValueError where arrays do not fit together: found when loading, not later."""
        for grams in (self.words, self.chars):
            if grams.idf.read().shape != (BUCKETS,) or grams.weights.read().shape != (2, BUCKETS):
                raise ValueError("the n-gram weights have another size")
            if not np.isfinite(np.asarray(grams.weights.read(), np.float64)).all():
                raise ValueError("the n-gram weights are no numbers")
        for trees in self.trees:
            trees.check(len(COLUMNS))
        count = len(LEARNERS)
        blend = {len(self.blend.centers), len(self.blend.scales), len(self.blend.weights)}
        if len(self.calibration.weights) != count or blend != {count + 1}:
            raise ValueError("the blend has another number of learners")
        if self.calibration.kind == "isotonic" and len(self.calibration.knots) < 2:
            raise ValueError("the calibration has no knots")


class _Stamp(msgspec.Struct, frozen=True):
    """What every format of a router says of itself."""

    format: int = FORMAT
    features_version: int = FEATURES_VERSION


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(_MAGIC):
        raise StoreCorrupt("This is no router. Run `twin train router` to make one.")
    start = len(_MAGIC) + 32
    unpacker = zlib.decompressobj()
    try:
        packed = unpacker.decompress(data[start:], _MAX_BYTES)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if not unpacker.eof or hashlib.sha256(packed).digest() != data[len(_MAGIC) : start]:
        raise _damaged("its checksum does not match")
    return packed


def _damaged(why: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"The router is damaged ({why}). Run `twin train router` to make a new one."
    )
