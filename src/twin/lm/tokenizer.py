"""Text to numbers and back: characters, bytes or byte pairs; each control token is one number.

Owns the vocabularies, their one file `tokenizer.json`, and decoding as a stream. Control tokens
have the highest numbers, and plain text never becomes one: `encode` writes them only where it is
asked to (`control=True`), so that a user's text cannot end a turn. Needs numpy; the package
`tokenizers` only for byte pairs.
"""

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from twin.lm.errors import BadCheckpoint, BadConfig, BadTokens

Ids = npt.NDArray[np.int32]
Kind = Literal["char", "byte", "bpe"]

END: Final = "<|end|>"
"""End of a text; what follows has nothing to do with what came before."""
CONTROL: Final = (END, "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")
FORMAT: Final = 1
NUM_BYTES: Final = 256
PRINTABLE: Final = "\t\n" + "".join(map(chr, range(32, 127)))
"""97 symbols: what a terminal's keyboard writes."""
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(ABC):
    """One vocabulary: the text's own tokens first, then the control tokens."""

    kind: ClassVar[Kind]

    def __init__(self, num_text_tokens: int, control: Sequence[str]) -> None:
        self.num_text_tokens = num_text_tokens
        self.control: dict[str, int] = {
            name: num_text_tokens + number for number, name in enumerate(control)
        }
        self._control_names = {number: name for name, number in self.control.items()}

    @property
    def vocab_size(self) -> int:
        return self.num_text_tokens + len(self.control)

    @property
    def end(self) -> int | None:
        """The number of the end-of-text token; None where the vocabulary has none."""
        return self.control.get(END)

    @abstractmethod
    def encode_text(self, text: str) -> Ids:
        """Numbers of plain text. Raises BadTokens for a symbol the vocabulary does not hold."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """What a text token stands for, in UTF-8 or a part of it."""

    def encode_bytes(self, data: bytes) -> Ids:
        """Numbers of what a file holds; what is no UTF-8 becomes U+FFFD, except in `byte`."""
        return self.encode_text(data.decode("utf-8", "replace"))

    def encode(self, text: str, *, control: bool = False) -> Ids:
        """Numbers of a text; with `control`, marks like `<|user|>` become their one token."""
        if not control or not self.control:
            return self.encode_text(text)
        parts: list[Ids] = []
        for mark, plain in _split_marks(text, tuple(self.control)):
            if mark:
                parts.append(np.array([self.control[mark]], dtype=np.int32))
            elif plain:
                parts.append(self.encode_text(plain))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def decode(self, tokens: Iterable[int], *, control: bool = False) -> str:
        """Text of numbers; control tokens are left out, or written as marks with `control`.

        Raises BadTokens for a number outside the vocabulary.
        """
        stream = self.stream(control=control)
        return "".join([stream.push(int(token)) for token in tokens]) + stream.finish()

    def stream(self, *, control: bool = False) -> "Stream":
        """Decodes token by token, holding back a character that is not whole yet."""
        return Stream(self, control=control)

    def check(self, token: int) -> None:
        """Raises BadTokens for a number outside the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise BadTokens(
                f"{token} is no token: this vocabulary has 0 to {self.vocab_size - 1}. Use the "
                "tokenizer that the model was trained with."
            )

    def control_name(self, token: int) -> str | None:
        """`<|user|>` and the like; None for a token of text."""
        return self._control_names.get(token)

    @abstractmethod
    def _own(self) -> dict[str, Any]:
        """What this kind adds to `tokenizer.json`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `tokenizer_from_dict` makes an equal tokenizer of it."""
        return {"kind": self.kind, "format": FORMAT, "control": list(self.control), **self._own()}

    def save(self, path: Path) -> None:
        """Writes `tokenizer.json`."""
        path.write_text(json.dumps(self.to_dict(), ensure_ascii=True), encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.kind, self.vocab_size))


