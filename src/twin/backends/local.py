"""A language model of one's own as a backend, in this very process: `local:lm/NAME`.

Owns the way from a request to a prompt and from pieces of text to the wire. Decoding happens in a
thread of `twin.lm.generate`, whose native code lets Python go on; torch is imported there, at the
first question. The only file of this room that knows `lm`. Speaks `chat` and `completions`; the
gateway translates the others.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import threading
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from twin.backends.backend import Ask, Reply
from twin.backends.connection import Timeouts
from twin.backends.dialects import error_body
from twin.errors import (
    BackendBroken,
    BackendTimeout,
    BackendUnreachable,
    BadRequest,
    ConfigError,
    MissingRequirement,
)
from twin.lm.errors import LmError
from twin.records import DialectName

if TYPE_CHECKING:
    from twin.lm.cache import ConversationStore
    from twin.lm.generate import Continuation, Generator, Piece, Token
    from twin.lm.sampling import Sampling

PREFIX = "lm/"
MODELS = Path(".twin", "lm")
"""Below the repository's root: where `twin pretrain` puts them."""
CONVERSATIONS = ".conversations"
"""Beside the models; a model's name does not begin with a dot."""
CONVERSATION_BYTES = 256 << 20
DEFAULT_MAX_TOKENS = 256
MAX_PIECES = 4096
"""Pieces that a slow reader may leave waiting; a longer answer is then given up."""
PYTHON_PACKAGES = ("torch", "safetensors", "numpy")

Text = str | list[dict[str, Any]] | None


class _Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What both dialects ask for. Unknown fields are not for this model, and ignored."""

    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[int, float] | None = None
    n: int | None = None
    prompt_cache_key: str | None = None

    @property
    def reports_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    content: Text = None


class _Chat(_Fields, frozen=True, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class _Completion(_Fields, frozen=True, kw_only=True):
    # msgspec takes one kind of list in a union; a list of both kinds is refused when it is read.
    prompt: str | list[int | str] = ""
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None


Wanted = _Chat | _Completion
_READERS: dict[DialectName, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(_Chat, strict=False),
    "completions": msgspec.json.Decoder(_Completion, strict=False),
}


class LocalBackend:
    """One model of `.twin/lm`, loaded at the first question."""

    def __init__(self, model: str, root: Path, dialects: Iterable[DialectName]) -> None:
        """Raises ConfigError where there is no such model (it names those there are), and
        MissingRequirement where torch is not installed."""
        self.dialects = frozenset(dialects) & frozenset(_READERS)
        self.name = model
        self._folder = folder_of(model, root)
        self._conversations = root / MODELS / CONVERSATIONS
        self._lock = threading.Lock()
        self._loaded: tuple[Generator, ConversationStore] | None = None

    async def ask(self, ask: Ask, secret: str | None) -> Reply:
        """Raises BackendTimeout and BackendBroken; what is wrong with the request is a reply."""
        began = time.monotonic()
        try:
            wanted = _read(ask)
            reply = await self._answer(ask, wanted, began)
        except msgspec.DecodeError as error:
            return _error(ask.dialect, 400, f"The request cannot be read: {error}. Correct it.")
        except BadRequest as error:
            return _error(ask.dialect, 400, str(error))
        except LmError as error:
            from twin.lm.generate import Busy

            return _error(ask.dialect, 503 if isinstance(error, Busy) else 400, str(error))
        return reply

    async def is_alive(self, secret: str | None = None) -> bool:
        """Whether the checkpoint is still there; the model itself is not asked."""
        from twin.lm.checkpoint import is_checkpoint

        return await asyncio.to_thread(is_checkpoint, self._folder)

    async def close(self) -> None:
        """Ends what is under way, and the decoding thread."""
        if self._loaded is not None:
            await asyncio.to_thread(self._loaded[0].close)

    async def _answer(self, ask: Ask, wanted: Wanted, began: float) -> Reply:
        limits = ask.timeouts
        first_byte = began + min(limits.first_byte_s, limits.deadline_s)
        try:
            async with asyncio.timeout_at(_loop_time(first_byte)):
                generator, conversations = await asyncio.to_thread(self._load)
        except TimeoutError:
            raise _too_slow("load", limits.first_byte_s) from None
        except LmError as error:  # the folder's fault, not the request's
            raise BackendUnreachable(str(error)) from error
        prompt, name = await asyncio.to_thread(_prompt_of, wanted, generator)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece] = asyncio.Queue()

        def emit(piece: "Piece") -> None:  # in the decoding thread
            if pieces.qsize() >= MAX_PIECES:  # a reader that does not read would fill the memory
                under_way.cancel()
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:  # the loop is closed: nobody listens any more
                under_way.cancel()

        restored = None
        if name and not generator.cache.covered(prompt):
            restored = await asyncio.to_thread(conversations.longest, name, prompt)

        def keep(tokens: Sequence[int], state: Any) -> None:  # in the decoding thread
            # A full disk must not end an answer that is already there.
            with contextlib.suppress(OSError):
                conversations.save(name, tokens, state)

        under_way = generator.start(
            prompt,
            _sampling(wanted),
            emit=emit,
            deadline=began + limits.deadline_s,
            restored=restored,
            keep=keep if name else None,
        )
        heard = _Heard(under_way, pieces, limits, began)
        try:
            first = await heard.next(first_byte)
        except BaseException:
            under_way.cancel()
            raise
        said = _Said(ask.dialect, self.name, wanted, under_way)
        if ask.stream:
            return LocalReply(heard, said, first)
        try:
            body = await _whole(heard, said, first)
        except BaseException:
            under_way.cancel()
            raise
        return WholeReply(200, body)

    def _load(self) -> "tuple[Generator, ConversationStore]":
        """In a thread: seconds, most of them torch's."""
        with self._lock:
            if self._loaded is None:
                from twin.lm.cache import ConversationStore
                from twin.lm.checkpoint import load_model, model_digest
                from twin.lm.decode import Engine
                from twin.lm.generate import Generator

                model, tokenizer, _ = load_model(self._folder)
                store = ConversationStore(
                    self._conversations, model_digest(self._folder), max_bytes=CONVERSATION_BYTES
                )
                self._loaded = Generator(Engine(model), tokenizer), store
            elif self._loaded[0].has_failed:  # one fault does not end all later answers
                from twin.lm.generate import Generator

                dead, store = self._loaded
                self._loaded = Generator(dead.engine, dead.tokenizer), store
            return self._loaded


