"""A network is trained, interrupted, continued exactly, and stopped for what cannot go on."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from twin.lm import memory, place, snapshot
from twin.lm import pretrain as training
from twin.lm.checkpoint import is_checkpoint, load_model
from twin.lm.corpus import Corpus, Wanted, prepare
from twin.lm.documents import TextFiles
from twin.lm.errors import BadCheckpoint, BadConfig, BadCorpus, NotEnoughMemory
from twin.lm.evaluate import Evaluation, evaluate
from twin.lm.kernels.chunked import Chunked
from twin.lm.pretrain import Result, Run, Status, pretrain, saved_recipe
from twin.lm.recipe import Recipe

SHAPE = {
    "d_model": 32, "n_layers": 2, "head_dim": 16, "mamba_head_dim": 16, "d_state": 8,
    "decay_rank": 16, "dropout": 0.1,
}  # fmt: skip
RECIPE = Recipe(
    preset="3.5M", model=SHAPE, kernels="chunked", precision="fp32", tokenizer="char", batch=4,
    window=16, steps=20, warmup=0.1, validate_every_s=-1, checkpoint_every_s=0, seed=3, threads=1,
)  # fmt: skip
TEXT = "the cat sat on the mat, the dog ran after the cat; " * 60


def corpus(tmp_path: Path, text: str = TEXT) -> Corpus:
    (tmp_path / "text.txt").write_text(text)
    return prepared(tmp_path)


def prepared(tmp_path: Path) -> Corpus:
    """Of the text that is there: what processes that begin together write anew, one of them reads
    while it is empty."""
    wanted = Wanted(kind="char", control_tokens=False)
    return prepare(TextFiles(paths=[tmp_path / "text.txt"]), wanted, tmp_path / "cache")


def train(
    tmp_path: Path, name: str = "model", *, resume: bool = False, force: bool = False,
    **changes: object,
) -> Result:  # fmt: skip
    recipe = dataclasses.replace(RECIPE, **changes)  # type: ignore[arg-type]
    return pretrain(recipe, corpus(tmp_path), tmp_path / name, resume=resume, force=force)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the run's last step, not of the average."""
    tensors, _ = snapshot.load(folder)
    return {n: t for n, t in tensors.items() if n.startswith(("model.", "average.", "optimizer."))}


def assert_equal(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def test_a_run_learns_and_leaves_a_model_its_figures_and_a_picture(tmp_path: Path) -> None:
    told: list[Status] = []
    recipe = dataclasses.replace(RECIPE, steps=60)
    result = pretrain(recipe, corpus(tmp_path), tmp_path / "model", tell=told.append)
    assert result.finished
    assert (result.step, result.tokens) == (60, 60 * 64)
    assert result.validation < told[0].loss < math.log(20)
    assert result.bits_per_byte == pytest.approx(result.validation / math.log(2))
    assert [status.step for status in told] == [10, 20, 30, 40, 50, 60]
    assert told[-1].gradient_ratio is not None
    model, tokenizer, card = load_model(tmp_path / "model", kernels="chunked")
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert card["figures"]["validation"] == result.validation
    assert model.config.dropout == 0.1
    assert (tmp_path / "model" / "metrics.png").is_file()


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path, name, seed=seed, steps=4)
    assert_equal(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_equal(tmp_path / "a", tmp_path / "c")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.lm.test_pretrain import corpus, RECIPE
from twin.lm.pretrain import pretrain
import dataclasses
root, order = Path(sys.argv[1]), sys.argv[2]
recipe = dataclasses.replace(RECIPE, checkpoint_every_s=1e-9, order=order)
pretrain(recipe, corpus(root), root / "killed", tell=lambda s: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["handoff", "windows"])
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    order: str, tmp_path: Path
) -> None:
    train(tmp_path, "straight", order=order)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), order],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    _, rest = snapshot.load(tmp_path / "killed")
    assert 0 < rest["step"] < 20
    result = train(tmp_path, "killed", resume=True, order=order)
    assert result.step == 20
    assert_equal(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_a_checkpoint_that_is_whole(tmp_path: Path) -> None:
    script = KILLED.replace("tell=lambda s: os.kill(os.getpid(), signal.SIGKILL)", "").replace(
        "checkpoint_every_s=1e-9", "checkpoint_every_s=1e-9, steps=100_000"
    )
    for pause in (0.0, 0.05, 0.13):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), "handoff"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
        while not snapshot.exists(tmp_path / "killed"):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(pause)
        process.kill()
        process.wait()
        _, rest = snapshot.load(tmp_path / "killed")
        assert rest["step"] > 0
        (tmp_path / "killed" / snapshot.NAME).unlink()