class Stream:
    """Text of one stream of tokens; bytes of an unfinished character wait for the rest."""

    def __init__(self, tokenizer: Tokenizer, *, control: bool = False) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is now certain; often empty for a byte inside a character."""
        name = self._tokenizer.control_name(token)
        if name is None:
            self._tokenizer.check(token)
            return self._decoder.decode(self._tokenizer.token_bytes(token))
        return self.finish() + (name if self._control else "")

    def finish(self) -> str:
        """What was held back, as U+FFFD if it never became a character."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class CharTokenizer(Tokenizer):
    """One token per symbol, numbered in the order of code points."""

    kind = "char"

    def __init__(self, symbols: Iterable[str], *, control_tokens: bool = True) -> None:
        self.symbols = "".join(sorted({s for s in symbols if not "\ud800" <= s <= "\udfff"}))
        if not self.symbols:
            raise BadTokens("No symbols to number: the text is empty. Give one that is not.")
        super().__init__(len(self.symbols), CONTROL if control_tokens else ())
        self._bytes = [symbol.encode() for symbol in self.symbols]
        codes = np.array([ord(symbol) for symbol in self.symbols])
        self._number_of_code = np.full(int(codes.max()) + 2, -1, dtype=np.int32)
        self._number_of_code[codes] = np.arange(len(codes), dtype=np.int32)

    @property
    def replacement(self) -> str:
        """Stands for a symbol that the vocabulary lacks, where the caller asks for that."""
        return next((s for s in (REPLACEMENT, "?", " ") if s in self.symbols), self.symbols[0])

    def encode_text(self, text: str) -> Ids:
        numbers = self._numbers(text)
        missing = np.flatnonzero(numbers < 0)
        if len(missing):
            at = int(missing[0])
            raise BadTokens(
                f"The symbol {text[at]!a} (number {at} of the text) is not among the "
                f"{len(self.symbols)} that this model knows. Leave it out, or ask for replacement "
                f"by {self.replacement!a}."
            )
        return numbers

    def encode_replacing(self, text: str) -> Ids:
        """As `encode_text`, with `replacement` for every unknown symbol."""
        numbers = self._numbers(text)
        numbers[numbers < 0] = self.symbols.index(self.replacement)
        return numbers

    def encode_bytes(self, data: bytes) -> Ids:
        return self.encode_replacing(data.decode("utf-8", "replace"))

    def _numbers(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        last = len(self._number_of_code) - 1  # holds -1: beyond every symbol
        return self._number_of_code[np.minimum(codes, last)]

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def _own(self) -> dict[str, Any]:
        return {"symbols": self.symbols}


class ByteTokenizer(Tokenizer):
    """One token per byte of UTF-8: every text has numbers, nothing is unknown."""

    kind = "byte"

    def __init__(self, *, control_tokens: bool = True) -> None:
        super().__init__(NUM_BYTES, CONTROL if control_tokens else ())

    def encode_text(self, text: str) -> Ids:
        return self.encode_bytes(text.encode("utf-8", "replace"))

    def encode_bytes(self, data: bytes) -> Ids:
        return np.frombuffer(data, dtype=np.uint8).astype(np.int32)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def _own(self) -> dict[str, Any]:
        return {}


class BpeTokenizer(Tokenizer):
    """Byte pairs over bytes, split as GPT-2 does: every text has numbers, decoding is exact."""

    kind = "bpe"

    def __init__(self, merges_json: str, *, control_tokens: bool = True) -> None:
        self._bpe = _bpe(merges_json)
        super().__init__(self._bpe.get_vocab_size(), CONTROL if control_tokens else ())

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int = 24_000, control_tokens: bool = True
    ) -> "BpeTokenizer":
        """Learns merges; fewer than asked for where the text holds no more pairs that repeat."""
        _need_tokenizers()
        from tokenizers import Tokenizer as Pairs
        from tokenizers import decoders, models, pre_tokenizers, trainers

        num_text_tokens = vocab_size - (len(CONTROL) if control_tokens else 0)
        if num_text_tokens < NUM_BYTES:
            raise BadConfig(
                f"{vocab_size} tokens are fewer than the bytes and the control tokens. Give "
                f"{NUM_BYTES + len(CONTROL)} or more, or use the tokenizer `byte`."
            )
        pairs = Pairs(models.BPE())
        pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        pairs.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=num_text_tokens,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        pairs.train_from_iterator(texts, trainer)
        return cls(pairs.to_str(), control_tokens=control_tokens)

    def encode_text(self, text: str) -> Ids:
        clean = text.encode("utf-8", "replace").decode()  # no lone surrogates
        return np.array(self._bpe.encode(clean, add_special_tokens=False).ids, dtype=np.int32)

    @cached_property
    def _bytes(self) -> list[bytes]:
        byte_of = byte_of_symbol()
        return [
            bytes(byte_of[symbol] for symbol in self._bpe.id_to_token(token))
            for token in range(self.num_text_tokens)
        ]

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def _own(self) -> dict[str, Any]:
        return {"bpe": json.loads(self._bpe.to_str())}


