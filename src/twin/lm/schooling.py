"""One budget for several small networks and for the one that learns from them.

Owns how the budget is shared out, the teachers' shape and seeds, the folder `teachers` within the
model's in which they stay, and going on after an interruption. For text that a budget goes through
many times: one network alone learns it by heart, and what several agree on is not by heart.
"""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from twin.lm import place, snapshot
from twin.lm.checkpoint import is_checkpoint, load_card
from twin.lm.config import HybridConfig
from twin.lm.corpus import Corpus
from twin.lm.errors import BadCheckpoint, BadConfig
from twin.lm.pretrain import Result, pretrain
from twin.lm.recipe import Recipe, changed
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
FOLDER: Final = "teachers"
_NAMES: Final = tuple(f"teacher-{number}" for number in range(1, MOST_TEACHERS + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """The recipes of a taught run; those of `teachers` in the order in which they are trained."""

    teachers: tuple[Recipe, ...]
    pupil: Recipe
    """Its own `teachers` are names below the folder `teachers`."""


def share_out(recipe: Recipe, number: int) -> School:
    """`recipe` as a school of `number` teachers and a pupil that costs what `recipe` would.

    Raises BadConfig where the recipe has teachers, or not `order = "windows"`; where there are none
    or too many, or the budget is too small.
    """
    if not 1 <= number <= MOST_TEACHERS:
        raise BadConfig(f"{number} teachers cannot be. Use 1 to {MOST_TEACHERS}.")
    if recipe.teachers:
        raise BadConfig("The recipe names its teachers. Train some for it or name some, not both.")
    each = min(EACH, TOGETHER / number)
    alone = _with_budget(recipe, each)
    shape = recipe.shape(vocab_size=2)
    alone = changed(alone, {"model.d_model": _narrower(shape)})
    return School(
        teachers=tuple(replace(alone, seed=number * recipe.seed + n) for n in range(number)),
        pupil=changed(_with_budget(recipe, 1.0 - number * each), {"teachers": _NAMES[:number]}),
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

    With `resume` teachers that are done are left as they are. Raises what `pretrain` does, and
    BadConfig where a teacher came to nothing.
    """
    room = folder / FOLDER
    folders = [room / name for name in school.pupil.teachers]
    if resume and not any(map(snapshot.exists, (*folders, folder))):
        snapshot.load(folder)  # says what is missing
    if not resume and not force:
        for one in (folder, *folders):
            place.check_free(one)
    team = gather()
    with place.claimed(room, doing="trains the") if team.rank == 0 else nullcontext():
        if force and team.rank == 0:
            _clear(folder, room)
        team.wait()
        for number, (one, recipe) in enumerate(zip(folders, school.teachers, strict=True), start=1):
            if resume and _is_done(one, recipe):
                continue
            begin(f"Teacher {number} of {len(folders)}")
            result = pretrain(
                recipe, corpus, one, resume=resume and snapshot.exists(one), force=force,
                tell=tell, tell_validation=tell_validation, asked_to_stop=asked_to_stop,
            )  # fmt: skip
            if not result.saved:
                raise BadConfig(f"Teacher {number} came to nothing: {result.verdict}")
            ended(result)
        begin("Training")
        pupil = replace(school.pupil, teachers=tuple(map(str, folders)))
        return pretrain(
            pupil, corpus, folder, resume=resume and snapshot.exists(folder), force=force,
            tell=tell, tell_validation=tell_validation, asked_to_stop=asked_to_stop,
        )  # fmt: skip


def begun(folder: Path) -> Path | None:
    """The last of the pupil's and its teachers' folders with a run that can go on."""
    kept = [folder, *(folder / FOLDER / name for name in reversed(_NAMES))]
    return next(filter(snapshot.exists, kept), None)


def _with_budget(recipe: Recipe, share: float) -> Recipe:
    """The recipe with a share of its budget, of whichever kind."""
    kind, amount = recipe.budget
    if kind == "seconds":
        return replace(recipe, time_budget_s=share * amount)
    part = round(share * amount)
    if not part:
        raise BadConfig(f"{amount:.0f} {kind} are too few to be shared out. Give more of them.")
    return replace(recipe, steps=part) if kind == "steps" else replace(recipe, tokens=part)


def _narrower(shape: HybridConfig) -> int:
    """Channels of a teacher: the widest such network that its heads and groups can divide."""
    most = int(NARROWER * shape.d_model) // ALIGNED * ALIGNED
    for width in range(most, 0, -ALIGNED):
        with suppress(BadConfig):
            return replace(shape, d_model=width).d_model
    return shape.d_model


def _clear(folder: Path, room: Path) -> None:
    """All that an earlier school left: a run that is resumed must not go on with part of it."""
    for one in (folder, *filter(Path.is_dir, map(room.joinpath, _NAMES))):
        with place.claimed(one):
            place.clear(one)


def _is_done(folder: Path, recipe: Recipe) -> bool:
    """Whether a teacher has spent this very budget."""
    if not is_checkpoint(folder):
        return False
    try:
        card = load_card(folder)
    except BadCheckpoint:
        return False
    return bool(card["figures"].get("finished")) and card["recipe"] == recipe.to_dict()