@pytest.mark.slow
def test_a_time_budget_counts_what_was_spent_before_an_interruption(tmp_path: Path) -> None:
    result = train(tmp_path, steps=0, time_budget_s=0.6)
    assert result.finished
    assert result.seconds >= 0.6
    tensors, rest = snapshot.load(tmp_path / "model")
    snapshot.save(tmp_path / "model", tensors, rest | {"seconds": 0.3})
    again = train(tmp_path, resume=True, steps=0, time_budget_s=0.6)
    assert again.step > result.step
    assert again.seconds >= 0.6
    finished = train(tmp_path, resume=True, steps=0, time_budget_s=0.6)
    assert finished.step == again.step


def test_a_run_goes_on_only_with_its_own_text_and_shape(tmp_path: Path) -> None:
    train(tmp_path, steps=2)
    assert saved_recipe(tmp_path / "model").steps == 2
    with pytest.raises(BadCheckpoint, match="another text"):
        pretrain(RECIPE, corpus(tmp_path, TEXT * 2), tmp_path / "model", resume=True)
    with pytest.raises(BadCheckpoint, match="another shape"):
        train(tmp_path, resume=True, model=SHAPE | {"d_model": 64})
    with pytest.raises(BadCheckpoint, match="seed"):
        train(tmp_path, resume=True, seed=9)
    with pytest.raises(BadCheckpoint, match="to continue from"):
        train(tmp_path, "elsewhere", resume=True)


@pytest.mark.slow
def test_what_is_there_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    train(tmp_path, steps=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(BadConfig, match=r"--resume.*--force"):
        train(tmp_path, steps=3)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    (tmp_path / "model" / "manifest.json").unlink()  # a run alone is worth as much
    with pytest.raises(BadConfig, match=r"--resume.*--force"):
        train(tmp_path, steps=3)
    assert train(tmp_path, steps=3, force=True).step == 3


def test_one_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        place.claimed(tmp_path / "model"),
        pytest.raises(BadConfig, match="Another process trains model"),
    ):
        train(tmp_path, steps=2)
    assert not snapshot.exists(tmp_path / "model")
    assert train(tmp_path, steps=2).finished


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_is_saved_at_that_step(tmp_path: Path) -> None:
    asked = iter([False, False, False, True])
    with pytest.raises(KeyboardInterrupt):
        pretrain(RECIPE, corpus(tmp_path), tmp_path / "model", asked_to_stop=lambda: next(asked))
    assert snapshot.load(tmp_path / "model")[1]["step"] == 3
    train(tmp_path, resume=True)
    train(tmp_path, "straight")
    assert_equal(tmp_path / "straight", tmp_path / "model")


def test_the_last_validation_can_be_interrupted_and_made_up_for(tmp_path: Path) -> None:
    asked = iter([False] * 20)
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            RECIPE, corpus(tmp_path), tmp_path / "model", asked_to_stop=lambda: next(asked, True)
        )
    assert snapshot.load(tmp_path / "model")[1]["step"] == 20
    result = train(tmp_path, resume=True)
    assert (result.step, result.saved) == (20, True)


def test_the_first_step_is_saved_though_a_checkpoint_is_far_away(tmp_path: Path) -> None:
    def told(status: Status) -> None:
        raise RuntimeError("killed")

    recipe = dataclasses.replace(RECIPE, checkpoint_every_s=1e6)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(recipe, corpus(tmp_path), tmp_path / "model", tell=told)
    assert snapshot.load(tmp_path / "model")[1]["step"] == 1


