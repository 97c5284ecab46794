"""One budget for a few small networks and for the one that learns from them."""

import dataclasses
import json
from pathlib import Path

import pytest
from tests.lm.test_pretrain import RECIPE, SHAPE, TEXT, assert_equal, corpus, launched, train

from twin.lm import memory, place, snapshot
from twin.lm.checkpoint import is_checkpoint, load_card
from twin.lm.config import PRESETS
from twin.lm.errors import (
    BadCheckpoint,
    BadConfig,
    BadCorpus,
    KernelUnavailable,
    NotEnoughMemory,
)
from twin.lm.place import TEACHERS as FOLDER
from twin.lm.pretrain import Result
from twin.lm.recipe import Recipe, changed
from twin.lm.schooling import attend, begun, kept, share_out
from twin.lm.stopping import StopRules

SCHOOLED = dataclasses.replace(RECIPE, order="windows", steps=32)
NETWORKS = ["Teacher 1 of 2", "Teacher 2 of 2", "Training"]
FOLDERS = [f"{FOLDER}/teacher-1", f"{FOLDER}/teacher-2", "."]


def school(
    root: Path, name: str, *, number: int = 2, resume: bool = False, force: bool = False,
    stop_in: str = "", begun: list[str] | None = None,
) -> Result:  # fmt: skip
    """`stop_in`: after two steps of whom."""
    heard = [] if begun is None else begun
    left = [False, False]

    def stop() -> bool:
        return bool(heard) and heard[-1] == stop_in and (not left or left.pop())

    return attend(
        share_out(SCHOOLED, number), corpus(root), root / name, resume=resume, force=force,
        begin=heard.append, asked_to_stop=stop,
    )  # fmt: skip


@pytest.mark.parametrize("number", [1, 3, 4, 8, 16])
@pytest.mark.parametrize(
    "budget", [{"time_budget_s": 3600.0}, {"steps": 6400}, {"tokens": 6_400_000}, {}]
)
def test_teachers_and_pupil_together_spend_what_one_network_would(
    number: int, budget: dict[str, float]
) -> None:
    recipe = Recipe.from_dict({"order": "windows", **budget})
    found = share_out(recipe, number)
    kind, amount = recipe.budget
    each = [one.budget for one in (*found.teachers, found.pupil)]
    assert {one for one, _ in each} == {kind}
    assert sum(spent for _, spent in each) == pytest.approx(amount)
    assert found.pupil.budget[1] >= amount / 2
    assert len(found.teachers) == len(found.pupil.teachers) == number


def test_not_a_step_is_lost_or_won_where_the_shares_are_no_whole_numbers() -> None:
    for steps in range(16, 60):
        found = share_out(dataclasses.replace(SCHOOLED, steps=steps), 3)
        assert sum(one.steps for one in (*found.teachers, found.pupil)) == steps


def test_no_two_teachers_are_alike_nor_like_their_pupil() -> None:
    recipe = Recipe(order="windows", steps=1000)
    schools = [share_out(dataclasses.replace(recipe, seed=seed), 3) for seed in range(3)]
    assert len({teacher.seed for school in schools for teacher in school.teachers}) == 9
    for school in schools:
        assert school.pupil.seed not in {teacher.seed for teacher in school.teachers}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_teacher_is_narrower_whatever_has_to_divide_its_width(preset: str) -> None:
    for model in ({}, {"attention_every": 2, "attention_heads": 8}, {"state_norm_groups": 4}):
        recipe = Recipe.from_dict({"order": "windows", "preset": preset, "model": model})
        (teacher,) = share_out(recipe, 1).teachers
        own, pupils = teacher.shape(97), recipe.shape(97)
        assert pupils.d_model / 2 <= own.d_model <= 0.75 * pupils.d_model
        assert dataclasses.replace(own, d_model=pupils.d_model) == pupils


@pytest.mark.parametrize("width", [32, 2_000_000_000])
def test_a_width_that_cannot_be_less_stays(width: int) -> None:
    only = {f"model.{name}": width for name in ("d_model", "head_dim", "mamba_head_dim")}
    recipe = changed(Recipe(order="windows"), only)
    assert share_out(recipe, 1).teachers[0].shape(97).d_model == width