def load_tokenizer(path: Path) -> Tokenizer:
    """From `tokenizer.json`. Raises BadCheckpoint for a file that is missing or not one of ours."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(
            f"{path} cannot be read as a tokenizer ({error}). Copy the whole checkpoint again."
        ) from error
    return tokenizer_from_dict(data)


def tokenizer_from_dict(data: Any) -> Tokenizer:
    """The tokenizer that `to_dict` described. Raises BadCheckpoint."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadCheckpoint(
            "This tokenizer is of another format. Make it with this version of the program."
        )
    controls = data.get("control")
    if controls not in ([], list(CONTROL)):
        raise BadCheckpoint(
            f"The control tokens {controls!r} are not this version's {list(CONTROL)}. Train the "
            "model with this version."
        )
    try:
        match data.get("kind"):
            case "char":
                return CharTokenizer(data["symbols"], control_tokens=bool(controls))
            case "byte":
                return ByteTokenizer(control_tokens=bool(controls))
            case "bpe":
                return BpeTokenizer(json.dumps(data["bpe"]), control_tokens=bool(controls))
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(
            f"The tokenizer's file is damaged ({error}). Copy the whole checkpoint again."
        ) from error
    raise BadCheckpoint(f"{data.get('kind')!r} is no kind of tokenizer: char, byte or bpe is.")


def check_same(tokenizer: Tokenizer, other: Tokenizer) -> None:
    """Raises BadCheckpoint unless both number text alike; says which is which."""
    if tokenizer.kind != other.kind:
        raise BadCheckpoint(
            f"The model was trained with the tokenizer `{other.kind}`, not `{tokenizer.kind}`. "
            "Use the one in its folder."
        )
    if tokenizer != other:
        raise BadCheckpoint(
            f"The model was trained with another `{other.kind}` vocabulary "
            f"({other.vocab_size} tokens, not {tokenizer.vocab_size}). Use the one in its folder."
        )


def _split_marks(text: str, marks: Sequence[str]) -> Iterable[tuple[str, str]]:
    """(mark, "") and ("", plain text) in turn."""
    import re

    pattern = "(" + "|".join(re.escape(mark) for mark in marks) + ")"
    for number, part in enumerate(re.split(pattern, text)):
        yield (part, "") if number % 2 else ("", part)


def _need_tokenizers() -> None:
    try:
        import tokenizers  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise BadConfig(
            "Byte pairs need the package `tokenizers`. Install it with "
            '`pip install "cognitive-twin[lm]"`, or use the tokenizer `byte`.'
        ) from error


def _bpe(merges_json: str) -> Any:
    _need_tokenizers()
    from tokenizers import Tokenizer as Pairs

    try:
        return Pairs.from_str(merges_json)
    except Exception as error:  # the package raises bare Exception
        raise BadCheckpoint(
            f"The byte pairs cannot be read ({error}). Copy the whole checkpoint again."
        ) from error


def byte_of_symbol() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for code points from 256."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(NUM_BYTES) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    return table | {chr(NUM_BYTES + number): byte for number, byte in enumerate(others)}
