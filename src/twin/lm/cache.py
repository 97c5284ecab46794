"""What was read once is not read again: states by the text that led to them.

`PrefixCache` keeps them in memory under a cap, the least recently used leave first.
`ConversationStore` keeps one file a conversation, so that a restart costs nothing. Both answer only
where the stored tokens are a true prefix of the asked ones, compared by digest. Neither knows how a
state is made.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from twin.lm.errors import BadState
from twin.lm.state import State

Tokens = npt.NDArray[np.int32] | npt.NDArray[np.int64]

BLOCK = 256
"""Prompts are kept at every multiple of it, so that prompts with the same beginning share it."""
_STATE, _TOKENS = "state.{:04d}", "tokens"


class Kept(Protocol):
    """What the cache needs to know of a state."""

    @property
    def num_bytes(self) -> int: ...

    def copy(self) -> Self: ...


S = TypeVar("S", bound=Kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry(Generic[S]):
    digest: bytes
    num_tokens: int
    state: S


class PrefixCache(Generic[S]):
    """States by the tokens that led to them. Safe to use from several threads."""

    def __init__(
        self, max_bytes: int, *, key: Callable[[bytes], int] = lambda d: int.from_bytes(d[:8])
    ) -> None:
        """`key` shortens a digest to what entries are found by; two texts may share one."""
        self._max_bytes = max_bytes
        self._key = key
        self._entries: OrderedDict[int, _Entry[S]] = OrderedDict()
        self._lengths: dict[int, int] = {}
        """How many entries there are of each length: only these prefixes need to be hashed."""
        self._lock = threading.Lock()
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, tokens: Sequence[int] | Tokens, state: S) -> None:
        """Keeps a copy. What is larger than the whole cache is not kept."""
        size = state.num_bytes
        if size > self._max_bytes or len(tokens) == 0:
            return
        digest = _digest(tokens)
        kept = state.copy()
        with self._lock:
            self._drop(self._key(digest))
            self._entries[self._key(digest)] = _Entry(
                digest=digest, num_tokens=len(tokens), state=kept
            )
            self._lengths[len(tokens)] = self._lengths.get(len(tokens), 0) + 1
            self.num_bytes += size
            while self.num_bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def longest(self, tokens: Sequence[int] | Tokens) -> tuple[int, S] | None:
        """How many of the tokens the longest kept prefix covers, and a copy of its state."""
        with self._lock:
            entry = self._find(tokens)
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(self._key(entry.digest))
            return entry.num_tokens, entry.state.copy()

    def covered(self, tokens: Sequence[int] | Tokens) -> int:
        """How many of the tokens the longest kept prefix covers; 0 where there is none."""
        with self._lock:
            entry = self._find(tokens)
            return 0 if entry is None else entry.num_tokens

    def _find(self, tokens: Sequence[int] | Tokens) -> "_Entry[S] | None":
        lengths = sorted(length for length in self._lengths if length <= len(tokens))
        for length, digest in reversed(list(_prefix_digests(tokens, lengths))):
            entry = self._entries.get(self._key(digest))
            if entry is not None and (entry.digest, entry.num_tokens) == (digest, length):
                return entry
        return None

    def _drop(self, key: int) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.num_bytes -= entry.state.num_bytes
        self._lengths[entry.num_tokens] -= 1
        if not self._lengths[entry.num_tokens]:
            del self._lengths[entry.num_tokens]


class ConversationStore:
    """One safetensors file a conversation below `folder`, of one model; the files used longest ago
    go when they take more than `max_bytes` together."""

    def __init__(self, folder: Path, model_digest: str, *, max_bytes: int = 1 << 30) -> None:
        self._folder = folder
        self._digest = model_digest
        self._max_bytes = max_bytes

    def save(self, conversation: str, tokens: Sequence[int] | Tokens, state: State) -> None:
        """Replaces what was kept of the conversation; whole or not at all. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(conversation)
        handle, named = tempfile.mkstemp(prefix=path.stem[:16], suffix=".new", dir=self._folder)
        os.close(handle)
        new = Path(named)
        tensors = {_STATE.format(place): x.contiguous() for place, x in enumerate(state)}
        tensors[_TOKENS] = torch.from_numpy(np.asarray(tokens, np.int32).copy())
        try:
            save_file(tensors, new, metadata={"model": self._digest, "conversation": conversation})
            new.replace(path)
        except SafetensorError as error:  # no OSError, though it is a full disk that it tells of
            raise OSError(f"{path} cannot be written: {error}") from error
        finally:
            new.unlink(missing_ok=True)
        self._make_room(path)

    def load(self, conversation: str) -> tuple[Tokens, State] | None:
        """The tokens that were read and the state after them; None where nothing is kept.

        Raises BadState where the file is damaged, or was written with another model."""
        path = self._path(conversation)
        try:
            with safe_open(path, framework="pt") as file:
                found = file.metadata() or {}
                if found.get("model") != self._digest:
                    raise BadState(
                        f"{path.name} was written with another model. Ask with that one, or delete "
                        "the file."
                    )
                names = sorted(name for name in file.keys() if name != _TOKENS)  # noqa: SIM118
                state = tuple(file.get_tensor(name) for name in names)
                tokens = file.get_tensor(_TOKENS).numpy()
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            raise BadState(f"{path} cannot be read ({error}). Delete it.") from error
        with contextlib.suppress(OSError):  # another process made room, or owns the file
            os.utime(path)
        return tokens, state

    def longest(
        self, conversation: str, tokens: Sequence[int] | Tokens
    ) -> tuple[int, State] | None:
        """As `PrefixCache.longest`, of this conversation alone; what cannot be used counts as
        nothing, as the text itself can always be read again."""
        try:
            kept = self.load(conversation)
        except BadState:
            return None
        if kept is None:
            return None
        before, state = kept
        asked = np.asarray(tokens[: len(before)], np.int32)
        return (len(before), state) if np.array_equal(before, asked) else None

    def delete(self, conversation: str) -> None:
        self._path(conversation).unlink(missing_ok=True)

    def _path(self, conversation: str) -> Path:
        # A conversation's name comes from a client: only its digest becomes a path. With the
        # model's, so that two models that are asked the same do not overwrite each other's.
        whose = f"{self._digest}\0{conversation}".encode("utf-8", "surrogatepass")
        return self._folder / f"{hashlib.sha256(whose).hexdigest()}.safetensors"

    def _make_room(self, newest: Path) -> None:
        files = []
        for path in self._folder.glob("*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            files.append((path != newest, -stat.st_mtime_ns, stat.st_size, path))
        total = 0
        for _, _, size, path in sorted(files):
            total += size
            if total > self._max_bytes and path != newest:
                path.unlink(missing_ok=True)


def _as_bytes(tokens: Sequence[int] | Tokens) -> bytes:
    return np.ascontiguousarray(tokens, np.int32).tobytes()


def _digest(tokens: Sequence[int] | Tokens) -> bytes:
    return hashlib.blake2b(_as_bytes(tokens), digest_size=32).digest()


def _prefix_digests(
    tokens: Sequence[int] | Tokens, lengths: Sequence[int]
) -> Iterator[tuple[int, bytes]]:
    """Digest of each prefix, the text being hashed once."""
    data, at = _as_bytes(tokens), 0
    running = hashlib.blake2b(digest_size=32)
    for length in lengths:
        running.update(data[4 * at : 4 * length])
        at = length
        yield length, running.copy().digest()
