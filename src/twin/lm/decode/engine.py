"""Decoding: a token for each of several streams at a time, natively where that is possible.

Owns the choice (native or torch, which weights) and says it: `name`, `fallback`. A stream's numbers
do not depend on the other streams of its batch. Neither samples (`sampling`) nor schedules streams
(`generate`).
"""

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from twin.lm import state as states
from twin.lm.decode.library import Packed, load, why_not
from twin.lm.decode.packing import Weights, aligned
from twin.lm.decode.states import ArrayState, EngineState, TupleState
from twin.lm.errors import BadConfig, BadTokens, KernelUnavailable
from twin.lm.state import State

if TYPE_CHECKING:
    from twin.lm.model import HybridLM

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64] | Sequence[int]
Choice = Literal["auto", "fp32", "bf16", "int8"]

PREFILL = 1024
"""Tokens that the model reads at once: bounds the memory of a long prompt."""
SHORT = 48
"""Up to so many tokens the native step is faster than torch's forward pass."""


class Engine:
    """One model, ready to continue streams. Safe to use from one thread at a time."""

    def __init__(self, model: "HybridLM", *, weights: Choice = "auto", threads: int = 1) -> None:
        """Puts the model into evaluation mode. `weights`: `auto` is int8, the fastest wherever
        it was measured, and within 0.005 nats. Raises BadConfig."""
        if weights not in ("auto", "fp32", "bf16", "int8") or threads < 1:
            raise BadConfig(
                f"weights = {weights!r}, threads = {threads}: use auto, fp32, bf16 or int8 and "
                "one thread or more."
            )
        self.model = model.eval()
        self.config = model.config
        self.threads = threads
        self.fallback = why_not(model)
        """Why torch decodes; empty where the native code does."""
        self._library: ctypes.CDLL | None = None
        if not self.fallback:
            try:
                self._library = load()
            except KernelUnavailable as error:
                self.fallback = str(error)
        self.weights: Weights = "fp32"
        self._packed: Packed | None = None
        if self._library is not None:
            self.weights = "int8" if weights == "auto" else weights
            self._packed = Packed(model, self.weights)
            self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
            self._scratch: dict[int, npt.NDArray[np.uint8]] = {}
            self._stride = int(self._library.decode_logits_stride(self._packed.network))

    @property
    def name(self) -> str:
        """`native int8`, or `torch`."""
        return "torch" if self._packed is None else f"native {self.weights}"

    @property
    def weight_bytes(self) -> int:
        """What the weights take; a token of one stream reads all but the tables of n-grams."""
        if self._packed is not None:
            return self._packed.num_bytes
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @property
    def forms(self) -> dict[str, Weights]:
        """What each matrix was turned into; everything else is float32."""
        return {} if self._packed is None else dict(self._packed.forms)

    def init_state(self, n: int) -> EngineState:
        """n streams before their first token."""
        with torch.no_grad():
            return self.state_of(self.model.init_state(n))

    def state_of(self, state: State) -> EngineState:
        """The same streams as the model's tuple, in new memory. Raises BadState."""
        if self._packed is not None:
            return ArrayState.of(self.config, state)
        states.check(self.config, state, state[0].shape[0])
        return TupleState.of(state)

    def step(self, tokens: Tokens, state: EngineState) -> Logits:
        """One token (n,) for each stream; `state` moves on. Logits (n, X) of the next, in memory of
        their own. Raises BadTokens."""
        numbers = self._checked(tokens, len(state))
        if self._packed is None:
            return self._torch_step(numbers, cast(TupleState, state))
        logits = self._logits(len(state))
        array = cast(ArrayState, state)

        def rows(begin: int, end: int, worker: int) -> None:
            assert self._library is not None
            assert self._packed is not None
            self._library.decode_step(
                self._packed.network, numbers[begin:].ctypes.data,
                array.data[begin:].ctypes.data, logits[begin:].ctypes.data,
                self._scratch_of(worker, end - begin).ctypes.data, end - begin,
            )  # fmt: skip

        self._over(len(state), rows)
        return logits[:, : self.config.vocab_size]

    def run(
        self, tokens: Tokens, state: EngineState, steps: int, *, temperature: float = 0.0,
        seeds: Sequence[int] = (), place: int = 0,
    ) -> npt.NDArray[np.int64]:  # fmt: skip
        """Continues each stream by `steps` tokens without coming back to Python: (n, steps).

        Greedy at temperature 0; else each stream draws with its own seed, its t-th number being
        `uniform(seed, place + t)`. `tokens` (n,) are read first."""
        n = len(state)
        current = self._checked(tokens, n)
        own = np.array([seeds[i] if i < len(seeds) else i for i in range(n)], np.uint64)
        out = np.zeros((n, steps), np.int64)
        if self._packed is None:
            from twin.lm.sampling import draw, uniform

            for t in range(steps):
                logits = self.step(current, state)
                draws = [uniform(int(seed), place + t) for seed in own]
                current = np.array(
                    [draw(row, temperature, u) for row, u in zip(logits, draws, strict=True)],
                    np.int64,
                )
                out[:, t] = current
            return out
        logits, last = self._logits(n), np.zeros(n, np.int64)
        array = cast(ArrayState, state)

        def rows(begin: int, end: int, worker: int) -> None:
            assert self._library is not None
            assert self._packed is not None
            self._library.decode_run(
                self._packed.network, current[begin:].ctypes.data, array.data[begin:].ctypes.data,
                logits[begin:].ctypes.data, self._scratch_of(worker, end - begin).ctypes.data,
                end - begin, steps, temperature, own[begin:].ctypes.data, place,
                last[begin:].ctypes.data, out[begin:].ctypes.data,
            )  # fmt: skip

        self._over(n, rows)
        return out

    def prefill(self, tokens: Tokens, state: EngineState) -> Logits | None:
        """Reads a prompt (T,) into a state of one stream: logits (X,) after its last token, None
        for an empty one. Long prompts go through the model's forward pass, in chunks."""
        numbers = self._checked(tokens, None)
        assert len(state) == 1, "a prompt belongs to one stream"
        if len(numbers) == 0:
            return None
        if len(numbers) <= SHORT and self._packed is not None:
            for number in numbers:
                logits = self.step([int(number)], state)
            return cast(Logits, logits[0])
        with torch.no_grad():
            tensors = state.to_model()
            device = self.model.embed.weight.device
            tensors = tuple(tensor.to(device) for tensor in tensors)
            for begin in range(0, len(numbers), PREFILL):
                part = torch.from_numpy(numbers[begin : begin + PREFILL]).to(device)
                hidden, tensors = self.model.hidden(part[None], tensors)
            last = torch.nn.functional.linear(hidden[0, -1], self.model.head_weight)
        _replace(state, self.state_of(tensors))
        return cast(Logits, last.float().cpu().numpy())

    def _torch_step(self, numbers: npt.NDArray[np.int64], state: TupleState) -> Logits:
        """One by one: caches of attention anchors differ in length from stream to stream."""
        device = self.model.embed.weight.device
        rows = []
        with torch.no_grad():
            for place, stream in enumerate(state.streams):
                token = torch.from_numpy(numbers[place : place + 1]).to(device)
                logits, state.streams[place] = self.model.step(token, stream)
                rows.append(logits[0].float().cpu().numpy())
        return np.stack(rows) if rows else np.zeros((0, self.config.vocab_size), np.float32)

    def _checked(self, tokens: Tokens, n: int | None) -> npt.NDArray[np.int64]:
        numbers = np.ascontiguousarray(tokens, np.int64)
        if numbers.ndim != 1 or (n is not None and len(numbers) != n):
            raise BadTokens(f"Tokens of shape {numbers.shape} for {n} streams. Give one for each.")
        size = self.config.vocab_size
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < size):
            raise BadTokens(
                f"Token {numbers.min() if numbers.min() < 0 else numbers.max()} is not among the "
                f"{size} of this model. Use its own tokenizer."
            )
        return numbers

    def _over(self, n: int, rows: Callable[[int, int, int], None]) -> None:
        """The streams in equal shares, a thread for each share; ctypes lets Python go on."""
        workers = min(self.threads, n)
        if workers <= 1 or self._pool is None:
            rows(0, n, 0)
            return
        bounds = [n * part // workers for part in range(workers + 1)]
        jobs = [
            self._pool.submit(rows, bounds[part], bounds[part + 1], part) for part in range(workers)
        ]
        for job in jobs:
            job.result()

    def _logits(self, n: int) -> Logits:
        block = aligned(4 * n * self._stride)
        return cast(Logits, block.view(np.float32).reshape(n, self._stride))

    def _scratch_of(self, worker: int, n: int) -> npt.NDArray[np.uint8]:
        assert self._library is not None
        assert self._packed is not None
        needed = 4 * int(self._library.decode_scratch(self._packed.network, n))
        if worker not in self._scratch or len(self._scratch[worker]) < needed:
            self._scratch[worker] = aligned(needed)
        return self._scratch[worker]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossChange:
    """What other weights cost on a text, in nats per token."""

    model_nats: float
    engine_nats: float
    num_tokens: int

    @property
    def change(self) -> float:
        return self.engine_nats - self.model_nats


def measure_loss_change(engine: Engine, tokens: Tokens) -> LossChange:
    """Reads the text with the engine, token by token, and with the float32 model. Raises BadTokens
    for fewer than two tokens."""
    numbers = np.ascontiguousarray(tokens, np.int64)
    if len(numbers) < 2:
        raise BadTokens("One token predicts nothing. Give two or more.")
    state = engine.init_state(1)
    ours = 0.0
    for here, following in itertools.pairwise(numbers):
        logits = engine.step([int(here)], state)[0].astype(np.float64)
        top = logits.max()
        ours += float(top + math.log(np.exp(logits - top).sum()) - logits[following])
    theirs, tensors = 0.0, None
    device = engine.model.embed.weight.device
    with torch.no_grad():
        for begin in range(0, len(numbers) - 1, PREFILL):
            part = torch.from_numpy(numbers[begin : begin + PREFILL + 1]).to(device)
            logits_BTX, tensors = engine.model(part[None, :-1], tensors)
            theirs += float(
                torch.nn.functional.cross_entropy(logits_BTX[0], part[1:], reduction="sum")
            )
    count = len(numbers) - 1
    return LossChange(model_nats=theirs / count, engine_nats=ours / count, num_tokens=count)


def _replace(state: EngineState, by: EngineState) -> None:
    """The one stream's numbers, in the memory that the caller holds."""
    if isinstance(state, ArrayState) and isinstance(by, ArrayState):
        state.data[:] = by.data
    elif isinstance(state, TupleState) and isinstance(by, TupleState):
        state.streams[:] = by.streams
