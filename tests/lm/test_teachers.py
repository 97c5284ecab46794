"""A network learns from others what they expect, beside the text."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.lm.test_pretrain import RECIPE, assert_equal, corpus, train

from twin.lm.checkpoint import load_model
from twin.lm.corpus import Wanted, prepare
from twin.lm.documents import TextFiles
from twin.lm.errors import BadCheckpoint, BadConfig
from twin.lm.kernels.registry import choose
from twin.lm.pretrain import Result, Run, pretrain, saved_recipe
from twin.lm.teachers import Teachers
from twin.lm.tokenizer import ByteTokenizer

CPU = torch.device("cpu")


def taught(root: Path, name: str, *teachers: str, **changes: object) -> Result:
    folders = tuple(str(root / teacher) for teacher in teachers)
    return train(root, name, order="windows", teachers=folders, **changes)


def test_the_target_is_a_share_of_what_all_teachers_expect_and_the_rest_of_what_follows(
    tmp_path: Path,
) -> None:
    for seed, name in enumerate(("one", "other")):
        train(tmp_path, name, seed=seed, steps=2)
    text = corpus(tmp_path)
    folders = [tmp_path / "one", tmp_path / "other"]
    kernels = choose("chunked")
    teachers = Teachers(folders, text, kernels=kernels, device=CPU)
    window = torch.from_numpy(text.train.tokens[:34].astype("int64")).view(2, 17)
    now, after = window[:, :-1], window[:, 1:]
    found = teachers.targets(now, after, 0.75)
    models = [load_model(folder, kernels=kernels)[0] for folder in folders]
    expected = sum(model(now)[0].softmax(-1) for model in models) / 2
    truth = torch.nn.functional.one_hot(after, text.tokenizer.vocab_size)
    torch.testing.assert_close(found, 0.75 * expected + 0.25 * truth)
    assert not found.requires_grad
    assert torch.equal(teachers.targets(now, after, 0.0), truth.float())


def test_a_pupil_comes_nearer_to_its_teacher_than_who_has_none(tmp_path: Path) -> None:
    train(tmp_path, "teacher", steps=60)
    taught(tmp_path, "alone", steps=60, seed=9)
    taught(tmp_path, "pupil", "teacher", steps=60, seed=9, teaching=1.0)
    text = corpus(tmp_path)
    window = torch.from_numpy(text.held_out.tokens[:129].astype("int64")).view(1, -1)

    def expectation(name: str) -> torch.Tensor:
        model, _, _ = load_model(tmp_path / name, kernels="chunked")
        with torch.no_grad():
            return model(window)[0].log_softmax(-1)

    def distance(name: str) -> float:
        teacher = expectation("teacher")
        return float((teacher.exp() * (teacher - expectation(name))).sum(-1).mean())

    assert distance("pupil") < 0.8 * distance("alone")


@pytest.mark.slow
def test_a_taught_run_goes_on_exactly_where_it_was_stopped(tmp_path: Path) -> None:
    train(tmp_path, "teacher", steps=4)
    taught(tmp_path, "through", "teacher", steps=8)
    recipe = dataclasses.replace(
        RECIPE, order="windows", teachers=(str(tmp_path / "teacher"),), steps=8
    )
    asked = iter([False] * 3)
    run = Run(recipe, corpus(tmp_path), tmp_path / "stopped")
    run.asked_to_stop = lambda: next(asked, True)
    with pytest.raises(KeyboardInterrupt):
        run.go(lambda status: None)
    assert saved_recipe(tmp_path / "stopped").teachers == recipe.teachers
    train(tmp_path, "stopped", resume=True, order="windows", teachers=recipe.teachers, steps=8)
    assert_equal(tmp_path / "through", tmp_path / "stopped")


def test_who_may_know_the_held_out_part_already_is_warned_of(tmp_path: Path) -> None:
    train(tmp_path, "teacher", steps=1)
    assert not taught(tmp_path, "pupil", "teacher", steps=1).warnings
    wanted = Wanted(kind="char", control_tokens=False)
    source = TextFiles(paths=[tmp_path / "text.txt"])
    more_held_out = prepare(source, wanted, tmp_path / "cache", held_out=0.3)
    recipe = dataclasses.replace(
        RECIPE, order="windows", teachers=(str(tmp_path / "teacher"),), steps=1
    )
    (warning,) = pretrain(recipe, more_held_out, tmp_path / "other").warnings
    assert "teacher" in warning
    assert "would flatter" in warning


def test_a_teacher_of_other_tokens_or_none_at_all_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    train(tmp_path, "teacher", steps=1)
    in_bytes = dataclasses.replace(corpus(tmp_path), tokenizer=ByteTokenizer())
    with pytest.raises(BadConfig, match="other tokens"):
        Teachers([tmp_path / "teacher"], in_bytes, kernels=choose("chunked"), device=CPU)
    with pytest.raises(BadCheckpoint, match="nobody"):
        taught(tmp_path, "pupil", "nobody")
    assert not (tmp_path / "pupil").exists()
