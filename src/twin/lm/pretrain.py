"""The training loop: from a recipe and a corpus to a model in a folder.

Owns the clock, the order of a step, validations, checkpoints and the end. The clock counts steps,
validations and checkpoints; it does not count set-up (text, kernels, the first trial step) nor the
last validation. Knows nothing of terminals: whoever wants to see is told through `tell`.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twin.lm import memory, metrics, place, resume, schedule, shards, snapshot, state
from twin.lm.batches import Batches, check_fits
from twin.lm.checkpoint import is_checkpoint, load_config, load_model, save_model
from twin.lm.config import HybridConfig
from twin.lm.corpus import Corpus
from twin.lm.errors import BadConfig
from twin.lm.evaluate import Evaluation, count_windows, evaluate
from twin.lm.kernels.registry import Kernels, choose
from twin.lm.model import HybridLM
from twin.lm.optim import Average, Gradients, Optimizers, Rates
from twin.lm.precision import FORMATS, autocast, choose_precision, compute_dtype
from twin.lm.recipe import Recipe
from twin.lm.standing import Clock, Means, silent
from twin.lm.standing import Result as Result
from twin.lm.standing import Status as Status
from twin.lm.state import State
from twin.lm.stopping import StopRules, state_entropy
from twin.lm.teachers import Teachers
from twin.lm.team import Team, gather

REPORT_EVERY: Final = 10
"""Steps between two lines of the metrics."""
VALIDATIONS: Final = 8
MAX_VALIDATION_SHARE: Final = 0.05
MIN_WINDOWS: Final = 8
"""Of the held-out part in a validation, however slow it is."""
DEFAULT_VALIDATION_S: Final = 60.0
_APART: Final = 1_000_003
"""Between the seeds of two processes."""


def pretrain(
    recipe: Recipe,
    corpus: Corpus,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    tell: Callable[[Status], None] = silent,
    tell_validation: Callable[[int, int], None] = lambda done, total: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    kernels: str | Kernels | None = None,
    device: torch.device | None = None,
) -> Result:
    """Trains a network and leaves it in `folder`; `resume` goes on where a run there was ended,
    `force` replaces what is there.

    `tell_validation` hears how far the last validation is, in tokens. `asked_to_stop` is asked
    between steps: the run is saved there and ends in KeyboardInterrupt.
    `kernels` overrides the recipe's. Raises BadConfig, BadCorpus, BadCheckpoint, NotEnoughMemory,
    KernelUnavailable, each before the first step.
    """
    if resume and not snapshot.exists(folder):
        snapshot.load(folder)  # says what is missing, and leaves no folder behind
    if not resume and not force:
        place.check_free(folder)
    run = Run(recipe, corpus, folder, kernels=kernels, device=device)
    run.asked_to_stop, run.tell_validation = asked_to_stop, tell_validation
    with place.claimed(folder) if run.leads else nullcontext():
        if run.leads and not resume:
            place.vacate(folder, force=force)
        return run.start(tell, resume=resume)


class Run:
    """One run from set-up to end; mutable, used once."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        folder: Path,
        *,
        kernels: str | Kernels | None = None,
        device: torch.device | None = None,
        team: Team | None = None,
    ) -> None:
        self.recipe, self.corpus, self.folder = recipe, corpus, folder
        self.team = team or gather()
        self.device = device or self.team.device
        self.leads = self.team.rank == 0
        if recipe.batch % self.team.world:
            raise BadConfig(
                f"A batch of {recipe.batch} cannot be shared by {self.team.world} processes. Use "
                f"`--batch {recipe.batch - recipe.batch % self.team.world + self.team.world}`."
            )
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.config: HybridConfig = recipe.shape(corpus.tokenizer.vocab_size)
        check_fits(len(corpus.train.tokens), recipe.batch, recipe.window)
        chosen = recipe.kernels if kernels is None else kernels
        chosen = choose(chosen, self.device) if isinstance(chosen, str) else chosen
        self.kernels = chosen
        teachers = [folder / one for one in recipe.teachers]
        self.foresee_memory([load_config(one) for one in teachers])
        self.model = HybridLM(self.config, kernels=chosen, seed=recipe.seed).to(self.device)
        self.team.share(self.model)
        self.precision = choose_precision(
            self.device, recipe.precision, has_half=self.model.kernels.has_half
        )
        if recipe.compile:
            for block in self.model.blocks:
                block.compile()
        self.dtype = compute_dtype(self.device, recipe.precision)
        self.teachers: Teachers | None = None
        if teachers:
            self.teachers = Teachers(teachers, corpus, kernels=chosen, device=self.device)
        self.called: nn.Module = self.model
        self.optimizers = Optimizers(
            self.model, rates(recipe), newton_dtype=FORMATS[self.precision]
        )
        self.gradients = Gradients(self.model, self.team.total)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        self.batches = Batches(
            corpus.train.tokens,
            # Keys and values of attention cannot be emptied for some rows of a batch.
            order="windows" if self.config.attention_every else recipe.order,
            seed=recipe.seed,
            span=recipe.span,
            rank=self.team.rank,
            world=self.team.world,
        )
        torch.manual_seed(recipe.seed + _APART * self.team.rank)
        self.rules = StopRules(warmup_over=max(2 * recipe.warmup, 0.1))
        self.clock = Clock()
        self.means = Means()
        self.state: State | None = None
        self.step = 0
        self.tokens = 0
        self.train_loss = math.nan
        self.validation: float | None = None
        self.entropy: float | None = None
        self.validation_windows = 0
        """Of the held-out part that are looked at during training; 0: all."""
        self.looked_s = 0.0
        """Spent in validations, on the clock."""
        self._validation_s = 0.0
        self._kept_at: tuple[int, int] | None = None
        """Step and tokens of the saved model where it is not the last."""
        self.tell_validation: Callable[[int, int], None] = lambda done, total: None
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.log: metrics.Log | None = None

    def foresee_memory(self, teachers: Sequence[HybridConfig]) -> None:
        """Raises NotEnoughMemory, on a CPU. All processes of this machine take of the same."""
        if self.device.type != "cpu":
            return
        recipe, world = self.recipe, self.team.world
        free = memory.available_bytes()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
        step = memory.Step(
            config=self.config,
            batch=recipe.batch // world,
            window=recipe.window,
            kernels=self.kernels.name,
            teachers=tuple(teachers),
            sharing=self.team.sharing,
        )
        memory.foresee(step, available=None if free is None else free // here, world=world)

    # ---- the loop

    def start(self, tell: Callable[[Status], None], *, resume: bool) -> Result:
        """From the first step, or from where a run in the folder was ended."""
        if resume:
            self.restore()
        self.team.wait()
        return self.go(tell)

    def go(self, tell: Callable[[Status], None]) -> Result:
        recipe = self.recipe
        if self.leads:
            self.log = metrics.Log(self.folder, from_step=self.step)
        self.model.train()
        self.called = self.team.wrap(self.model)
        self._try_out()
        if not self.step:
            self._choose_windows()
        verdict = ""
        self.clock.start()
        validated = saved = self.clock.seconds
        reported = validated - self.looked_s
        reported_tokens = self.tokens
        kept = self.step > 0
        while not verdict and (progress := self.progress()) < 1.0:
            self._leave_if_asked()
            verdict = self._one_step(progress)
            now = self.team.first(self.clock.seconds)
            if self.step % REPORT_EVERY == 0 and self.means.losses:
                trained = now - self.looked_s
                speed = (self.tokens - reported_tokens) / max(trained - reported, 1e-9)
                tell(self._report(progress, speed))
                reported, reported_tokens = trained, self.tokens
            if now - validated >= self._validate_every():
                verdict = verdict or self._validate()
                validated = self.team.first(self.clock.seconds)
            # Also after the first step, so that there is something to go on from.
            if recipe.checkpoint_every_s > 0 and (
                now - saved >= recipe.checkpoint_every_s or (self.step and not kept)
            ):
                self.save()
                kept = True
                saved = self.team.first(self.clock.seconds)
        seconds = self.team.first(self.clock.seconds)
        self.save(seconds)
        if self.means.losses:
            trained = seconds - self.looked_s
            speed = (self.tokens - reported_tokens) / max(trained - reported, 1e-9)
            tell(self._report(min(self.progress(), 1.0), speed))
        return self._end(verdict, seconds)

    def _leave_if_asked(self) -> None:
        """Between two steps, where everything can be kept."""
        if self._agreed(self.asked_to_stop()):
            if self.step:
                self.save()
            raise KeyboardInterrupt

    def progress(self) -> float:
        """Share of the budget that is spent."""
        kind, amount = self.recipe.budget
        spent = {"seconds": self.clock.seconds, "steps": self.step, "tokens": self.tokens}[kind]
        return self.team.first(spent / amount) if kind == "seconds" else spent / amount

    def _one_step(self, progress: float) -> str:
        """Forward, backward, update. Returns what ends the run, or nothing."""
        recipe = self.recipe
        window = schedule.stage(recipe.stages, progress, recipe.window)
        batch = recipe.batch * recipe.window // window
        tokens_BT1, fresh_B = self.batches.next(batch, window)
        lr = self.lr(progress)
        loss = self._forward(tokens_BT1, fresh_B)
        value = self.team.mean(loss.item())
        if not math.isfinite(value):
            return self._left_out()
        torch.autograd.backward([loss])
        norms = self.gradients.measure_and_clip(recipe.clip)
        if not math.isfinite(norms.total):
            return self._left_out()
        self.optimizers.step(lr)
        self.step += 1
        self.tokens += batch * window
        if self.average is not None:
            self.average.update(self.step)
        self.means.losses.append(value)
        self.means.norms.append(norms)
        self.train_loss = (
            value if math.isnan(self.train_loss) else 0.98 * self.train_loss + 0.02 * value
        )
        stop = self.rules.good_step(self.step, progress, value, norms.ratio)
        return stop or "" if recipe.stop_early else ""

    def _forward(self, tokens_BT1: np.ndarray, fresh_B: np.ndarray) -> Tensor:
        tokens = torch.from_numpy(tokens_BT1).to(self.device, non_blocking=True)
        before = state.begin(self.model.init_state, self.state, torch.from_numpy(fresh_B))
        with autocast(self.device, self.recipe.precision):
            logits_BTX, after = self.called(tokens[:, :-1], before)
            targets = tokens[:, 1:]
            if self.teachers is not None:
                targets = self.teachers.targets(tokens[:, :-1], targets, self.recipe.teaching)
        self.state = state.detach(after)
        return F.cross_entropy(logits_BTX.flatten(0, 1), targets.flatten(0, 1))

    def _left_out(self) -> str:
        """Nothing is learnt from this batch, and nothing of it is carried on."""
        self.optimizers.clear()
        self.state = None
        return self.rules.bad_step() or ""

    def lr(self, progress: float) -> float:
        """Multiplier of the learning rates."""
        recipe = self.recipe
        return schedule.multiplier(
            recipe.schedule,
            # Of the middle of the step in a budget of steps, so that the first is not for nothing.
            progress + (0.5 / recipe.steps if recipe.steps else 0.0),
            warmup=recipe.warmup,
            decay=recipe.decay,
            floor=recipe.floor,
        )

    def _try_out(self) -> None:
        """One forward and backward pass for nothing: kernels are built and memory is taken before
        the clock starts. Leaves no trace."""
        shape = (self.recipe.batch // self.team.world, self.recipe.window + 1)
        kept = self.state
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            loss = self._forward(np.zeros(shape, dtype=np.int64), np.ones(shape[0], dtype=np.bool_))
            torch.autograd.backward([loss])
        self.optimizers.clear()
        self.state = kept

    # ---- what is seen of it

    def _report(self, progress: float, speed: float) -> Status:
        means, seconds = self.means, self.clock.seconds
        status = Status(
            step=self.step,
            progress=min(progress, 1.0),
            seconds=seconds,
            eta_s=seconds * (1.0 - progress) / progress if progress > 0 else math.inf,
            tokens=self.tokens,
            tokens_per_s=speed,
            loss=sum(means.losses) / len(means.losses),
            validation=self.validation,
            lr=self.lr(progress),
            gradient_norm=sum(norms.total for norms in means.norms) / len(means.norms),
            gradient_ratio=means.ratio(),
            state_entropy=self.entropy,
        )
        self.means = Means()
        line = {k: v for k, v in asdict(status).items() if k not in ("eta_s", "validation")}
        self._write(line)
        return status

    def _write(self, line: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)

    def _validate_every(self) -> float:
        if self.recipe.validate_every_s:
            wanted = self.recipe.validate_every_s
            return wanted if wanted > 0 else math.inf
        # A short budget is for learning: at most a twentieth of it goes into looking.
        return max(self._interval(), self._validation_s / MAX_VALIDATION_SHARE)

    def _interval(self) -> float:
        """Seconds between two validations, as asked for or by default."""
        kind, amount = self.recipe.budget
        default = amount / VALIDATIONS if kind == "seconds" else DEFAULT_VALIDATION_S
        return max(self.recipe.validate_every_s, default)

    def _choose_windows(self) -> None:
        """So many windows of the held-out part that a validation takes its share of the time: found
        out before the first one, which on a long text would else eat the whole budget."""
        tokens, window = self.corpus.held_out.tokens, self.recipe.window
        total = count_windows(tokens, window)
        if total <= MIN_WINDOWS or self.recipe.validate_every_s < 0:
            return
        self._evaluate(windows=1)
        began = time.perf_counter()
        self._evaluate(windows=MIN_WINDOWS)
        each_s = (time.perf_counter() - began) / MIN_WINDOWS
        fitting = int(MAX_VALIDATION_SHARE * self._interval() / max(each_s, 1e-9))
        fitting = int(self.team.first(float(min(max(fitting, MIN_WINDOWS), total))))
        self.validation_windows = fitting if fitting < total else 0

    def _validate(self) -> str:
        """The loss on the held-out part, or on windows all over it; the better model so far is left
        in the folder. All processes go by what the first one found."""
        began = time.perf_counter()
        if self.average is not None:
            self.average.swap()
        try:
            found = self._evaluate(windows=self.validation_windows)
            value = self.team.first(found.nats_per_token)
            if value < self.rules.best_validation:
                averaged = self.average is not None
                self._save_model({"validation": value, "averaged": averaged, "finished": False})
        finally:
            if self.average is not None:
                self.average.swap()
        self.validation = value
        entropy = self._state_entropy()
        entropy = self.team.first(math.nan if entropy is None else entropy)
        self.entropy = None if math.isnan(entropy) else entropy
        self._write(
            {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.clock.seconds,
                "val": value,
                "entropy": found.entropy,
                "state_entropy": self.entropy,
            }
        )
        self._validation_s = self.team.first(time.perf_counter() - began)
        self.looked_s += self._validation_s
        stop = self.rules.validation(value, self.train_loss, self.entropy)
        return stop or "" if self.recipe.stop_early else ""

    def _evaluate(
        self,
        *,
        carried: bool = False,
        windows: int = 0,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        return evaluate(
            self.model,
            self.corpus.held_out.tokens,
            window=self.recipe.window,
            carried=carried,
            precision=self.recipe.precision,
            windows=windows,
            tell=tell,
        )

    def _state_entropy(self) -> float | None:
        parts = state.layout(self.config)
        return state_entropy(
            [t for part, t in zip(parts, self.state or (), strict=False) if part.name == "wkv"]
        )

    # ---- the end

    def _end(self, verdict: str, seconds: float) -> Result:
        """The last validation, of the best model there is: the last weights, their average, or what
        an earlier validation has left in the folder."""
        found, averaged = self._look_at_last()
        saved = self._agreed(found.nats_per_token <= self.rules.best_validation)
        if not saved and self._agreed(is_checkpoint(self.folder)):
            saved, averaged = True, self._take_kept()
        if self.validation_windows or self._kept_at:
            found = self._evaluate(tell=self._validating)
        carried = self._evaluate(carried=True, tell=self._validating)
        lost = "" if saved else " No model was saved."
        held = self.corpus.held_out
        result = Result(
            folder=self.folder,
            finished=not verdict,
            verdict=(verdict or "The budget is spent.") + lost,
            warnings=(*self.rules.warnings, *(self.teachers.warnings if self.teachers else ())),
            parameters=self.model.num_parameters(),
            kernels=self.model.kernels.name,
            precision=self.precision,
            step=self.step,
            tokens=self.tokens,
            epochs=self.batches.epochs,
            seconds=seconds,
            tokens_per_s=self.tokens / max(seconds - self.looked_s, 1e-9) if seconds else 0.0,
            saved=saved,
            model_step=self._kept_at[0] if self._kept_at else self.step,
            train_loss=self.train_loss,
            validation=found.nats_per_token,
            validation_carried=carried.nats_per_token,
            bits_per_byte=found.bits_per_byte(len(held.tokens), held.num_bytes),
            bits_per_byte_carried=carried.bits_per_byte(len(held.tokens), held.num_bytes),
            averaged=averaged,
        )
        if saved:
            figures = asdict(result) | {"folder": self.folder.name}
            self._save_model(figures)
        if self.leads:
            metrics.draw(
                self.folder, f"{self.folder.name}: {result.parameters / 1e6:.2f}M parameters"
            )
        self.team.wait()  # all may read the model from here on
        return result

    def _look_at_last(self) -> tuple[Evaluation, bool]:
        """What the last weights or their average lose, whichever is less, and whether it is the
        average; that one is left in the model."""
        some = self.validation_windows
        found = self._evaluate(windows=some, tell=self._validating)
        if self.average is None:
            return found, False
        self.average.swap()
        mean = self._evaluate(windows=some, tell=self._validating)
        is_less = mean.nats_per_token <= found.nats_per_token
        if self._agreed(is_less or math.isnan(found.nats_per_token)):
            return mean, True
        self.average.swap()
        return found, False

    def _agreed(self, is_so: bool) -> bool:
        """As the first process sees it: all take the same turn, or shares of different weights
        come together."""
        return bool(self.team.first(float(is_so)))

    def _validating(self, done: int, total: int) -> None:
        """Everything is saved by now: who is asked to stop need not finish looking."""
        if self.asked_to_stop():
            raise KeyboardInterrupt
        self.tell_validation(done, total)

    def _take_kept(self) -> bool:
        """The saved model's weights instead of the last; whether they are an average."""
        kept, _, card = load_model(self.folder, kernels=self.model.kernels)
        shards.load(self.model, kept.state_dict())
        self._kept_at = card["step"], card["tokens"]
        return bool(card["figures"].get("averaged"))

    def _save_model(self, figures: dict[str, Any]) -> None:
        weights = shards.gathered(self.model.state_dict().items(), keep=self.leads)
        if not self.leads:
            return
        step, tokens = self._kept_at or (self.step, self.tokens)
        card = {
            "recipe": self.recipe.to_dict(),
            "corpus": {
                "key": self.corpus.key,
                "num_train_tokens": len(self.corpus.train.tokens),
                "num_held_out_tokens": len(self.corpus.held_out.tokens),
                "num_train_bytes": self.corpus.train.num_bytes,
                "num_held_out_bytes": self.corpus.held_out.num_bytes,
                "left_out": self.corpus.left_out,
            },
            "step": step,
            "tokens": tokens,
            "figures": metrics.without_nan(figures),
            "versions": {"torch": torch.__version__},
            "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
            "unix_seconds": time.time(),
        }
        save_model(self.folder, self.model, self.corpus.tokenizer, card, weights=weights)

    # ---- interruption

    def save(self, seconds: float | None = None) -> None:
        """Everything that is needed to go on exactly here; all processes have to call it."""
        resume.save(self, seconds)
        self.team.wait()  # who ends before it is written may take the first process with it

    def restore(self) -> None:
        """Goes on where `save` was last called in the folder. Raises BadCheckpoint."""
        resume.restore(self)


def saved_recipe(folder: Path) -> Recipe:
    """The recipe of the run that can be continued there. Raises BadCheckpoint."""
    _, rest = snapshot.load(folder)
    return Recipe.from_dict(rest["recipe"])


def rates(recipe: Recipe) -> Rates:
    """What a recipe tells the optimizer."""
    return Rates(
        optimizer=recipe.optimizer,
        matrix_lr=recipe.matrix_lr,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        betas=(recipe.beta1, recipe.beta2),
        blocks=recipe.blocks,
        newton_steps=recipe.newton_steps,
        rwkv_lr=recipe.rwkv_lr,
        mamba_lr=recipe.mamba_lr,
    )
