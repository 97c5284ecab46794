"""One budget for several small networks and for the one that learns from them.

Owns how the budget is shared out, the teachers' shape and seeds, the folder `teachers` within the
model's in which they stay, and going on after an interruption. For text that a budget goes through
many times: one network alone learns it by heart, and what several agree on is not by heart.
"""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from twin.lm import durable, place, snapshot
from twin.lm.checkpoint import load_card
from twin.lm.config import HybridConfig
from twin.lm.corpus import Corpus
from twin.lm.errors import BadCheckpoint, BadConfig, LmError
from twin.lm.pretrain import Result, Run
from twin.lm.recipe import Recipe, changed
from twin.lm.resume import check_text
from twin.lm.standing import Status, silent
from twin.lm.team import gather

MOST_TEACHERS: Final = 16
EACH: Final = 1 / 8
"""Of the budget, for a teacher; three of them and a pupil of 256 channels were measured."""
TOGETHER: Final = 1 / 2
"""Of the budget at most, for all teachers."""
NARROWER: Final = 3 / 4
"""A teacher's width over the pupil's: it has less time, and a smaller network learns faster."""
ALIGNED: Final = 16
WIDTHS_TRIED: Final = 64
_NAMES: Final = tuple(f"{place.TEACHERS}/teacher-{n}" for n in range(1, MOST_TEACHERS + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """The recipes of a taught run; those of `teachers` in the order in which they are trained."""

    whole: Recipe
    """What was shared out."""
    teachers: tuple[Recipe, ...]
    pupil: Recipe
    """Its own `teachers` are folders below its own."""


def share_out(recipe: Recipe, number: int) -> School:
    """`recipe` as a school of `number` teachers and a pupil that costs what `recipe` would.

    Raises BadConfig where the recipe has teachers, or not `order = "windows"`; where there are none
    or too many, or the budget is too small.
    """
    if not 1 <= number <= MOST_TEACHERS:
        raise BadConfig(f"{number} teachers cannot be. Use 1 to {MOST_TEACHERS}.")
    if recipe.teachers:
        raise BadConfig("The recipe names its teachers. Train some for it or name some, not both.")
    kind, amount = recipe.budget
    each = amount * min(EACH, TOGETHER / number)
    each = each if kind == "seconds" else round(each)
    if not each:
        raise BadConfig(f"{amount:.0f} {kind} are too few to be shared out. Give more of them.")
    width = _narrower(recipe.shape(vocab_size=2))
    alone = changed(_with_budget(recipe, each), {"model.d_model": width})
    pupil = _with_budget(recipe, amount - number * each)
    seeds = range(number * recipe.seed + 1, number * (recipe.seed + 1) + 1)
    return School(
        whole=recipe,
        teachers=tuple(replace(alone, seed=seed) for seed in seeds),
        pupil=changed(pupil, {"teachers": _NAMES[:number]}),
    )


def attend(
    school: School,
    corpus: Corpus,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    begin: Callable[[str], None] = lambda who: None,
    ended: Callable[[Result], None] = lambda result: None,
    tell: Callable[[Status], None] = silent,
    tell_validation: Callable[[int, int], None] = lambda done, total: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Trains the teachers, then the pupil, and leaves the pupil in `folder`. The arguments are
    those of `pretrain`; `begin` hears what comes next, `ended` each teacher's figures.

    With `resume` teachers that are done are left as they are, and all once the pupil has begun. A
    teacher that came to nothing ends it: its result is returned. Raises what `pretrain` does,
    before anything is replaced or trained.
    """
    if resume:
        _check_goes_on(school, corpus, folder)
    elif not force:
        place.check_free(folder)
    _check_all(school, corpus, folder)
    team = gather()

    def trained(recipe: Recipe, own: Path) -> Result:
        run = Run(recipe, corpus, own)
        run.asked_to_stop, run.tell_validation = asked_to_stop, tell_validation
        return run.start(tell, resume=snapshot.exists(own))

    with place.claimed(folder) if team.rank == 0 else nullcontext():
        if team.rank == 0:
            if not resume:
                place.vacate(folder, force=force)
            _keep(school, corpus, folder)
        team.wait()
        taught = snapshot.exists(folder)
        for number, (name, recipe) in enumerate(zip(_NAMES, school.teachers, strict=False), 1):
            if taught or _is_done(folder / name, recipe):
                continue
            begin(f"Teacher {number} of {len(school.teachers)}")
            result = trained(recipe, folder / name)
            if not result.saved:
                return replace(result, verdict=f"Teacher {number}: {result.verdict}")
            ended(result)
        begin("Training")
        return trained(school.pupil, folder)


def begun(folder: Path) -> Path | None:
    """The last of the pupil's and its teachers' folders with a run that can go on."""
    last_first = [folder, *(folder / name for name in reversed(_NAMES))]
    return next(filter(snapshot.exists, last_first), None)


def kept(folder: Path) -> tuple[Recipe, int] | None:
    """What a school that was begun there shared out, and among how many teachers; None where none
    was. Raises BadCheckpoint for a damaged record."""
    found = _record(folder)
    return None if found is None else (found[0], found[1])


# ---- before it begins


def _check_goes_on(school: School, corpus: Corpus, folder: Path) -> None:
    found = _record(folder)
    if found is None:
        snapshot.load(folder)  # says so where there is nothing at all
        raise BadConfig(
            f"{folder.name} was begun without teachers. Go on without them, begin anew with "
            "`--force`, or choose another name with `--out`."
        )
    _, number, key = found
    if number != len(school.teachers):
        raise BadConfig(f"{folder.name} was begun with {number} teachers. Go on with as many.")
    check_text(key, corpus)


def _check_all(school: School, corpus: Corpus, folder: Path) -> None:
    """Builds both networks for nothing: what is refused is refused now."""
    Run(school.teachers[0], corpus, folder)
    pupil = Run(replace(school.pupil, teachers=()), corpus, folder)
    pupil.foresee_memory([one.shape(corpus.tokenizer.vocab_size) for one in school.teachers])


def _with_budget(recipe: Recipe, amount: float) -> Recipe:
    """The recipe with another budget of the same kind."""
    kind, _ = recipe.budget
    if kind == "seconds":
        return replace(recipe, time_budget_s=amount)
    return changed(recipe, {kind: int(amount)})


def _narrower(shape: HybridConfig) -> int:
    """Channels of a teacher: the widest such network that its heads and groups can divide."""
    most = int(NARROWER * shape.d_model) // ALIGNED * ALIGNED
    for width in range(most, 0, -ALIGNED)[:WIDTHS_TRIED]:
        with suppress(BadConfig):
            return replace(shape, d_model=width).d_model
    return shape.d_model


# ---- what is kept of it


def _keep(school: School, corpus: Corpus, folder: Path) -> None:
    path = folder / place.SCHOOL
    for name in _NAMES[: len(school.teachers)]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    about = {
        "recipe": school.whole.to_dict(), "teachers": len(school.teachers), "corpus": corpus.key
    }  # fmt: skip
    beside = path.with_suffix(".new")
    durable.write(beside, json.dumps(about).encode())
    os.replace(beside, path)
    durable.flush(path.parent)


def _record(folder: Path) -> tuple[Recipe, int, str] | None:
    """(what was shared out, number of teachers, the corpus's key)."""
    path = folder / place.SCHOOL
    try:
        about = json.loads(path.read_bytes())
        return Recipe.from_dict(about["recipe"]), int(about["teachers"]), str(about["corpus"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, LmError) as error:
        raise BadCheckpoint(
            f"{path} is damaged ({error}). Restore it, or begin anew with `--force`."
        ) from error


def _is_done(folder: Path, recipe: Recipe) -> bool:
    """Whether a teacher of this very recipe has come to its end."""
    try:
        card = load_card(folder)
    except BadCheckpoint:
        return False
    # A model that a validation on the way has left knows of no verdict.
    return "verdict" in card["figures"] and card["recipe"] == recipe.to_dict()