class Faulty(Chunked):
    """Kernels that give NaN in some forward passes with a gradient, for once or for good."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last, self.calls = first, last, 0

    def relu2(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.calls += 1
            if self.first <= (self.calls + 1) // 2 <= self.last:  # two layers call it once each
                return x * float("nan")
        return super().relu2(x)


def test_a_step_that_is_no_number_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    result = pretrain(RECIPE, corpus(tmp_path), tmp_path / "model", kernels=Faulty(7, 8))
    assert result.finished
    assert result.step == 20
    assert math.isfinite(result.validation)


def test_three_steps_that_are_no_numbers_end_the_run_with_the_last_good_model(
    tmp_path: Path,
) -> None:
    result = pretrain(RECIPE, corpus(tmp_path), tmp_path / "model", kernels=Faulty(7, 99))
    assert not result.finished
    assert "no number" in result.verdict
    assert 0 < result.step < 20
    load_model(tmp_path / "model", kernels="chunked")
    assert snapshot.load(tmp_path / "model")[1]["step"] == result.step


def test_a_text_shorter_than_a_batch_and_too_little_memory_are_told_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadCorpus, match="--window"):
        train(tmp_path, batch=64, window=1024)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    with pytest.raises(NotEnoughMemory, match="GiB"):
        train(tmp_path)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw"},
        {"stages": ((0.5, 8),)},
        {"order": "windows", "ema": 0.0},
        {"blocks": "heads", "newton_steps": 3, "schedule": "wsd"},
        {"model": SHAPE | {"attention_every": 2}},
        {"model": SHAPE | {"pathways": "mamba", "trainable_h0": True}},
        {"model": SHAPE | {"fusion": "MINGRU", "pathway_dropout": 0.1, "token_shift": "static"}},
        {"validate_every_s": 1e-9},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_trains(options: dict[str, object], tmp_path: Path) -> None:
    result = train(tmp_path, steps=6, **options)
    assert result.finished
    assert math.isfinite(result.validation_carried)


def test_validations_are_in_the_metrics_and_the_best_model_is_kept(tmp_path: Path) -> None:
    train(tmp_path, steps=5, validate_every_s=1e-9)
    lines = [
        json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()
    ]
    validations = [line["val"] for line in lines if "val" in line]
    assert len(validations) == 5
    _, _, card = load_model(tmp_path / "model", kernels="chunked")
    assert card["figures"]["validation"] <= min(validations) + 1e-6


def test_validations_look_at_a_part_that_fits_and_the_last_at_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(*given: object, windows: int = 0, **options: object) -> object:
        seen.append(windows)
        return evaluate(*given, windows=windows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "evaluate", watched)
    monkeypatch.setattr(training, "MAX_VALIDATION_SHARE", 1e-12)
    told: list[tuple[int, int]] = []
    recipe = dataclasses.replace(RECIPE, steps=3, validate_every_s=1e-9)
    result = pretrain(
        recipe, corpus(tmp_path), tmp_path / "model",
        tell_validation=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert seen == [1, 8, 8, 8, 8, 8, 8, 0, 0]
    assert told[-1] == (305, 305)
    assert result.tokens_per_s > result.tokens / result.seconds
    model, _, card = load_model(tmp_path / "model", kernels="chunked")
    whole = evaluate(model, corpus(tmp_path).held_out.tokens, window=16, precision="fp32")
    assert result.validation == pytest.approx(whole.nats_per_token, abs=1e-5)
    assert card["figures"]["validation"] == result.validation


def test_figures_are_those_of_the_model_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worsening(run: Run, *, windows: int = 0, **options: object) -> Evaluation:
        found = Run._evaluate(run, windows=windows, **options)  # type: ignore[arg-type]
        late = run.step > 1 and run._kept_at is None
        return dataclasses.replace(found, nats_per_token=found.nats_per_token + 9.0 * late)

    class Worsening(Run):
        _evaluate = worsening

    monkeypatch.setattr(training, "Run", Worsening)
    result = train(tmp_path, steps=4, validate_every_s=1e-9, stop_early=False)
    assert (result.step, result.model_step, result.saved) == (4, 1, True)
    model, _, card = load_model(tmp_path / "model", kernels="chunked")
    whole = evaluate(model, corpus(tmp_path).held_out.tokens, window=16, precision="fp32")
    assert result.validation == pytest.approx(whole.nats_per_token, abs=1e-5)
    assert (card["step"], card["tokens"]) == (1, 64)
    assert card["figures"]["validation"] == result.validation
    assert snapshot.load(tmp_path / "model")[1]["step"] == 4


def test_a_run_without_one_good_step_says_so_and_its_files_are_json(tmp_path: Path) -> None:
    result = pretrain(RECIPE, corpus(tmp_path), tmp_path / "model", kernels=Faulty(1, 99))
    assert "3 steps in a row" in result.verdict
    _, _, card = load_model(tmp_path / "model", kernels="chunked")
    assert card["figures"]["train_loss"] is None


def test_where_nothing_is_a_number_no_model_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chunked, "relu2", lambda self, x: x * float("nan"))
    result = train(tmp_path)
    assert "3 steps in a row" in result.verdict
    assert result.verdict.endswith("No model was saved.")
    assert not result.saved
    assert not is_checkpoint(tmp_path / "model")


class Second:
    """Stands for the second of two processes: it is told what the first one measured."""

    rank, world, sharing, device = 0, 1, 1, torch.device("cpu")

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def first(self, value: float) -> float:
        return self.numbers.pop(0) if self.numbers else value

    def mean(self, value: float) -> float:
        return value

    def share(self, model: torch.nn.Module) -> None:
        return

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        return model

    def total(self, parts: torch.Tensor) -> torch.Tensor:
        return parts

    def wait(self) -> None:
        return


def test_processes_judge_a_validation_by_what_the_first_one_found(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    run = Run(RECIPE, text, tmp_path / "model", team=Second(1.25, 0.1, 7.0))
    assert "one direction" in run._validate()
    assert (run.validation, run.entropy, run._validation_s) == (1.25, 0.1, 7.0)


TEAM = """
import dataclasses, sys
from pathlib import Path
from tests.lm.test_pretrain import prepared, RECIPE, SHAPE
from twin.lm import pretrain as training, shards
root = Path(sys.argv[1])