def folder_of(model: str, root: Path) -> Path:
    """The checkpoint's folder. Raises ConfigError, MissingRequirement."""
    from twin.lm.checkpoint import is_checkpoint, model_folder

    models = root / MODELS
    there = sorted(p.name for p in models.iterdir() if is_checkpoint(p)) if models.is_dir() else []
    known = f"There are: {', '.join(PREFIX + name for name in there)}." if there else (
        "There are none yet; `twin pretrain` makes one."
    )  # fmt: skip
    try:
        folder = model_folder(models, model.removeprefix(PREFIX))
    except LmError as error:
        raise ConfigError(f"{error} {known}") from error
    if not model.startswith(PREFIX) or not is_checkpoint(folder):
        raise ConfigError(f"`local` has no model `{model[:100]}`. {known}")
    missing = [name for name in PYTHON_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingRequirement(
            f"`{model}` needs the package `{missing[0]}`. Install it with "
            '`pip install "cognitive-twin[lm]"`.'
        )
    return folder


class _Heard:
    """The pieces of one answer as they come out of the decoding thread, against the clock."""

    def __init__(
        self,
        under_way: "Continuation",
        pieces: "asyncio.Queue[Piece]",
        limits: Timeouts,
        began: float,
    ) -> None:
        self.under_way = under_way
        self._pieces = pieces
        self._limits = limits
        self._deadline = began + limits.deadline_s

    async def next(self, until: float | None = None) -> "Piece":
        """Raises BackendTimeout, and BackendBroken where the model cannot go on."""
        if until is None:
            until = min(time.monotonic() + self._limits.idle_s, self._deadline)
        if self._pieces.qsize() >= MAX_PIECES:
            self.under_way.cancel()
            raise BackendBroken("Nobody took the answer for too long; ask for a shorter one.")
        try:
            async with asyncio.timeout_at(_loop_time(until)):
                piece = await self._pieces.get()
        except TimeoutError:
            self.under_way.cancel()
            raise _too_slow("answer", until - self.under_way.began) from None
        if piece.error is not None:
            raise BackendBroken(str(piece.error)) from piece.error
        if piece.finish == "deadline":
            raise _too_slow("answer", self._limits.deadline_s)
        if piece.finish == "cancelled":
            raise BackendBroken("The model was shut down before its answer was whole. Ask again.")
        return piece


class WholeReply:
    """A reply that is there."""

    def __init__(self, status: int, body: bytes, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.status = status
        self.headers = [(b"content-type", b"application/json"), *extra]
        self._body = body

    async def read(self) -> bytes:
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def close(self) -> None:
        """Nothing is under way any more."""


class LocalReply:
    """An answer under way, as server-sent events."""

    def __init__(self, heard: _Heard, said: "_Said", first: "Piece") -> None:
        self.status = 200
        self.headers = [(b"content-type", b"text/event-stream")]
        self._heard = heard
        self._said = said
        self._first = first

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = self._first
        try:
            yield self._said.opening()
            while True:
                if event := self._said.event(piece):
                    yield event
                if piece.finish is not None:
                    break
                piece = await self._heard.next()
            yield self._said.closing()
        finally:
            self._heard.under_way.cancel()

    async def close(self) -> None:
        """Nobody listens any more: the stream leaves the batch before its next token."""
        self._heard.under_way.cancel()


async def _whole(heard: _Heard, said: "_Said", piece: "Piece") -> bytes:
    pieces = [piece]
    while pieces[-1].finish is None:
        pieces.append(await heard.next())
    return said.whole(pieces)


class _Said:
    """An answer in the shape of its dialect."""

    def __init__(
        self, dialect: DialectName, model: str, wanted: Wanted, under_way: "Continuation"
    ) -> None:
        self.dialect = dialect
        self._is_chat = dialect == "chat"
        self._wanted = wanted
        self._under_way = under_way
        identity = hashlib.blake2b(repr((id(self), time.time_ns())).encode(), digest_size=12)
        self._top = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{identity.hexdigest()}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, pieces: "Sequence[Piece]") -> bytes:
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        said = {"message": {"role": "assistant", "content": text}} if self._is_chat else {
            "text": text
        }  # fmt: skip
        choice = {
            "index": 0, **said, "logprobs": self._logprobs(tokens),
            "finish_reason": pieces[-1].finish,
        }  # fmt: skip
        kind = "chat.completion" if self._is_chat else "text_completion"
        return msgspec.json.encode(
            {**self._top, "object": kind, "choices": [choice], "usage": self._usage()}
        )

    def opening(self) -> bytes:
        if not self._is_chat:
            return b""
        return self._chunk([self._choice({"delta": {"role": "assistant", "content": ""}})])

    def event(self, piece: "Piece") -> bytes:
        out = b""
        if piece.text or piece.tokens:
            said = {"delta": {"content": piece.text}} if self._is_chat else {"text": piece.text}
            out = self._chunk([self._choice(said, self._logprobs(piece.tokens))])
        if piece.finish is not None:
            last: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
            out += self._chunk([self._choice({**last, "finish_reason": piece.finish})])
        return out

    def closing(self) -> bytes:
        usage = b""
        if self._wanted.reports_usage:
            usage = self._chunk([], usage=self._usage())
        return usage + b"data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        body = msgspec.json.encode({**self._top, "object": kind, "choices": choices, **more})
        return b"data: %s\n\n" % body

    @staticmethod
    def _choice(said: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": 0, "logprobs": logprobs, "finish_reason": None, **said}

    def _usage(self) -> dict[str, Any]:
        num_prompt, num_out = len(self._under_way.prompt), self._under_way.num_tokens
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_out,
            "total_tokens": num_prompt + num_out,
            "prompt_tokens_details": {"cached_tokens": self._under_way.num_cached_tokens},
        }

    def _logprobs(self, tokens: "Sequence[Token]") -> dict[str, Any] | None:
        if _num_logprobs(self._wanted) is None:
            return None
        if self._is_chat:
            content = [
                {
                    "token": token.text, "logprob": token.logprob, "bytes": list(token.data),
                    "top_logprobs": [
                        {"token": text, "logprob": value, "bytes": list(data)}
                        for text, data, value in token.top
                    ],
                }
                for token in tokens
            ]  # fmt: skip
            return {"content": content, "refusal": None}
        return {
            "tokens": [_name_of(token.data) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {_name_of(data): value for _, data, value in token.top} for token in tokens
            ],
            "text_offset": [token.offset for token in tokens],
        }


def _name_of(data: bytes) -> str:
    """A token's text; for a part of a character its bytes, as `bytes:\\xe2`: many tokens would
    share one replacement character, and these are keys."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _read(ask: Ask) -> Wanted:
    """The request. Raises msgspec.DecodeError, BadRequest for what this model cannot do."""
    wanted: Wanted = _READERS[ask.dialect].decode(ask.body)
    cannot = {"`n` above 1": (wanted.n or 1) > 1}
    if isinstance(wanted, _Chat):
        shape = (wanted.response_format or {}).get("type", "text")
        cannot |= {"`tools`": bool(wanted.tools), f"`response_format` {shape}": shape != "text"}
    else:
        cannot |= {"`echo`": wanted.echo, "`suffix`": bool(wanted.suffix)}
    for what, is_asked in cannot.items():
        if is_asked:
            raise BadRequest(
                f"{what}: this small language model continues text and no more. Leave it out, or "
                "name another model."
            )
    return wanted


def _num_logprobs(wanted: Wanted) -> int | None:
    if isinstance(wanted, _Completion):
        return wanted.logprobs
    return (wanted.top_logprobs or 0) if wanted.logprobs else None


def _sampling(wanted: Wanted) -> "Sampling":
    """Raises LmError for values out of range."""
    from twin.lm.sampling import Sampling

    limit = wanted.max_tokens
    if isinstance(wanted, _Chat) and wanted.max_completion_tokens is not None:
        limit = wanted.max_completion_tokens
    stop = [wanted.stop] if isinstance(wanted.stop, str) else wanted.stop or []
    given = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty",
                     "presence_penalty", "frequency_penalty", "seed", "logit_bias")
        if (value := getattr(wanted, name)) is not None
    }  # fmt: skip
    return Sampling(
        max_tokens=DEFAULT_MAX_TOKENS if limit is None else limit,
        stop=tuple(text for text in stop if text),
        top_logprobs=_num_logprobs(wanted),
        **given,
    )


def _prompt_of(wanted: Wanted, generator: "Generator") -> tuple[Any, str]:
    """Tokens to continue, and a name for the conversation (empty where it is none). Raises
    BadRequest, LmError."""
    if isinstance(wanted, _Completion):
        prompt = wanted.prompt
        if isinstance(prompt, list) and len({type(part) for part in prompt}) > 1:
            raise BadRequest("`prompt` mixes texts and token numbers: send one kind.")
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
            if len(prompt) > 1:
                raise BadRequest("Several prompts in one request: send a request for each.")
            prompt = prompt[0]
        return generator.tokens_of(prompt), wanted.prompt_cache_key or ""  # type: ignore[arg-type]
    turns = [(message.role, _text_of(message.content)) for message in wanted.messages]
    if not turns:
        raise BadRequest("`messages` is empty. Send at least one.")
    name = wanted.prompt_cache_key
    if name is None:  # the beginning of a conversation tells it from others
        first_user = next((n for n, (role, _) in enumerate(turns) if role == "user"), 0)
        name = msgspec.json.encode(turns[: first_user + 1]).decode()
    return _as_tokens(turns, generator), name


_ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip


def _as_tokens(turns: Sequence[tuple[str, str]], generator: "Generator") -> Any:
    """Each turn behind its control token, the answer's last; plain lines where the vocabulary has
    no control tokens. A text cannot forge a turn: it is encoded without control."""
    from twin.lm.generate import encode

    tokenizer = generator.tokenizer
    control = tokenizer.control
    if not all(f"<|{role}|>" in control for role in ("system", "user", "assistant")):
        return generator.tokens_of("\n".join(text for _, text in turns))
    tokens: list[int] = []
    for role, text in turns:
        known = _ROLES.get(role)
        if known is None:
            raise BadRequest(f"`{role[:40]}` is no role. Use system, user, assistant or tool.")
        tokens.append(control.get(f"<|{known}|>", control["<|user|>"]))
        tokens.extend(int(token) for token in encode(tokenizer, text))
    return generator.tokens_of([*tokens, control["<|assistant|>"]])


def _text_of(content: Text) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        if part.get("type") not in ("text", "input_text", "output_text", "refusal"):
            raise BadRequest(
                f"This model reads text, and no `{str(part.get('type'))[:40]}`. Leave it out, or "
                "name another model."
            )
        parts.append(str(part.get("text", part.get("refusal", ""))))
    return "".join(parts)


def _error(dialect: DialectName, status: int, message: str) -> WholeReply:
    extra = [(b"retry-after", b"1")] if status == 503 else []
    return WholeReply(status, error_body(dialect, status, message, "local", ""), extra)


def _too_slow(what: str, seconds: float) -> BackendTimeout:
    return BackendTimeout(
        f"The local model did not {what} within {seconds:g} s. Ask for less, or raise the model's "
        "limits."
    )


def _loop_time(until: float) -> float:
    """A moment of `time.monotonic` on the running loop's clock."""
    return asyncio.get_running_loop().time() + until - time.monotonic()