@pytest.mark.parametrize(
    ("changes", "number", "said"),
    [
        ({}, 0, "Use 1 to 16"),
        ({}, 17, "Use 1 to 16"),
        ({"teachers": ("one",)}, 2, "not both"),
        ({"order": "handoff"}, 2, 'order = "windows"'),
        ({"steps": 3}, 2, "too few"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    changes: dict[str, object], number: int, said: str
) -> None:
    recipe = dataclasses.replace(SCHOOLED, **changes)  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match=said):
        share_out(recipe, number)


def test_teachers_are_trained_one_after_another_and_then_who_learns_from_them(
    tmp_path: Path,
) -> None:
    heard: list[str] = []
    result = school(tmp_path, "model", begun=heard)
    assert heard == NETWORKS
    assert (result.step, result.folder) == (24, tmp_path / "model")
    folders = [tmp_path / "model" / folder for folder in FOLDERS]
    assert all(map(is_checkpoint, folders))
    cards = [load_card(folder) for folder in folders]
    assert [card["recipe"]["steps"] for card in cards] == [4, 4, 24]
    assert [card["recipe"]["teachers"] for card in cards] == [[], [], FOLDERS[:2]]
    assert cards[0]["recipe"]["seed"] != cards[1]["recipe"]["seed"]


@pytest.mark.parametrize("number", range(3), ids=NETWORKS)
def test_a_school_that_was_stopped_goes_on_exactly_where_it_was(
    tmp_path: Path, number: int
) -> None:
    school(tmp_path, "through")
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "stopped", stop_in=NETWORKS[number])
    assert begun(tmp_path / "stopped") == tmp_path / "stopped" / FOLDERS[number]
    assert snapshot.load(tmp_path / "stopped" / FOLDERS[number])[1]["step"] == 2
    heard: list[str] = []
    school(tmp_path, "stopped", resume=True, begun=heard)
    assert heard == NETWORKS[number:]
    for folder in FOLDERS:
        assert_equal(tmp_path / "through" / folder, tmp_path / "stopped" / folder)


def test_a_teacher_of_another_budget_or_a_damaged_one_is_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "model", stop_in=NETWORKS[1])
    first = tmp_path / "model" / FOLDERS[0]
    card = json.loads((first / "card.json").read_text())
    (first / "card.json").write_text(json.dumps(card | {"step": 5}))  # no longer its manifest's
    heard: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "model", resume=True, begun=heard, stop_in=NETWORKS[1])
    assert heard == NETWORKS[:2]
    longer = share_out(dataclasses.replace(SCHOOLED, steps=64), 2)
    attend(longer, corpus(tmp_path), tmp_path / "model", resume=True)
    assert [load_card(tmp_path / "model" / folder)["step"] for folder in FOLDERS] == [8, 8, 48]


def test_who_has_begun_to_learn_keeps_its_teachers_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "model", stop_in=NETWORKS[2])
    heard: list[str] = []
    longer = share_out(dataclasses.replace(SCHOOLED, steps=64), 2)
    attend(longer, corpus(tmp_path), tmp_path / "model", resume=True, begin=heard.append)
    assert heard == NETWORKS[2:]
    assert [load_card(tmp_path / "model" / folder)["step"] for folder in FOLDERS] == [4, 4, 48]


def test_a_teacher_that_a_stop_rule_ended_teaches_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = iter(["enough"])
    monkeypatch.setattr(StopRules, "good_step", lambda *args: next(stops, None))
    heard: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "model", stop_in=NETWORKS[1], begun=heard)
    assert load_card(tmp_path / "model" / FOLDERS[0])["step"] == 1
    assert school(tmp_path, "model", resume=True, begun=heard).finished
    assert heard == [*NETWORKS[:2], *NETWORKS[1:]]


def test_another_text_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "model", stop_in=NETWORKS[1])
    other = corpus(tmp_path, TEXT.replace("cat", "cow"))
    with pytest.raises(BadCheckpoint, match="another text"):
        attend(share_out(SCHOOLED, 2), other, tmp_path / "model", resume=True)


def test_a_model_remembers_what_it_shared_out(tmp_path: Path) -> None:
    assert kept(tmp_path / "model") is None
    school(tmp_path, "model")
    assert kept(tmp_path / "model") == (SCHOOLED, 2)
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    assert attend(share_out(SCHOOLED, 2), corpus(tmp_path), moved, resume=True).step == 24
    for text in ("{", "[]", '{"recipe": {"droput": 1}, "teachers": 2, "corpus": ""}'):
        (moved / place.SCHOOL).write_text(text)
        with pytest.raises(BadCheckpoint, match="--force"):
            kept(moved)


