"""The relevance model: which files does a task touch, from one row of features per file.

The first specialist that replaces an LLM call. Two forms behind one door: `linear`, a weighted sum
that a person can read, and `trees`, gradient-boosted trees trained with LambdaMART. Owns the bytes
of a model, prediction, and what each feature gave to a score. Training is `train.relevance`'s
business; what the features mean is decided where they are made.
"""

import zlib
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from twin.errors import StoreCorrupt, StoreTooNew
from twin.specialists.trees import Forest

if TYPE_CHECKING:
    import lightgbm

MODEL: Final = "relevance"
"""The job's name in the registry."""

FORMAT: Final = 1
_MAGIC: Final = b"twin-relevance\0"
_DEFAULT: Final = ("twin.specialists", "data/relevance-default.bin")

FIRST_TREES: Final = 60

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """score = sum over features of weight * value; the values are scaled within their task."""

    weights: dict[str, float]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is made of, for people: shown by `twin models show`."""

    trained_on: tuple[str, ...]
    """Repositories."""
    num_tasks: int
    notes: str = ""


class _Stamp(msgspec.Struct, frozen=True):
    """The one thing that every format of a model says of itself."""

    format: int = FORMAT


class RelevanceModel(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A ranker of files. Immutable; equal bytes are equal models."""

    kind: Literal["linear", "trees"]
    features: tuple[str, ...]
    features_version: int
    card: Card
    linear: Linear | None = None
    trees: str = ""
    """LightGBM's own text format; empty for `linear`."""
    format: int = FORMAT

    @classmethod
    def from_bytes(cls, data: bytes) -> "RelevanceModel":
        """Raises StoreCorrupt for bytes that are no model, StoreTooNew for a later format."""
        if not data.startswith(_MAGIC):
            raise StoreCorrupt("This is no relevance model. Run `twin improve` to make one.")
        try:
            packed = zlib.decompress(data[len(_MAGIC) :])
            newest = msgspec.msgpack.decode(packed, type=_Stamp).format
            if newest > FORMAT:  # asked first: what a later format holds may not be readable here
                raise StoreTooNew(
                    f"The relevance model has format {newest}, this program reads {FORMAT}. "
                    "Install a newer version of cognitive-twin."
                )
            return msgspec.msgpack.decode(packed, type=cls)
        except (zlib.error, msgspec.DecodeError) as error:
            raise StoreCorrupt(
                f"The relevance model is damaged ({error}). Run `twin improve` to make a new one."
            ) from error

    def to_bytes(self) -> bytes:
        return _MAGIC + zlib.compress(msgspec.msgpack.encode(self), 9)

    def fits(self, features_version: int, names: tuple[str, ...]) -> bool:
        """Whether the model can read rows with these columns."""
        return self.features_version == features_version and set(self.features) <= set(names)

    def scores(self, names: tuple[str, ...], values: Matrix) -> Floats:
        """[files] the higher, the more relevant; comparable within one task only.

        Raises ValueError where a column that the model reads is missing.
        """
        columns = self._columns(names, values)
        if self.kind == "linear":
            return columns.astype(np.float64) @ self._weights
        return np.asarray(self._booster.predict(columns, num_threads=1), np.float64)

    def shortlist(self, names: tuple[str, ...], values: Matrix, size: int) -> NDArray[np.int64]:
        """The rows, in their order, that can come to the top: the best `size` by the first trees.

        A row that the first `FIRST_TREES` place beyond the best two hundred is not brought back
        among the first ten by the rest, so a large repository needs not be scored whole.
        """
        if self.kind == "linear" or len(values) <= size:
            return np.arange(len(values))
        columns = self._columns(names, values)
        rough = self._booster.predict(columns, num_threads=1, num_iteration=FIRST_TREES)
        return np.sort(np.argsort(-np.asarray(rough), kind="stable")[:size])

    def contributions(self, names: tuple[str, ...], values: Matrix) -> list[dict[str, float]]:
        """Per row, what each feature added to the score; `trees` says how it is shared out."""
        columns = self._columns(names, values)
        if self.kind == "linear":
            parts = columns.astype(np.float64) * self._weights
        else:
            parts = self._forest.contributions(columns.astype(np.float64))
        return [dict(zip(self.features, map(float, row), strict=True)) for row in parts]

    def _columns(self, names: tuple[str, ...], values: Matrix) -> Matrix:
        if names == self.features:
            return values
        missing = [name for name in self.features if name not in names]
        if missing:
            raise ValueError(f"The rows lack {', '.join(missing)}.")
        at = {name: column for column, name in enumerate(names)}
        return values[:, [at[name] for name in self.features]]

    @cached_property
    def _weights(self) -> Floats:
        weights = self.linear.weights if self.linear else {}
        return np.array([weights.get(name, 0.0) for name in self.features])

    @cached_property
    def _forest(self) -> Forest:
        return Forest.parse(self.trees)

    @cached_property
    def _booster(self) -> "lightgbm.Booster":
        import lightgbm  # half a second to load; a linear model does without

        return lightgbm.Booster(model_str=self.trees)


def default_model() -> RelevanceModel:
    """The model in the package, trained on public repositories (`data/relevance-default.md`)."""
    package, path = _DEFAULT
    return RelevanceModel.from_bytes(resources.files(package).joinpath(path).read_bytes())