class Watched(training.Run):
    def save(self, seconds=None):
        parts = [t for _, t in self.optimizers.tensors()] + self.average.weights
        held, every = (sum(size(t).numel() for t in parts) for size in (shards.own, lambda t: t))
        (root / f"held{self.team.rank}").write_text(f"{held} {every}")
        super().save(seconds)

training.Run = Watched
name, order, steps = sys.argv[2:5]
recipe = dataclasses.replace(
    RECIPE, model=SHAPE | {"dropout": 0.0}, order=order, steps=12, checkpoint_every_s=1
)
left = iter(range(int(steps)))
try:
    training.pretrain(recipe, prepared(root), root / name, resume=(root / name).exists(),
                      asked_to_stop=lambda: next(left, None) is None)
except KeyboardInterrupt:
    pass
"""


def launched(
    root: Path, name: str = "team", order: str = "handoff", stop_after: int = 99, *,
    script: str = TEAM, **environ: str,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    (root / "text.txt").write_text(TEXT)
    (root / "team.py").write_text(script)
    # `accelerate launch --cpu` starts one process, whatever number it is told.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch += [str(root / "team.py"), str(root)]
    own = {"PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(
        [*launch, name, order, str(stop_after)], env={**os.environ, **own},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["", "true"])
def test_two_processes_learn_what_one_learns(tmp_path: Path, sharing: str) -> None:
    """Without dropout the mean of two halves' gradients is the gradient of the whole batch, whether
    each process has all weights or its share of them."""
    alone = train(tmp_path, "alone", model=SHAPE | {"dropout": 0.0}, steps=12)
    done = launched(tmp_path, ACCELERATE_USE_FSDP=sharing)
    assert not done.returncode, done.stderr
    ours, theirs = weights(tmp_path / "alone"), weights(tmp_path / "team")
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=2e-3), name
    _, _, card = load_model(tmp_path / "team", kernels="chunked")
    assert card["figures"]["tokens"] == alone.tokens
    for rank in range(2):
        held, every = map(int, (tmp_path / f"held{rank}").read_text().split())
        assert held < 0.6 * every if sharing else held == every


@pytest.mark.slow
def test_processes_that_share_the_weights_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    """Windows drawn by chance carry no state over, so that not a bit differs."""
    for name, stops in (("through", (99,)), ("stopped", (5, 99))):
        for stop in stops:
            done = launched(tmp_path, name, "windows", stop, ACCELERATE_USE_FSDP="true")
            assert not done.returncode, done.stderr
            assert snapshot.load(tmp_path / name)[1]["step"] == min(stop, 12)
    ours, theirs = weights(tmp_path / "through"), weights(tmp_path / "stopped")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused_before_the_first_step(tmp_path: Path) -> None:
    done = launched(tmp_path, ACCELERATE_USE_FSDP="true", FSDP_OFFLOAD_PARAMS="true")
    assert done.returncode
    assert "`--fsdp_offload_params` is not supported here" in done.stderr
    assert not (tmp_path / "team").exists()
