"""Which variant is better, at equal parameters: at equal tokens, and at equal CPU time.

Owns the plan and which runs it takes; `cells` runs them, `standings` says what they mean.

Equal time means: as many tokens as the variant can learn from in that CPU time on one thread, at
the speed measured in its own runs at equal tokens (the median over seeds). The learning-rate
schedule of a run depends on its budget, so both questions need runs of their own; the first
variant's are the same where the time is what its tokens took.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twin.lm.cells import Cell, Mode, Outcome, Pool, Tell, Work, processes
from twin.lm.errors import BadConfig
from twin.lm.place import claimed
from twin.lm.recipe import Recipe
from twin.lm.variants import TOLERANCE, Variant, equal_variants

if TYPE_CHECKING:
    from twin.lm.corpus import Corpus

SPEED_STEPS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared. `recipe` gives everything that the variants share."""

    names: tuple[str, ...]
    recipe: Recipe
    num_seeds: int = 3
    tokens: int = 0
    """Of each run at equal tokens; 0: as many as the first variant learns from in `cpu_s`."""
    cpu_s: float = 0.0
    """CPU seconds of each run at equal time; 0: what the first variant's tokens take."""
    modes: tuple[Mode, ...] = ("tokens", "time")
    jobs: int = 1
    tolerance: float = TOLERANCE
    """Share by which parameters may differ; tiny networks cannot be made more equal."""

    def __post_init__(self) -> None:
        if not self.tokens and not self.cpu_s:
            raise BadConfig("Nothing says how long a run is. Give tokens or a time budget.")
        if self.num_seeds < 1 or self.jobs < 1:
            raise BadConfig("Seeds and jobs are at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A finished tournament: variants, and what each run of each mode gave."""

    variants: tuple[Variant, ...]
    tokens: int
    cpu_s: float
    outcomes: dict[Mode, tuple[Outcome, ...]]


def run_tournament(
    plan: Plan,
    corpus: "Corpus",
    cache: Path,
    folder: Path,
    *,
    tell: Tell = lambda what, done, total: None,
    pool: Pool = processes,
) -> Found:
    """Runs what is not yet in `folder`, and returns everything. `cache`: where `prepare` left the
    corpus.

    Raises BadConfig for unknown or unequal variants before anything runs, LmError where a run ended
    without a result.
    """
    base = plan.recipe.shape(corpus.tokenizer.vocab_size)
    variants = equal_variants(plan.names, base, tolerance=plan.tolerance)
    with claimed(folder, doing="compares in"):
        work = Work(
            folder=folder, cache=cache, corpus_key=corpus.key, jobs=plan.jobs, tell=tell, pool=pool
        )
        return _run(plan, variants, work)


def _run(plan: Plan, variants: Sequence[Variant], work: Work) -> Found:
    tokens, cpu_s = plan.tokens and _rounded(plan, plan.tokens), plan.cpu_s
    if not tokens:
        tokens = _rounded(plan, cpu_s * _speed(work.run([_speed_cell(plan, variants[0])])))
    outcomes: dict[Mode, tuple[Outcome, ...]] = {}
    if "tokens" in plan.modes:
        cells = _cells(plan, variants, "tokens", {one.name: tokens for one in variants})
        outcomes["tokens"] = tuple(work.run(cells))
    if "time" in plan.modes:
        speeds = _speeds(plan, variants, outcomes.get("tokens"), work)
        cpu_s = cpu_s or tokens / speeds[variants[0].name]
        budgets = {name: _rounded(plan, cpu_s * speed) for name, speed in speeds.items()}
        if not plan.cpu_s:
            budgets[variants[0].name] = tokens
        outcomes["time"] = tuple(work.run(_cells(plan, variants, "time", budgets)))
    return Found(variants=tuple(variants), tokens=tokens, cpu_s=cpu_s, outcomes=outcomes)


def _speeds(
    plan: Plan, variants: Sequence[Variant], known: Sequence[Outcome] | None, work: Work
) -> dict[str, float]:
    """Tokens per CPU second of each variant."""
    if known is None:
        known = work.run([_speed_cell(plan, variant) for variant in variants])
    return {
        variant.name: _speed([one for one in known if one.variant == variant.name])
        for variant in variants
    }


def _speed(outcomes: Iterable[Outcome]) -> float:
    return statistics.median(one.tokens_per_cpu_s for one in outcomes)


def _rounded(plan: Plan, tokens: float) -> int:
    """Whole steps, at least one."""
    step = plan.recipe.batch * plan.recipe.window
    return max(1, round(tokens / step)) * step


def _speed_cell(plan: Plan, variant: Variant) -> Cell:
    tokens = SPEED_STEPS * plan.recipe.batch * plan.recipe.window
    return Cell(variant=variant.name, seed=0, mode="speed",
                recipe=_recipe(plan, variant, 0, tokens))  # fmt: skip


def _cells(
    plan: Plan, variants: Sequence[Variant], mode: Mode, tokens: dict[str, int]
) -> list[Cell]:
    """Seed by seed, so that what slows the machine for a while slows all variants."""
    return [
        Cell(variant=variant.name, seed=seed, mode=mode,
             recipe=_recipe(plan, variant, seed, tokens[variant.name]))
        for seed in range(plan.num_seeds)
        for variant in variants
    ]  # fmt: skip


def _recipe(plan: Plan, variant: Variant, seed: int, tokens: int) -> Recipe:
    """The shared recipe with this shape. The seed gives first weights and the order of the data."""
    shape = variant.config.to_dict()
    del shape["vocab_size"]
    return replace(
        plan.recipe, model=shape, seed=plan.recipe.seed + seed, tokens=tokens, steps=0,
        time_budget_s=0.0, validate_every_s=-1.0, threads=1, stop_early=False,
    )  # fmt: skip