def test_force_leaves_nothing_of_an_earlier_school(tmp_path: Path) -> None:
    """Else a run that is resumed would go on with part of it."""
    school(tmp_path, "model", number=3)
    with pytest.raises(BadConfig, match="--force"):
        school(tmp_path, "model")
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "model", force=True, stop_in=NETWORKS[0])
    left = [f for f in (*FOLDERS, f"{FOLDER}/teacher-3") if snapshot.exists(tmp_path / "model" / f)]
    assert left == FOLDERS[:1]
    assert not is_checkpoint(tmp_path / "model")


def test_what_is_refused_is_refused_before_anything_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    school(tmp_path, "model")
    text = corpus(tmp_path)

    def forced(**changes: object) -> None:
        recipe = dataclasses.replace(SCHOOLED, **changes)  # type: ignore[arg-type]
        attend(share_out(recipe, 2), text, tmp_path / "model", force=True)

    with pytest.raises(KernelUnavailable):
        forced(kernels="magic")
    with pytest.raises(BadCorpus):
        forced(batch=9999)
    needed = memory.training_bytes(
        memory.Step(config=SCHOOLED.shape(text.tokenizer.vocab_size), batch=4, window=16)
    )
    monkeypatch.setattr(memory, "available_bytes", lambda: needed + 1000)
    with pytest.raises(NotEnoughMemory):  # the pupil alone would fit
        forced()
    assert all(is_checkpoint(tmp_path / "model" / folder) for folder in FOLDERS)


def test_a_run_that_stands_in_the_way_is_told_of_before_anything_is_trained(tmp_path: Path) -> None:
    train(tmp_path, "model", steps=1, order="windows")
    with pytest.raises(BadConfig, match="there already"):
        school(tmp_path, "model")
    with pytest.raises(BadConfig, match="begun without teachers"):
        school(tmp_path, "model", resume=True)
    assert not (tmp_path / "model" / FOLDER).exists()
    with pytest.raises(BadCheckpoint, match="to continue from"):
        school(tmp_path, "other", resume=True)
    assert not (tmp_path / "other").exists()
    with pytest.raises(KeyboardInterrupt):
        school(tmp_path, "third", stop_in=NETWORKS[0])
    with pytest.raises(BadConfig, match="there already"):
        train(tmp_path, "third", steps=1)


def test_two_at_once_do_not_train_under_one_name(tmp_path: Path) -> None:
    with place.claimed(tmp_path / "model"), pytest.raises(BadConfig, match="at this moment"):
        school(tmp_path, "model", force=True)


def test_a_teacher_that_came_to_nothing_ends_the_school(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SCHOOLED, matrix_lr=1e30, lr=1e30, clip=0.0)
    result = attend(share_out(recipe, 2), corpus(tmp_path), tmp_path / "model")
    assert result.verdict.startswith("Teacher 1: ")
    assert not result.finished
    assert not result.saved


TEAM = """
import dataclasses, sys
from pathlib import Path
from tests.lm.test_pretrain import prepared, SHAPE
from tests.lm.test_schooling import SCHOOLED
from twin.lm.schooling import attend, share_out
root = Path(sys.argv[1])
recipe = dataclasses.replace(SCHOOLED, model=SHAPE | {"dropout": 0.0})
attend(share_out(recipe, 2), prepared(root), root / "team")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["", "true"])
def test_two_processes_school_as_one_does(tmp_path: Path, sharing: str) -> None:
    """None reads a teacher before the first process has written it."""
    recipe = dataclasses.replace(SCHOOLED, model=SHAPE | {"dropout": 0.0})
    alone = attend(share_out(recipe, 2), corpus(tmp_path), tmp_path / "alone")
    done = launched(tmp_path, script=TEAM, ACCELERATE_USE_FSDP=sharing)
    assert not done.returncode, done.stderr
    for folder in FOLDERS:
        assert is_checkpoint(tmp_path / "team" / folder)
    card = load_card(tmp_path / "team")
    assert card["step"] == alone.step
    assert card["figures"]["validation"] == pytest.approx(alone.validation, abs=5e-3)
