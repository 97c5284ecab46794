"""Many texts continued at once: streams join and leave the batch at any token.

Owns the one thread that decodes, the queue before it, what a text ends at, and the text that comes
out piece by piece (a stop text is never shown in part, a character never in halves). Sampling is
`sampling`'s, the arithmetic `decode`'s. Knows no conversations: who has one makes a prompt of it.
"""

import logging
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from twin.lm.cache import BLOCK, PrefixCache
from twin.lm.decode import Engine, EngineState
from twin.lm.errors import BadTokens, LmError
from twin.lm.sampling import Drawn, Sampling, choose
from twin.lm.state import State
from twin.lm.tokenizer import Stream as TextStream
from twin.lm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Finish = Literal["stop", "length", "cancelled", "deadline"]
Tokens = npt.NDArray[np.int64]

MAX_STREAMS = 64
MAX_WAITING = 256
CACHE_BYTES = 256 << 20
MAX_UNSHOWN = 64
"""Names of symbols that an error repeats."""


class Busy(LmError):
    """More texts wait than the queue holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer, as it was chosen."""

    token: int
    text: str
    """What it stands for by itself; U+FFFD for a part of a character."""
    data: bytes
    logprob: float | None
    top: tuple[tuple[str, bytes, float], ...] = ()
    """Text, bytes and log-probability of the likeliest."""
    offset: int = 0
    """Characters of the answer before it, as they were decoded: bytes of one character share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more of an answer. The last one says how it ended."""

    text: str
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None
    error: LmError | None = None
    """The model could not go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole continuation."""

    text: str
    tokens: tuple[Token, ...]
    finish: Finish
    num_prompt_tokens: int
    num_cached_tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return len(self.tokens) / self.seconds if self.seconds else 0.0


class Continuation:
    """One text under way. Its `emit` is called from the decoding thread, with None at the end; who
    gave none iterates over the pieces instead."""

    def __init__(
        self,
        prompt: Tokens,
        sampling: Sampling,
        decoder: TextStream,
        emit: Callable[[Piece], None] | None,
        deadline: float | None,
        keep: Callable[[Sequence[int], State], None] | None,
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.num_cached_tokens = 0
        self.num_tokens = 0
        self.began = time.monotonic()
        self.ended: float | None = None
        self.deadline = deadline
        self.keep = keep
        self._history, self._num_history = prompt, len(prompt)
        self.state: EngineState | None = None
        self.num_read = 0
        self._decoder = decoder
        self._pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self._emit = emit or self._pieces.put
        self._num_sent = 0
        """Characters."""
        self._held = ""
        self._held_tokens: list[tuple[int, Token]] = []
        """With where in the answer each begins."""
        self._is_cut = False
        self._is_cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody listens any more; it leaves the batch before the next token."""
        self._is_cancelled.set()

    def __iter__(self) -> Iterator[Piece]:
        """Pieces as they come. Raises the LmError that ended it."""
        while True:
            piece = self._pieces.get()
            if piece.error is not None:
                raise piece.error
            yield piece
            if piece.finish is not None:
                return

    def answer(self) -> Answer:
        """Waits for the whole. Raises LmError."""
        return self.whole(list(self))

    def whole(self, pieces: Sequence[Piece]) -> Answer:
        """All its pieces in one."""
        return Answer(
            text="".join(piece.text for piece in pieces),
            tokens=tuple(token for piece in pieces for token in piece.tokens),
            finish=pieces[-1].finish or "stop",
            num_prompt_tokens=len(self.prompt),
            num_cached_tokens=self.num_cached_tokens,
            seconds=(self.ended or time.monotonic()) - self.began,
        )

    # ---- the decoding thread's side

    @property
    def history(self) -> Tokens:
        """All tokens of the prompt and the answer so far."""
        return self._history[: self._num_history]

    def take(self, token: int) -> None:
        """One more token of the answer. Memory is taken by doubling: a copy of all for each would
        make long answers quadratic."""
        if self._num_history == len(self._history):
            room = np.empty(max(len(self._history), 64), np.int64)
            self._history = np.concatenate([self._history, room])
        self._history[self._num_history] = token
        self._num_history += 1
        self.num_tokens += 1

    @property
    def must_end(self) -> Finish | None:
        if self._is_cancelled.is_set():
            return "cancelled"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "deadline"
        return None

    @property
    def num_chars(self) -> int:
        """Of the text so far, shown or not."""
        return self._num_sent + len(self._held)

    def say(self, token: Token) -> bool:
        """Takes one more token; whether a stop text has come."""
        self._held_tokens.append((self.num_chars, token))
        self._held += self._decoder.push(token.token)
        found = [at for stop in self.sampling.stop if (at := self._held.find(stop)) >= 0]
        if found:
            self._cut(min(found))
            return True
        # Only what may be the beginning of a stop text waits. A token without text yet (a byte
        # inside a character) goes out with the text it completes.
        if end := len(self._held) - _beginning_of_stop(self._held, self.sampling.stop):
            self._send(end)
        return False

    def finish(self, finish: Finish) -> None:
        self.ended = time.monotonic()
        if not self._is_cut:
            self._held += self._decoder.finish()
        self._send(len(self._held), finish)

    def _cut(self, at: int) -> None:
        """Forgets the text from `at` on, and the tokens that begin behind it."""
        self._held, self._is_cut = self._held[:at], True
        end = self._num_sent + at
        self._held_tokens = [held for held in self._held_tokens if held[0] < end]

    def fail(self, error: LmError) -> None:
        self.ended = time.monotonic()
        self._tell(Piece(text="", error=error))

    def _tell(self, piece: Piece) -> None:
        try:
            self._emit(piece)
        except Exception:  # its listener's fault: the others' answers go on
            log.exception("A piece of an answer could not be handed over.")
            self.cancel()

    def _send(self, end: int, finish: Finish | None = None) -> None:
        """The held text up to `end` and the tokens that begin before; all of them at the finish."""
        text, self._held = self._held[:end], self._held[end:]
        self._num_sent += end
        tokens = [held for held in self._held_tokens if finish or held[0] < self._num_sent]
        self._held_tokens = self._held_tokens[len(tokens) :]
        self._tell(Piece(text=text, tokens=tuple(token for _, token in tokens), finish=finish))


class Generator:
    """Continues texts with one model. Start it once, ask it from any thread, close it."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        max_streams: int = MAX_STREAMS,
        max_waiting: int = MAX_WAITING,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.cache: PrefixCache[EngineState] = PrefixCache(cache_bytes)
        self._max_streams = max_streams
        self._max_waiting = max_waiting
        self._waiting: deque[Continuation] = deque()
        self._wake = threading.Condition()
        self._is_closed = False
        self.has_failed = False
        """Its thread has ended by a fault; make a new one of the same engine."""
        self._thread: threading.Thread | None = None
        self._batch: list[Continuation] = []
        self._states: EngineState | None = None

    def start(
        self,
        prompt: str | Sequence[int] | Tokens,
        sampling: Sampling | None = None,
        *,
        emit: Callable[[Piece], None] | None = None,
        deadline: float | None = None,
        restored: tuple[int, State] | None = None,
        keep: Callable[[Sequence[int], State], None] | None = None,
    ) -> Continuation:
        """Queues a text to be continued and returns at once.

        `deadline` is of `time.monotonic`. `restored`: how many of the prompt's tokens a state that
        was kept elsewhere has read, and it. `keep` is called with all tokens and the state after
        them when the text has ended. The same seed gives the same text, as far as the same logits
        are read. A state out of the cache or `restored` differs a little from one that is read
        anew: by roundings where it was read in other parts, by those of the engine's smaller
        weights where it holds an answer that was drawn. A draw near the edge of two tokens may then
        fall to the other one. With `cache_bytes` 0 and nothing restored none differs.

        Raises BadTokens for symbols or tokens that the model does not know, BadState, Busy.
        """
        sampling = sampling or Sampling()
        numbers = self.tokens_of(prompt)
        made = Continuation(numbers, sampling, self.tokenizer.stream(), emit, deadline, keep)
        if restored is not None and restored[0] < len(numbers):
            made.num_read, made.state = restored[0], self.engine.state_of(restored[1])
            made.num_cached_tokens = restored[0]
        with self._wake:
            if self._is_closed:
                raise Busy("This model is being shut down. Ask again later.")
            if len(self._waiting) >= self._max_waiting:
                raise Busy(f"{len(self._waiting)} texts wait already. Ask again in a moment.")
            self._waiting.append(made)
            if self._thread is None:
                self._thread = threading.Thread(target=self._decode, name="lm", daemon=True)
                self._thread.start()
            self._wake.notify()
        return made

    def tokens_of(self, prompt: str | Sequence[int] | Tokens) -> Tokens:
        """Numbers to begin with; never none: an empty prompt begins where a new text begins."""
        if isinstance(prompt, str):
            numbers = np.asarray(encode(self.tokenizer, prompt), np.int64)
        else:
            size = self.engine.config.vocab_size
            outside = BadTokens(f"The prompt holds tokens outside 0 to {size - 1}.")
            try:
                numbers = np.asarray(prompt, np.int64)
            except OverflowError as error:  # a client may send a number of any length
                raise outside from error
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < size):
                raise outside
        return numbers if len(numbers) else np.array([first_token(self.tokenizer)], np.int64)

    def close(self) -> None:
        """Ends what is under way as cancelled and waits for the thread."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def num_active(self) -> int:
        return len(self._batch)

    # ---- the decoding thread

    def _decode(self) -> None:
        try:
            while self._next_round():
                pass
        except Exception as error:  # whoever waits must hear of it, whatever it was
            with self._wake:
                self._is_closed = self.has_failed = True
                left = [*self._batch, *self._waiting]
                self._waiting.clear()
            for each in left:
                each.fail(LmError(f"The model stopped: {error!r}. Start it again."))
            log.exception("The decoding thread ended.")

    def _next_round(self) -> bool:
        """One prompt chunk for the first that waits, one token for each that is under way."""
        with self._wake:
            while not (self._batch or self._waiting or self._is_closed):
                self._wake.wait()
            closing = self._is_closed
            self._drop_waiting()
            joining = self._waiting[0] if self._waiting else None
        if closing:
            for each in (*self._batch, *self._waiting):
                each.finish("cancelled")
            return False
        if joining is not None and len(self._batch) < self._max_streams and self._read(joining):
            with self._wake:
                self._waiting.popleft()
        if self._batch:
            self._step()
        return True

    def _drop_waiting(self) -> None:
        """Those in the queue that nobody waits for any more."""
        for each in [each for each in self._waiting if each.must_end is not None]:
            self._waiting.remove(each)
            each.finish(each.must_end or "cancelled")

    def _read(self, joining: Continuation) -> bool:
        """Reads some more of a prompt; whether it is done with (has joined, or has ended)."""
        if (ending := joining.must_end) is not None:
            joining.finish(ending)
            return True
        prompt = joining.prompt
        if joining.state is None:
            # One token is left to be read: its logits are what the answer starts from.
            found = self.cache.longest(prompt[:-1])
            joining.state = self.engine.init_state(1) if found is None else found[1]
            joining.num_read = joining.num_cached_tokens = 0 if found is None else found[0]
        end = min(len(prompt), joining.num_read - joining.num_read % BLOCK + BLOCK)
        if joining.num_read < len(prompt) - 1 <= end:
            end = len(prompt) - 1  # kept there: a regenerated answer reads one token
        try:
            logits = self.engine.prefill(prompt[joining.num_read : end], joining.state)
        except LmError as error:
            joining.fail(error)
            return True
        joining.num_read = end
        if end < len(prompt):
            self.cache.put(prompt[:end], joining.state)
            return False
        assert logits is not None
        if joining.sampling.max_tokens == 0:
            self._leave(joining, joining.state, "length", num_unread=0)
        elif not self._choose(joining, logits, joining.state):
            if self._states is None:
                self._states = joining.state
            else:
                self._states.append(joining.state)
            joining.state = None
            self._batch.append(joining)
        return True

    def _step(self) -> None:
        assert self._states is not None
        for place in range(len(self._batch) - 1, -1, -1):
            if (ending := self._batch[place].must_end) is not None:
                self._batch[place].finish(ending)
                self._drop(place)
        if not self._batch:
            return
        last = np.array([each.history[-1] for each in self._batch], np.int64)
        logits = self.engine.step(last, self._states)
        for place in range(len(self._batch) - 1, -1, -1):
            if self._choose(self._batch[place], logits[place], place):
                self._drop(place)

    def _drop(self, place: int) -> None:
        assert self._states is not None
        self._states.remove(place)
        self._batch[place] = self._batch[-1]
        self._batch.pop()
        if not self._batch:
            self._states = None

    def _choose(
        self, stream: Continuation, logits: npt.NDArray[np.float32], at: "EngineState | int"
    ) -> bool:
        """The next token of one stream, whose state is `at` or that row of the batch; whether that
        was its last."""
        settings = stream.sampling
        try:
            drawn = choose(logits, settings, stream.seed, stream.num_tokens, stream.history)
        except LmError as error:
            stream.fail(error)
            return True
        if self.tokenizer.control_name(drawn.token) is not None:
            # The end of a turn or text: said by how it ended, not by what it reads. It joins no
            # history, so that all of that has been read.
            return self._leave(stream, at, "stop", num_unread=0)
        stream.take(drawn.token)
        if stream.say(self._token(stream.num_chars, drawn)):
            return self._leave(stream, at, "stop", num_unread=1)
        if stream.num_tokens >= settings.max_tokens:
            return self._leave(stream, at, "length", num_unread=1)
        return False

    def _leave(
        self, stream: Continuation, at: "EngineState | int", finish: Finish, *, num_unread: int
    ) -> bool:
        """Keeps what was read, then tells: whoever asks again at once finds it. `num_unread` tokens
        at the history's end were drawn, but not fed to the model: its state knows none of them."""
        if isinstance(at, int):
            assert self._states is not None
            state = self._states.row(at)
        else:
            state = at
        read = stream.history[: len(stream.history) - num_unread]
        self.cache.put(read, state)
        if stream.keep is not None:
            try:
                stream.keep([int(token) for token in read], state.to_model())
            except Exception:  # the answer is there all the same
                log.exception("The state after a text could not be kept.")
        stream.finish(finish)
        return True

    def _token(self, offset: int, drawn: Drawn) -> Token:
        data = self._bytes_of(drawn.token)
        return Token(
            token=drawn.token,
            text=data.decode("utf-8", "replace"),
            data=data,
            logprob=drawn.logprob,
            top=tuple(
                (said.decode("utf-8", "replace"), said, value)
                for said, value in ((self._bytes_of(other), value) for other, value in drawn.top)
            ),
            offset=offset,
        )

    def _bytes_of(self, token: int) -> bytes:
        name = self.tokenizer.control_name(token)
        return self.tokenizer.token_bytes(token) if name is None else name.encode()


def encode(tokenizer: Tokenizer, text: str) -> npt.NDArray[np.int32]:
    """As the tokenizer does; symbols that it does not know are all named. Raises BadTokens."""
    try:
        return tokenizer.encode(text)
    except BadTokens as error:
        known = set(getattr(tokenizer, "symbols", ""))
        unknown = sorted(set(text) - known)
        if not known or not unknown:
            raise
        named = ", ".join(ascii(symbol) for symbol in unknown[:MAX_UNSHOWN])
        raise BadTokens(
            f"The prompt holds symbols that this model has never seen: {named}. It knows "
            f"{len(known)}; leave the others out."
        ) from error


def first_token(tokenizer: Tokenizer) -> int:
    """What stands before every text: the end of another, else a line's end, else whatever there
    is."""
    if tokenizer.end is not None:
        return tokenizer.end
    try:
        return int(tokenizer.encode("\n")[0])
    except (BadTokens, IndexError):
        return 0


def _beginning_of_stop(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters could become a stop text."""
    longest = 0
    for stop in stops:
        at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while 0 <= at < len(text) - longest:
            if stop.startswith(text[at:]):
                longest = len(text) - at
                break
            at = text.find(stop[0], at + 1)
    return longest
